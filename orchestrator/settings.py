"""Every setting, read once from the environment at start. A bad one stops the start with one line that names it.

The names are the contract's. A new setting needs a default that suits the smallest container, and a line in
`docs/settings.md`.
"""

from __future__ import annotations

import json
import os
import re
from base64 import b64decode
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from orchestrator.errors import SettingsError
from orchestrator.session.budget import caps_of, spec_of

ENV_PREFIX: Final = "ORCHESTRATOR_"
WEBHOOK_SECRET_PREFIX: Final = "whsec_"
WEBHOOK_SECRET_BYTES: Final = range(24, 65)
"""Standard Webhooks, "Signature scheme": between 24 and 64 bytes."""
LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
TOPIC_ARN: Final = re.compile(r"arn:[\w-]+:sns:(?P<region>[\w-]+):\d{12}:[\w-]{1,256}")
"""Of a standard topic (SNS, "CreateTopic"): a FIFO topic wants a group for every message, and sends no mail."""
QUEUE_HOST: Final = re.compile(r"sqs\.(?P<region>[\w-]+)\.")
NO_PUBLIC_URL: Final = "not an address such as https://agents.example.com"
COMMAND_VARIABLES: Final = frozenset({"ORCHESTRATOR_CALLBACK_TOKEN"})
"""What commands read that is no setting of a process."""
KEY_ARN_PATTERN: Final = re.compile(r"arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:(key|alias)/[A-Za-z0-9/_-]+")
_CONTAINER_MARKERS: Final = ("/.dockerenv", "/run/.containerenv")


def _default_host() -> str:
    """Return all interfaces inside a container, loopback elsewhere: a laptop must not open a port to its network."""
    in_container = "ECS_CONTAINER_METADATA_URI_V4" in os.environ or any(Path(p).exists() for p in _CONTAINER_MARKERS)
    return "0.0.0.0" if in_container else "127.0.0.1"


class Settings(BaseSettings):
    """The settings of one process; durations in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="ignore")

    app: str | None = None
    queue: str = Field(default="orchestrator-sessions", min_length=1)
    table: str = Field(default="orchestrator", min_length=3)
    bucket: str = Field(default="orchestrator-artifacts", min_length=3)
    event_bus: str = Field(default="orchestrator", max_length=1_600)
    approval_topic_arn: str | None = None
    webhook_url: str | None = None
    webhook_secret: SecretStr | None = None
    task_heartbeat_seconds: float | None = Field(default=None, ge=1, le=86_400)
    public_url: str | None = None
    host: str = Field(default_factory=_default_host, min_length=1)
    port: int = Field(default=8080, ge=0, le=65_535)
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    max_sessions: int = Field(default=1_000, ge=1, le=1_000_000)
    heartbeat_seconds: float = Field(default=5.0, gt=0, le=3_600)
    node_timeout_seconds: float = Field(default=15.0, gt=0, le=86_400)
    drain_seconds: float = Field(default=100.0, ge=0, le=3_600)
    passivate_after_seconds: float = Field(default=30.0, ge=0)
    inline_limit_bytes: int = Field(default=204_800, ge=1_024, le=250_000)
    payload_key_arn: str | None = None
    retention_days: int = Field(default=90, ge=1, le=3_650)
    tenant_limit: int = Field(default=0, ge=0)
    tenant_budget: Annotated[dict[str, Any] | None, NoDecode] = None
    session_budget: Annotated[dict[str, Any] | None, NoDecode] = None
    max_fruitless_resumes: int = Field(default=5, ge=1)
    stuck_after_factor: float = Field(default=10.0, ge=1, le=1_000_000)
    stuck_after_seconds: float = Field(default=300.0, ge=1, le=31_536_000)
    log_format: Literal["json", "console"] | None = None

    @field_validator("api_keys", mode="before")
    @classmethod
    def _split_keys(cls, value: object) -> object:
        """Accept the keys as one comma-separated variable."""
        if not isinstance(value, str) or not value:
            return value or ()
        keys = tuple(key.strip() for key in value.split(",") if key.strip())
        if not keys:
            raise ValueError("set, but without any key: the endpoints would stand open")
        if any(not key.isprintable() or not key.isascii() for key in keys):
            raise ValueError("a key holds characters that no Authorization header carries; use printable ASCII")
        return keys

    @field_validator("approval_topic_arn")
    @classmethod
    def _check_topic(cls, arn: str | None) -> str | None:
        """Accept what an approval can be published to."""
        if arn and not TOPIC_ARN.fullmatch(arn):
            raise ValueError("not the ARN of a standard SNS topic (arn:aws:sns:REGION:ACCOUNT:NAME)")
        return arn or None

    @field_validator("public_url")
    @classmethod
    def _check_public_url(cls, url: str | None) -> str | None:
        """Accept what a link to a callback can begin with."""
        if not url:
            return None
        try:
            parts = urlsplit(url)
            is_place = bool(parts.hostname) and parts.port != 0 and not parts.query and not parts.fragment
        except ValueError:
            raise ValueError(NO_PUBLIC_URL) from None
        if not is_place or parts.scheme not in {"https", "http"}:
            raise ValueError(NO_PUBLIC_URL)
        return url

    @field_validator("webhook_url")
    @classmethod
    def _check_url(cls, url: str | None) -> str | None:
        """Accept what a signed notice may be sent to: nobody on the way may read it."""
        if not url:
            return None
        try:
            parts = urlsplit(url)
            has_place = bool(parts.hostname) and parts.port != 0
        except ValueError:
            raise ValueError("not an https address") from None
        if not has_place or parts.scheme not in {"https", "http"}:
            raise ValueError("not an https address")
        if parts.scheme == "http" and parts.hostname not in LOOPBACK:
            raise ValueError("must be https, unless it leads to this machine")
        return url

    @field_validator("payload_key_arn")
    @classmethod
    def _check_key(cls, arn: str | None) -> str | None:
        """Accept the ARN of a key: a mistyped one must not be found out by the first session."""
        if arn and KEY_ARN_PATTERN.fullmatch(arn) is None:
            raise ValueError("not the ARN of a KMS key or alias (arn:aws:kms:REGION:ACCOUNT:key/ID)")
        return arn or None

    @field_validator("webhook_secret")
    @classmethod
    def _check_secret(cls, secret: SecretStr | None) -> SecretStr | None:
        """Accept what a notice can be signed with."""
        text = "" if secret is None else secret.get_secret_value().removeprefix(WEBHOOK_SECRET_PREFIX)
        try:
            key = b64decode(text + "=" * (-len(text) % 4), validate=True)
        except ValueError:
            key = b""
        if text and len(key) not in WEBHOOK_SECRET_BYTES:
            raise ValueError(f"expected {WEBHOOK_SECRET_PREFIX} and 24 to 64 bytes in base64 (openssl rand -base64 32)")
        return secret if text else None

    @field_validator("tenant_budget", mode="before")
    @classmethod
    def _caps(cls, value: object) -> object:
        """Accept the caps of every tenant as one JSON object."""
        return None if value in {None, ""} else caps_of(_fields_of(value))

    @field_validator("session_budget", mode="before")
    @classmethod
    def _budget(cls, value: object) -> object:
        """Accept a budget as one JSON object, its durations in seconds; nothing is no budget."""
        return None if value in {None, ""} else spec_of(_fields_of(value))

    @property
    def queue_name(self) -> str:
        """The queue's name, whether the setting gives a name or a URL."""
        return self.queue.rstrip("/").rsplit("/", 1)[-1]

    @property
    def dead_letter_queue_name(self) -> str:
        """The name of the queue that takes what can never succeed."""
        return f"{self.queue_name}-dlq"


