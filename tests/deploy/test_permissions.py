"""The actions that the roles grant are the actions that the code calls: none is missing, none is more.

What the code calls is found in `orchestrator/aws`, the only door to AWS: every operation of a client that stands there.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Final

import botocore.session
import pytest
from botocore import xform_name

import orchestrator.aws
from tests.deploy.stacks import Account, Stack
from tests.deploy.templates import BARE, EVERYTHING, FOLDER, KEY, MAIN, NEEDED, TEMPLATES, Node, parsed, resources

SERVICES: Final = ("bedrock-agentcore", "dynamodb", "events", "kms", "lambda", "s3", "sns", "sqs", "stepfunctions")
NOT_OF_NODES: Final = frozenset({"inspection.py", "provision.py"})
"""Modules that people's commands alone use, with their own permissions."""
OF_COMMANDS: Final = frozenset({"sqs:GetQueueAttributes"})
"""Calls of the other modules that people's commands alone make."""

ASKS_FOR: Final[Mapping[str, frozenset[str]]] = {
    # An insert is PartiQL's in a batch; so is an update.
    "dynamodb:BatchExecuteStatement": frozenset({"dynamodb:PartiQLInsert", "dynamodb:PartiQLUpdate"}),
    "dynamodb:TransactWriteItems": frozenset({"dynamodb:DeleteItem", "dynamodb:PutItem", "dynamodb:UpdateItem"}),
    "lambda:Invoke": frozenset({"lambda:InvokeFunction"}),
    "s3:CompleteMultipartUpload": frozenset({"s3:PutObject"}),
    "s3:CreateMultipartUpload": frozenset({"s3:PutObject"}),
    # Without the other one S3 answers 403 where there is nothing (GetObject, "Permissions").
    "s3:GetObject": frozenset({"s3:GetObject", "s3:ListBucket"}),
    "s3:UploadPart": frozenset({"s3:PutObject"}),
    "sqs:ChangeMessageVisibilityBatch": frozenset({"sqs:ChangeMessageVisibility"}),
    "sqs:DeleteMessageBatch": frozenset({"sqs:DeleteMessage"}),
}
"""Calls whose actions have other names (Service Authorization Reference); `service:Operation` is its own, else."""
PREFIXES: Final = {"stepfunctions": "states"}

BESIDE_THE_SDK: Final = frozenset({"ecs:UpdateTaskProtection"})
"""What the ECS agent does when the node asks it to."""
OF_THE_COLLECTOR: Final = frozenset({"logs:CreateLogStream", "logs:PutLogEvents", "xray:PutTraceSegments"})
BY_SERVICES_FOR_US: Final = frozenset(
    {"kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey*", "kms:ReEncrypt*"}
)
"""What DynamoDB asks of whoever uses a table under a key of theirs ("Authorizing use of your customer managed key")."""
WITHOUT_A_RESOURCE: Final = frozenset(
    {"states:SendTaskFailure", "states:SendTaskHeartbeat", "states:SendTaskSuccess", "xray:PutTraceSegments"}
)


@cache
def operations() -> dict[str, str]:
    """Return the operations of the services by the names of the methods that call them."""
    session = botocore.session.get_session()
    return {
        method: f"{service}:{operation}"
        for service in SERVICES
        for operation in session.get_service_model(service).operation_names
        for method in (xform_name(operation), f"{service}/{operation}")
    }


