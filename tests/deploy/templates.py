"""The templates of `deploy/ecs/`, and what CloudFormation would make of one: conditions decided, parameters put in.

What CloudFormation knows only once a resource is there stands as `${Resource}` or `${Resource.Attribute}`, what another
stack exports as `${stack-name}`. No emulator is asked: this is for what emulators leave out.
"""

import json
import re
from collections.abc import Callable, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar, Final, cast

from cfnlint.decode import decode

FOLDER: Final = Path(__file__).parents[2] / "deploy" / "ecs"
MAIN: Final = FOLDER / "template.yaml"
TEMPLATES: Final = tuple(sorted(FOLDER.glob("*.yaml")))
PSEUDO: Final = {
    "AWS::AccountId": "111122223333",
    "AWS::Partition": "aws",
    "AWS::Region": "us-east-1",
    "AWS::StackName": "prod",
    "AWS::URLSuffix": "amazonaws.com",
}
NEEDED: Final = {
    "Image": "111122223333.dkr.ecr.us-east-1.amazonaws.com/shop@sha256:abc",
    "VpcId": "vpc-1",
    "SubnetIds": "subnet-1,subnet-2",
}
"""The parameters of the main template that have no default."""
KEY: Final = "arn:aws:kms:us-east-1:111122223333:key/00000000-1111-2222-3333-444444444444"
SECRETS: Final = "arn:aws:secretsmanager:us-east-1:111122223333:secret"
EVERYTHING: Final = NEEDED | {
    "AgentFunctionArns": "arn:aws:lambda:us-east-1:111122223333:function:writer",
    "AgentRuntimeArns": "arn:aws:bedrock-agentcore:us-east-1:111122223333:runtime/r,"
    "arn:aws:bedrock-agentcore:us-east-1:111122223333:runtime/r/runtime-endpoint/*",
    "AlarmEmail": "operators@example.com",
    "App": "shop:app",
    "ApprovalEmail": "editors@example.com",
    "CertificateArn": "arn:aws:acm:us-east-1:111122223333:certificate/1",
    "EncryptPayloads": "yes",
    "EnvironmentFileArn": "arn:aws:s3:::configuration/shop.env",
    "EventSourceArns": "arn:aws:s3:::inbox",
    "KmsKeyArn": KEY,
    "PublicUrl": "https://sessions.example.com",
    "SpotWeight": "3",
    "TaskPolicyArns": "arn:aws:iam::aws:policy/AmazonBedrockLimitedAccess",
    "WebhookSecretArn": f"{SECRETS}:webhook",
    "WebhookUrl": "https://shop.example.com/hooks",
}
"""Every option of the main template."""
BARE: Final = NEEDED | {"HttpAccess": "none", "Scaling": "off", "Telemetry": "off"}
"""None of them."""

Node = Any
"""A piece of a template: what stands there is for the test to know."""
_ABSENT: Final = object()
_VARIABLE: Final = re.compile(r"\$\{([^!}][^}]*)\}")


def parsed(path: Path) -> dict[str, Node]:
    """Return a template as CloudFormation's JSON has it, `{"Ref": …}` for `!Ref …`; a copy of one's own."""
    return cast("dict[str, Node]", json.loads(_as_json(path)))


@cache
def _as_json(path: Path) -> str:
    template, problems = decode(str(path))
    assert not problems, problems
    return json.dumps(template)


def resources(template: Mapping[str, Node], parameters: Mapping[str, str]) -> dict[str, Node]:
    """Return the resources that a stack with these parameters has, by their logical ids."""
    stack = _Stack(template, parameters)
    return {
        name: {"Type": each["Type"], **stack.value(each.get("Properties", {}))}
        for name, each in template["Resources"].items()
        if "Condition" not in each or stack.holds(each["Condition"])
    }


class _Stack:
    def __init__(self, template: Mapping[str, Node], parameters: Mapping[str, str]) -> None:
        self._conditions = template.get("Conditions", {})
        declared = template.get("Parameters", {})
        unknown = parameters.keys() - declared.keys()
        assert not unknown, f"no such parameters: {unknown}"
        given = {name: parameters.get(name, each.get("Default")) for name, each in declared.items()}
        missing = {name for name, each in given.items() if each is None}
        assert not missing, f"parameters without a value: {missing}"
        self._values: dict[str, Node] = dict(PSEUDO)
        for name, each in given.items():
            is_list = "List" in declared[name]["Type"]
            self._values[name] = str(each).split(",") if is_list else str(each)

    def holds(self, condition: str) -> bool:
        """Return whether that condition is true."""
        return cast("bool", self.value(self._conditions[condition]))

    def value(self, node: Node) -> Node:
        """Return what stands there in the end."""
        if isinstance(node, dict):
            if len(node) == 1:
                ((name, argument),) = node.items()
                if name == "Ref" or (name == "Condition" and isinstance(argument, str)) or name.startswith("Fn::"):
                    return self._call(name, argument)
            values = {str(name): self.value(each) for name, each in node.items()}
            return {name: each for name, each in values.items() if each is not _ABSENT}
        if isinstance(node, list):
            return [each for each in map(self.value, node) if each is not _ABSENT]
        return str(node) if isinstance(node, str) else node

    def _call(self, name: str, argument: Node) -> Node:
        if name == "Fn::If":
            return self.value(argument[1] if self.holds(argument[0]) else argument[2])
        function = self._functions.get(name)
        return self._lazy[name](argument) if function is None else function(self.value(argument))

    @cached_property
    def _lazy(self) -> dict[str, Callable[[Node], Node]]:
        """What takes its argument as it stands."""
        return {
            "Ref": lambda name: _ABSENT if name == "AWS::NoValue" else self._values.get(name, f"${{{name}}}"),
            "Condition": self.holds,
            "Fn::GetAtt": lambda path: f"${{{'.'.join(path) if isinstance(path, list) else path}}}",
            "Fn::Sub": lambda given: self._text(*(given if isinstance(given, list) else (given, {}))),
        }

    _functions: ClassVar[dict[str, Callable[[Node], Node]]] = {
        "Fn::And": all,
        "Fn::Equals": lambda both: both[0] == both[1],
        "Fn::ImportValue": lambda name: f"${{{name}}}",
        "Fn::Not": lambda one: not one[0],
        "Fn::Or": any,
        "Fn::Select": lambda given: given[1][given[0]],
        "Fn::Split": lambda given: given[1].split(given[0]),
    }
    """What takes the values of its arguments."""

    def _text(self, text: str, given: Mapping[str, Node]) -> str:
        more = self.value(given)

        def put_in(found: re.Match[str]) -> str:
            name = found[1]
            return str(more.get(name, self._values.get(name, found[0])))

        return _VARIABLE.sub(put_in, text).replace("${!", "${")