def _fields_of(value: object) -> dict[str, object]:
    """Return the fields of a JSON object. Raises `ValueError` for anything else."""
    try:
        fields = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise ValueError('a JSON object is needed, such as {"tokens": 1000000}')
    return fields


def load() -> Settings:
    """Return the settings of this environment.

    Raises:
        SettingsError: a variable is wrong; its text names the variable and what was expected, on one line.
    """
    try:
        settings = Settings()
    except ValidationError as invalid:
        first = invalid.errors(include_url=False, include_input=False)[0]
        name = f"{ENV_PREFIX}{'_'.join(str(part) for part in first['loc'][:1])}".upper()
        raise SettingsError(f"{name}: {first['msg'].removeprefix('Value error, ')}") from None
    if settings.node_timeout_seconds < 2 * settings.heartbeat_seconds:
        raise SettingsError(
            f"{ENV_PREFIX}NODE_TIMEOUT_SECONDS: must be at least twice {ENV_PREFIX}HEARTBEAT_SECONDS "
            f"({settings.heartbeat_seconds:g}), or one late beat makes a living node look dead"
        )
    if (settings.webhook_url is None) is not (settings.webhook_secret is None):
        missing = "SECRET" if settings.webhook_secret is None else "URL"
        raise SettingsError(f"{ENV_PREFIX}WEBHOOK_{missing}: missing; webhooks need an address and a secret")
    _check_regions(settings)
    return settings


def _check_regions(settings: Settings) -> None:
    """Raise `SettingsError` for what lies in another region than the one that is worked in."""
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    named = {
        "QUEUE": QUEUE_HOST.match(urlsplit(settings.queue).hostname or "") if "://" in settings.queue else None,
        "APPROVAL_TOPIC_ARN": TOPIC_ARN.fullmatch(settings.approval_topic_arn or ""),
    }
    for name, match in named.items():
        if region and match and match["region"] != region:
            raise SettingsError(f"{ENV_PREFIX}{name}: lies in {match['region']}, but AWS_REGION is {region}")


def unknown_variables() -> list[str]:
    """Return the variables of this environment that look like settings and are none: misspelt ones, mostly."""
    known = COMMAND_VARIABLES | {f"{ENV_PREFIX}{name}".upper() for name in Settings.model_fields}
    return sorted(name for name in os.environ if name.upper().startswith(ENV_PREFIX) and name.upper() not in known)