def calls(source: str, known: Mapping[str, str]) -> Iterator[str]:
    """Yield the operations that a module calls, as `service:Operation`."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        to = ast.unparse(node.func.value).rpartition(".")[2]
        first = str(node.args[0].value) if node.args and isinstance(node.args[0], ast.Constant) else ""
        if node.func.attr == "call" and to == "_signed":
            # The signed calls are of two services, which share no operation.
            yield next(known[f"{each}/{first}"] for each in ("dynamodb", "sqs") if f"{each}/{first}" in known)
        elif node.func.attr == "generate_presigned_url":
            yield known[first]
        elif (to in {"client", "_client"} or to in SERVICES) and node.func.attr in known:
            yield known[node.func.attr]


@cache
def called() -> frozenset[str]:
    """Return the operations that a node calls."""
    known = operations()
    (folder,) = orchestrator.aws.__path__
    modules = [path for path in Path(folder).glob("*.py") if path.name not in NOT_OF_NODES]
    return frozenset(each for path in modules for each in calls(path.read_text(), known)) - OF_COMMANDS


def needed(operations_called: frozenset[str]) -> set[str]:
    """Return the actions that those calls need."""
    found = set[str]()
    for each in operations_called:
        service, _, operation = each.partition(":")
        found |= ASKS_FOR.get(each, {f"{PREFIXES.get(service, service)}:{operation}"})
    return found


def statements(role: Node) -> list[Node]:
    """Return what a role is allowed."""
    found = [each for policy in role["Policies"] for each in policy["PolicyDocument"]["Statement"]]
    assert {"Allow"} == {each["Effect"] for each in found}
    return found


def actions(found: list[Node]) -> set[str]:
    """Return the actions of statements, but for those that services do with a key on our behalf."""
    return {
        action
        for each in found
        if each["Sid"] != "KeyAtRest"
        for action in ([each["Action"]] if isinstance(each["Action"], str) else each["Action"])
    }


def differences(
    template: Mapping[str, Node], parameters: Mapping[str, str], wanted: set[str]
) -> tuple[set[str], set[str]]:
    """Return what the task role lacks, and what it grants too much."""
    granted = actions(statements(resources(template, parameters)["TaskRole"]))
    return wanted - granted, granted - wanted


def test_the_task_role_grants_what_the_code_calls_and_no_more() -> None:
    """With every option; a call that is added to the code needs its action in the template, and an action a call."""
    wanted = needed(called()) | BESIDE_THE_SDK | OF_THE_COLLECTOR
    assert (set(), set()) == differences(parsed(MAIN), EVERYTHING, wanted)


def test_what_is_not_asked_for_is_not_granted() -> None:
    """No agents elsewhere, no key, no collector: none of their actions."""
    options = {"lambda:InvokeFunction", "bedrock-agentcore:InvokeAgentRuntime", "bedrock-agentcore:StopRuntimeSession"}
    wanted = {each for each in needed(called()) - options if not each.startswith("kms:")} | BESIDE_THE_SDK
    assert (set(), set()) == differences(parsed(MAIN), BARE, wanted)
    assert (set(), set()) == differences(parsed(MAIN), NEEDED, wanted | OF_THE_COLLECTOR)


def test_every_action_that_is_taken_away_is_missed() -> None:
    """The comparison sees each of them, and each that nobody needs."""
    template, wanted = parsed(MAIN), needed(called()) | BESIDE_THE_SDK | OF_THE_COLLECTOR
    document = template["Resources"]["TaskRole"]["Properties"]["Policies"][0]["PolicyDocument"]
    whole = list(document["Statement"])
    for index, each in enumerate(whole):
        statement = each["Fn::If"][1] if "Fn::If" in each else each
        document["Statement"] = [*whole[:index], *whole[index + 1 :]]
        lost = actions([statement])
        missed, _ = differences(template, EVERYTHING, wanted)
        still = actions([each.get("Fn::If", [None, each])[1] for each in document["Statement"]])
        assert lost - still == missed
    document["Statement"] = [*whole, {"Sid": "More", "Effect": "Allow", "Action": "dynamodb:Scan", "Resource": "*"}]
    assert (set(), {"dynamodb:Scan"}) == differences(template, EVERYTHING, wanted)


def test_the_calls_are_found_however_they_are_written() -> None:
    """By the SDK's method, by its name for a signed request, as a URL; and what is no client's is none."""
    source = """
class Wire:
    async def one(self):
        await self._client.put_item(Item={})
        await self._signed.call("Query", {})
        await self._signed.call("ReceiveMessage", {})
        self._client.generate_presigned_url("get_object", Params={})
        await clients.sqs.get_queue_url(QueueName="q")
        self._fleet.invoke("put_item")
        yield lambda: client.publish(Message="m")
