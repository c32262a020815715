"""`orchestrator.aws` needs nothing that the template does not give: a node runs on its environment, under its role."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any, Final

import aiohttp
import pytest
from botocore.exceptions import ClientError

from orchestrator.aws.clients import connect
from orchestrator.errors import SettingsError
from orchestrator.settings import ENV_PREFIX, Settings, load
from tests.deploy.stacks import Account, Stack
from tests.deploy.templates import BARE, EVERYTHING, FOLDER, MAIN, NEEDED, Node, parsed, resources
from tests.emulators import REGION, running_ministack
from tests.integration.deployment import Deployment, start_message

README: Final = (FOLDER / "README.md").read_text()
LEFT: Final = re.compile(rf"^- `({ENV_PREFIX}\w+)`", re.MULTILINE)
HEARTBEATS: Final = 3
TOPIC: Final = "arn:aws:sns:us-east-1:111122223333:prod-ApprovalTopic"
IN_BATCHES: Final = {
    "Table": ["dynamodb:BatchExecuteStatement"],
    "Queue": ["sqs:DeleteMessageBatch", "sqs:ChangeMessageVisibilityBatch"],
}


def environment(parameters: dict[str, str]) -> dict[str, str]:
    """Return the environment of the container, with something in the place of each secret."""
    node: Node = resources(parsed(MAIN), parameters)["TaskDefinition"]["ContainerDefinitions"][0]
    secret = {"ORCHESTRATOR_API_KEYS": "a-key", "ORCHESTRATOR_WEBHOOK_SECRET": "whsec_" + "MDAw" * 8}
    variables = {each["Name"]: each["Value"] for each in node["Environment"]}
    # All that the settings ask of it is that it is an ARN.
    assert "${ApprovalTopic}" == variables["ORCHESTRATOR_APPROVAL_TOPIC_ARN"]
    variables["ORCHESTRATOR_APPROVAL_TOPIC_ARN"] = TOPIC
    return variables | {each["Name"]: secret[each["Name"]] for each in node["Secrets"]}


def loaded(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in variables.items():
        if name.startswith(ENV_PREFIX):
            monkeypatch.setenv(name, value)
    return load()


def test_every_setting_is_set_by_the_template_or_listed_as_left_alone() -> None:
    """A new setting has to be given a place: the template, or the README's list of what an environment file can set."""
    of_the_product = {f"{ENV_PREFIX}{name}".upper() for name in Settings.model_fields}
    of_the_template = {name for name in environment(EVERYTHING) if name.startswith(ENV_PREFIX)}
    left = set(LEFT.findall(README))
    assert of_the_product == of_the_template | left
    assert not of_the_template & left


