"""Signs what is exported straight to X-Ray's OTLP endpoint, without a collector in between.

Source: CloudWatch User Guide, "OpenTelemetry Protocol (OTLP) endpoint": `https://xray.<region>.amazonaws.com/v1/traces`,
signed with Signature Version 4 for the service `xray`.
"""

from __future__ import annotations

import re
from typing import Final

import requests
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.session import get_session
from requests.auth import AuthBase

XRAY: Final = re.compile(r"https://xray\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?/.*")


class _Signed(AuthBase):
    """Signs each request with the process's credentials; they are fetched anew as they run out, by the SDK."""

    def __init__(self, region: str) -> None:
        self._region = region
        self._credentials = get_session().get_credentials()

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._credentials is None:
            # Sent as it is: X-Ray's answer says what is missing, in the SDK's log.
            return request
        content_type = {"Content-Type": str(request.headers["Content-Type"])}
        signed = AWSRequest(request.method, request.url, headers=content_type, data=request.body or b"")
        SigV4Auth(self._credentials.get_frozen_credentials(), "xray", self._region).add_auth(signed)
        request.headers.update({name: str(value) for name, value in signed.headers.items()})
        return request


def signed_session(url: str) -> requests.Session | None:
    """Return what sends signed requests to that endpoint; `None` where it is not X-Ray's. Blocks for a moment."""
    found = XRAY.fullmatch(url)
    if found is None:
        return None
    session = requests.Session()
    session.auth = _Signed(found["region"])
    return session