"""
    expected = {
        "dynamodb:PutItem",
        "dynamodb:Query",
        "sqs:ReceiveMessage",
        "s3:GetObject",
        "sqs:GetQueueUrl",
        "sns:Publish",
    }
    assert expected == set(calls(source, operations()))


def resources_granted(role: Node) -> dict[str, list[str]]:
    return {
        each["Sid"]: [each["Resource"]] if isinstance(each["Resource"], str) else each["Resource"]
        for each in statements(role)
    }


def test_each_action_is_granted_on_the_stacks_own_resources() -> None:
    """By ARN. Where IAM knows no resource, the statement holds only actions that have none."""
    granted = resources_granted(resources(parsed(MAIN), EVERYTHING)["TaskRole"])
    assert {
        "Table": ["${Table.Arn}"],
        "Indexes": ["${Table.Arn}/index/*"],
        "Queue": ["${Queue.Arn}"],
        "DeadLetters": ["${DeadLetters.Arn}"],
        "Artifacts": ["${Bucket.Arn}/*"],
        "WhatIsMissing": ["${Bucket.Arn}"],
        "Ends": ["${EventBus.Arn}"],
        "Approvals": ["${ApprovalTopic}"],
        "WaitingTasks": ["*"],
        "ScaleInProtection": ["arn:aws:ecs:us-east-1:111122223333:task/${Cluster}/*"],
        "Traces": ["*"],
        "Metrics": ["${MetricLogs.Arn}"],
        "KeyAtRest": [KEY],
        "KeyOfPayloads": [KEY],
        "AgentFunctions": [EVERYTHING["AgentFunctionArns"]],
        "AgentRuntimes": EVERYTHING["AgentRuntimeArns"].split(","),
    } == granted
    for path in TEMPLATES:
        for each in parsed(path)["Resources"].values():
            if each["Type"] == "AWS::IAM::Role":
                for policy in each["Properties"].get("Policies", []):
                    for statement in policy["PolicyDocument"]["Statement"]:
                        allowed = statement.get("Fn::If", [None, statement])[1]
                        if allowed["Resource"] == "*":
                            open_to_all = {"ecr:GetAuthorizationToken", "cloudwatch:GetMetricData"} | WITHOUT_A_RESOURCE
                            assert not actions([allowed]) - open_to_all


def test_a_key_at_rest_is_used_through_the_services_alone() -> None:
    """Who has the task's credentials decrypts nothing with it but this table's payloads, if these are encrypted."""
    role = resources(parsed(MAIN), EVERYTHING)["TaskRole"]
    (at_rest,) = [each for each in statements(role) if each["Sid"] == "KeyAtRest"]
    assert BY_SERVICES_FOR_US == set(at_rest["Action"])
    through = at_rest["Condition"]["StringEquals"]["kms:ViaService"]
    assert ["dynamodb", "s3", "sns", "sqs"] == [each.partition(".")[0] for each in through]
    (payloads,) = [each for each in statements(role) if each["Sid"] == "KeyOfPayloads"]
    # As `orchestrator/encryption` names the table in every data key.
    assert {"StringEquals": {"kms:EncryptionContext:orchestrator-table": "${Table}"}} == payloads["Condition"]
    unencrypted = resources(parsed(MAIN), EVERYTHING | {"EncryptPayloads": "no"})["TaskRole"]
    assert "KeyOfPayloads" not in resources_granted(unencrypted)


def test_the_execution_role_starts_tasks_and_no_more() -> None:
    """It pulls the image, reads the secrets and the file that the task definition names, and writes the logs."""
    granted = statements(resources(parsed(MAIN), EVERYTHING)["ExecutionRole"])
    assert {
        "Registry": ("ecr:GetAuthorizationToken", "*"),
        "Images": (
            ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
            "arn:aws:ecr:us-east-1:111122223333:repository/*",
        ),
        "Logs": (["logs:CreateLogStream", "logs:PutLogEvents"], "${Logs.Arn}"),
        "Secrets": ("secretsmanager:GetSecretValue", ["${ApiKey}", EVERYTHING["WebhookSecretArn"]]),
        "KeyOfSecrets": ("kms:Decrypt", KEY),
        "EnvironmentFile": ("s3:GetObject", EVERYTHING["EnvironmentFileArn"]),
        "PlaceOfEnvironmentFile": ("s3:GetBucketLocation", "arn:aws:s3:::configuration"),
    } == {each["Sid"]: (each["Action"], each["Resource"]) for each in granted}


def test_the_emulator_makes_the_same_of_the_policy(account: Account, stack: Stack) -> None:
    """What this page reads in the template is what a stack has."""
    iam, name = account.client("iam"), stack.outputs["TaskRole"]
    (policy,) = iam.list_role_policies(RoleName=name)["PolicyNames"]
    deployed = iam.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"]["Statement"]
    written = statements(resources(parsed(MAIN), NEEDED)["TaskRole"])
    assert [(each["Sid"], each["Action"]) for each in written] == [(each["Sid"], each["Action"]) for each in deployed]
    table = f"arn:aws:dynamodb:us-east-1:{account.id}:table/{stack.outputs['Table']}"
    assert [table, f"{table}/index/*"] == [each["Resource"] for each in deployed[:2]]


@pytest.mark.parametrize("path", [FOLDER / "to-zero.yaml"], ids=lambda path: path.stem)
def test_the_look_may_do_what_its_steps_do(path: Path) -> None:
    """Each task of the state machine names an operation; the role grants these and no other."""
    stack = resources(parsed(path), {"Stack": "prod"})
    named = set(tasks_of(stack["Look"]["Definition"]))
    renamed = {"applicationautoscaling": "application-autoscaling"}
    wanted = {
        f"{renamed.get(service, service)}:{operation[0].upper()}{operation[1:]}"
        for service, operation in (each.removeprefix("arn:aws:states:::aws-sdk:").split(":") for each in named)
    }
    assert wanted == actions(statements(stack["LookRole"]))


def tasks_of(machine: Node) -> Iterator[str]:
    """Yield the resources of a state machine's tasks."""
    for state in machine["States"].values():
        if state["Type"] == "Task":
            yield state["Resource"]
        elif state["Type"] == "Map":
            yield from tasks_of(state["ItemProcessor"])


def test_the_product_reaches_aws_by_these_services_alone() -> None:
    """A client of another service in the code would go unseen by this page."""
    (folder,) = orchestrator.aws.__path__
    made = re.compile(r"""(?:create_client|_client)\(\s*"([a-z0-9-]+)\"""")
    opened = {name for path in Path(folder).glob("*.py") for name in made.findall(path.read_text())}
    assert opened <= set(SERVICES)
    assert {"dynamodb", "events", "s3"} <= opened
