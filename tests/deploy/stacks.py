"""Stacks on the emulator, deployed by its CloudFormation, each in an account of its own.

The emulator is given the templates as they are, but for two things that it cannot do and AWS can: it has no Application
Auto Scaling, and hands on a parameter of type Number as text.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import botocore.session
from botocore.config import Config
from botocore.exceptions import WaiterError

from tests.deploy.templates import FOLDER, NEEDED
from tests.emulators import REGION, Emulator, access_key, fresh_account

STACK: Final = "prod"
_SESSION: Final = botocore.session.get_session()
"""One for all: what takes time is to read the models of the services."""
WAIT: Final = {"Delay": 0.05, "MaxAttempts": 400}
_SCALING: Final = re.compile(
    r"^  \w+:\n    Type: AWS::ApplicationAutoScaling::.*\n(?:    .*\n|\n)+(?=  \S)", re.MULTILINE
)
_NUMBER: Final = re.compile(r"((?:DesiredCount|Base|Weight): (?:!If .*)?)!Ref (\w+)")
_DEFAULT: Final = re.compile(r"^  (\w+):\s+\{Type: Number, Default: (\d+)", re.MULTILINE)


class StackFailed(Exception):
    """A stack did not come up; the text says which resource, and why."""


@dataclass(frozen=True)
class Stack:
    """One stack that is there: physical ids by logical ones, and its outputs."""

    name: str
    resources: Mapping[str, str]
    outputs: Mapping[str, str]


class Account:
    """An account on the emulator, with a network in it."""

    def __init__(self, emulator: Emulator) -> None:
        self.id = fresh_account()
        self.environment = {
            "AWS_ENDPOINT_URL": emulator.endpoint_url,
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": access_key(emulator, self.id),
            "AWS_SECRET_ACCESS_KEY": "test",
        }
        self._clients: dict[str, Any] = {}

    def client(self, service: str, credentials: Mapping[str, str] | None = None) -> Any:
        """Return a client of the service: the account's own, or with those credentials."""
        if credentials is not None:
            return self._made(service, self.environment | dict(credentials))
        if service not in self._clients:
            self._clients[service] = self._made(service, self.environment)
        return self._clients[service]

    def _made(self, service: str, variables: Mapping[str, str]) -> Any:
        return _SESSION.create_client(
            service,
            region_name=REGION,
            endpoint_url=variables["AWS_ENDPOINT_URL"],
            aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
            aws_session_token=variables.get("AWS_SESSION_TOKEN"),
            # Some operations want a host of their own (`sync-…`), which no emulator has.
            config=Config(inject_host_prefix=False),
        )

    @cached_property
    def network(self) -> dict[str, str]:
        """The parameters that name a network."""
        ec2 = self.client("ec2")
        vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        subnets = [ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{n}.0/24")["Subnet"]["SubnetId"] for n in range(2)]
        return {"VpcId": vpc, "SubnetIds": ",".join(subnets)}

    def deploy(
        self, template: str, parameters: Mapping[str, str], name: str = STACK, *, without_tls: bool = False
    ) -> Stack:
        """Create the stack of that template and return it. Raises `StackFailed`.

        Where the emulator enforces policies, a stack `without_tls` is one that it can be asked about.
        """
        text = (FOLDER / template).read_text()
        if without_tls:
            text = text.replace('{"aws:SecureTransport": "false"}', '{"aws:SecureTransport": "true"}')
        cloudformation = self.client("cloudformation")
        cloudformation.create_stack(
            StackName=name,
            TemplateBody=_for_the_emulator(text, parameters),
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
            Capabilities=["CAPABILITY_IAM"],
        )
        try:
            cloudformation.get_waiter("stack_create_complete").wait(StackName=name, WaiterConfig=WAIT)
        except WaiterError:
            events = cloudformation.describe_stack_events(StackName=name)["StackEvents"]
            why = [
                f"{e['LogicalResourceId']}: {e['ResourceStatusReason']}"
                for e in events
                if "FAIL" in e["ResourceStatus"]
            ]
            raise StackFailed("\n".join(why)) from None
        (about,) = cloudformation.describe_stacks(StackName=name)["Stacks"]
        found = cloudformation.describe_stack_resources(StackName=name)["StackResources"]
        return Stack(
            name,
            {each["LogicalResourceId"]: each["PhysicalResourceId"] for each in found},
            {each["OutputKey"]: each["OutputValue"] for each in about.get("Outputs", [])},
        )

    def deploy_main(self, parameters: Mapping[str, str], *, without_tls: bool = False) -> Stack:
        """Create the stack of the main template in this account's network."""
        return self.deploy("template.yaml", NEEDED | dict(parameters) | self.network, without_tls=without_tls)


def _for_the_emulator(text: str, parameters: Mapping[str, str]) -> str:
    numbers = dict(_DEFAULT.findall(text)) | dict(parameters)
    return _NUMBER.sub(lambda found: found[1] + numbers[found[2]], _SCALING.sub("", text))