@pytest.mark.parametrize("parameters", [BARE, NEEDED, EVERYTHING], ids=["bare", "as it comes", "everything"])
def test_the_settings_of_a_task_are_good_ones(parameters: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """They are read as a process reads them, and name the resources of the stack."""
    settings = loaded(environment(parameters), monkeypatch)
    assert ("${Table}", "${Bucket}", "${EventBus}") == (settings.table, settings.bucket, settings.event_bus)
    assert ("${Queue.QueueName}", TOPIC) == (settings.queue, settings.approval_topic_arn)
    assert ("0.0.0.0", 8080, "json") == (settings.host, settings.port, settings.log_format)
    address = {"http://${LoadBalancer.DNSName}": NEEDED, EVERYTHING["PublicUrl"]: EVERYTHING, None: BARE}
    assert parameters == address[settings.public_url]
    node: Node = resources(parsed(MAIN), parameters)["TaskDefinition"]["ContainerDefinitions"][0]
    assert settings.drain_seconds + HEARTBEATS * settings.heartbeat_seconds < node["StopTimeout"]


def test_a_webhook_without_its_secret_would_stop_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the comparison is for: a variable that is taken out of the template is missed here, not in production."""
    variables = environment(EVERYTHING)
    del variables["ORCHESTRATOR_WEBHOOK_SECRET"]
    with pytest.raises(SettingsError, match="ORCHESTRATOR_WEBHOOK_SECRET"):
        loaded(variables, monkeypatch)


@pytest.fixture(scope="module")
def strict_account() -> Iterator[Account]:
    """An account whose IAM says no to whatever it was not told to allow."""
    with running_ministack(enforces_policies=True) as emulator:
        yield Account(emulator)


@pytest.fixture(scope="module")
def strict_stack(strict_account: Account) -> Stack:
    """The stack in it, where calls need no TLS: the emulator speaks none, and would refuse them all."""
    return strict_account.deploy_main(NEEDED, without_tls=True)


def test_who_speaks_no_tls_is_refused(strict_account: Account) -> None:
    """Be it the owner of the account: so says the statement of the queue's policy, on a queue of its own here."""
    sqs = strict_account.client("sqs")
    url = sqs.create_queue(QueueName="only-tls")["QueueUrl"]
    (only_tls, _) = resources(parsed(MAIN), NEEDED)["QueuePolicy"]["PolicyDocument"]["Statement"]
    only_tls["Resource"] = f"arn:aws:sqs:{REGION}:{strict_account.id}:only-tls"
    policy = {"Version": "2012-10-17", "Statement": [only_tls]}
    assert "Messages" not in sqs.receive_message(QueueUrl=url)
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": json.dumps(policy)})
    with pytest.raises(ClientError, match="AccessDenied"):
        sqs.receive_message(QueueUrl=url)


@pytest.fixture(scope="module")
def role(strict_account: Account, strict_stack: Stack) -> dict[str, str]:
    """Credentials that may do what the task role may: the role itself trusts ECS alone.

    The emulator asks for batches by names of their own, where AWS asks for the actions in them.
    """
    iam, name = strict_account.client("iam"), strict_stack.outputs["TaskRole"]
    (policy,) = iam.list_role_policies(RoleName=name)["PolicyNames"]
    document = iam.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"]
    for each in document["Statement"]:
        if each["Sid"] in IN_BATCHES:
            each["Action"] += IN_BATCHES[each["Sid"]]
    root = {"AWS": f"arn:aws:iam::{strict_account.id}:root"}
    trust = {"Statement": [{"Effect": "Allow", "Principal": root, "Action": "sts:AssumeRole"}]}
    made = iam.create_role(RoleName="stand-in", AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17"} | trust))
    iam.put_role_policy(RoleName="stand-in", PolicyName=policy, PolicyDocument=json.dumps(document))
    sts = strict_account.client("sts")
    given = sts.assume_role(RoleArn=made["Role"]["Arn"], RoleSessionName="task")["Credentials"]
    return {
        "AWS_ACCESS_KEY_ID": given["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": given["SecretAccessKey"],
        "AWS_SESSION_TOKEN": given["SessionToken"],
    }


@pytest.fixture
async def deployment(
    strict_account: Account, strict_stack: Stack, role: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Deployment]:
    """The stack as processes see it: the container's own environment, and the role's credentials."""
    ecs, outputs = strict_account.client("ecs"), strict_stack.outputs
    task: Any = ecs.describe_task_definition(taskDefinition=strict_stack.resources["TaskDefinition"])["taskDefinition"]
    variables = {each["name"]: each["value"] for each in task["containerDefinitions"][0]["environment"]}
    secret = strict_account.client("secretsmanager").get_secret_value(SecretId=outputs["ApiKeySecret"])["SecretString"]
    # The template asks for letters and digits alone, the emulator makes commas, too.
    key = "".join(filter(str.isalnum, secret))
    # What is another one here: this machine is no container, and has no collector.
    here = {"ORCHESTRATOR_HOST": "127.0.0.1", "OTEL_EXPORTER_OTLP_ENDPOINT": "", "ORCHESTRATOR_API_KEYS": key}
    async with AsyncExitStack() as stack:
        for name, value in (variables | strict_account.environment | here).items():
            monkeypatch.setenv(name, value)
        # Senders and lookers-on are the account itself; the node is its role.
        clients = await stack.enter_async_context(connect())
        http = await stack.enter_async_context(aiohttp.ClientSession())
        readers = await stack.enter_async_context(asyncio.TaskGroup())
        deployment = Deployment(
            variables | strict_account.environment | here | role,
            load(),
            clients,
            http,
            outputs["QueueUrl"],
            outputs["DeadLetterQueueUrl"],
            readers,
        )
        stack.callback(deployment.kill_all)
        yield deployment


async def test_a_node_does_all_its_work_with_what_its_role_allows(deployment: Deployment) -> None:
    """A payload in the bucket, an approval, a dead letter, an end told to bus and task: nothing is refused."""
    worker = await deployment.start()
    await deployment.send("this is no message")
    await deployment.send(start_message("large-result", 300_000, session_id="large", task_token="a-token"))
    await deployment.send(start_message("asks", ["ann"], session_id="asks"))
    await worker.logged("session_ended", session_id="large")
    assert 300_000 == await deployment.result("large")
    ((body, letter),) = await deployment.dead_letters(1)
    assert ("this is no message", "INVALID_JSON") == (body, letter["ErrorCode"])
    await worker.logged("approval_requested", session_id="asks")

    key = deployment.environment["ORCHESTRATOR_API_KEYS"]
    assert 401 == (await deployment.ask(worker, "GET", "/sessions/asks"))[0]
    status, _ = await deployment.ask(
        worker,
        "POST",
        "/sessions/asks/approvals/publish",
        {"approved": True, "by": "ann"},
        Authorization=f"Bearer {key}",
    )
    assert 200 == status
    await worker.logged("session_ended", session_id="asks")
    # The token was none: Step Functions said so, and did not ask who we are.
    await worker.logged("task_was_over")
    await deployment.idle(worker)
    assert not [line for line in worker.lines if "AccessDenied" in json.dumps(line)]
    assert not [line for line in worker.lines if line.get("event") in {"notification_failed", "event_bus_missing"}]
    assert 0 == await deployment.stop(worker)


def test_the_emulator_would_have_refused_what_the_role_lacks(
    strict_account: Account, strict_stack: Stack, role: dict[str, str]
) -> None:
    """So the test before says something: to scan the table is not granted."""
    with pytest.raises(ClientError, match="not authorized to perform: dynamodb:Scan"):
        strict_account.client("dynamodb", role).scan(TableName=strict_stack.outputs["Table"])
