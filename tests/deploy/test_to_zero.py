"""A service that runs nothing while there is nothing to do, and what wakes it: its state machine on the emulator.

The emulator has no Application Auto Scaling: the two steps that call it pass here, and are read in the template.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from orchestrator.cluster import DUE_SHARDS, STATE_SHARDS
from orchestrator.session.values import format_instant
from tests.deploy.stacks import Account, Stack
from tests.deploy.templates import FOLDER, NEEDED, parsed, resources
from tests.emulators import Emulator

IDLE_MINUTES: Final = 15
SCALING: Final = ("Scale", "StopScaling")


class Service:
    """The service of a stack that may sleep, and all that its state machine looks at."""

    def __init__(self, emulator: Emulator) -> None:
        self.account = account = Account(emulator)
        self.stack = account.deploy_main(NEEDED | {"Scaling": "to-zero"})
        self.states, self.sqs = account.client("stepfunctions"), account.client("sqs")
        self._ecs, self._dynamodb, self._metrics = (account.client(each) for each in ("ecs", "dynamodb", "cloudwatch"))
        self._machine = self._machine_of(account.deploy("to-zero.yaml", {"Stack": self.stack.name}, "to-zero"))

    def _machine_of(self, add_on: Stack) -> str:
        deployed = self.states.describe_state_machine(stateMachineArn=add_on.resources["Look"])
        definition = json.loads(deployed["definition"])
        for name in SCALING:
            kept = {key: value for key, value in definition["States"][name].items() if key in {"Next", "End", "Output"}}
            definition["States"][name] = {"Type": "Pass", **kept}
        role = f"arn:aws:iam::{self.account.id}:role/{add_on.resources['LookRole']}"
        made = self.states.create_state_machine(
            name="look-without-scaling", definition=json.dumps(definition), roleArn=role, type="EXPRESS"
        )
        return str(made["stateMachineArn"])

    def look(self) -> str:
        """Let the state machine look once, as the clock does each minute; return what it did."""
        ran = self.states.start_sync_execution(stateMachineArn=self._machine, input="{}")
        assert "SUCCEEDED" == ran["status"], ran
        return str(json.loads(ran["output"])["did"])

    @property
    def tasks(self) -> int:
        """How many tasks the service is to run."""
        found = self._ecs.describe_services(cluster=self.stack.outputs["Cluster"], services=[self.stack.name])[
            "services"
        ]
        return int(found[0]["desiredCount"])

    @tasks.setter
    def tasks(self, count: int) -> None:
        self._ecs.update_service(cluster=self.stack.outputs["Cluster"], service=self.stack.name, desiredCount=count)

    def has_run_for(self, minutes: int) -> None:
        """Let CloudWatch know of a task in each of the last minutes."""
        about = {"ClusterName": self.stack.outputs["Cluster"], "ServiceName": self.stack.name}
        for ago in range(1, minutes + 1):
            self.metric("AWS/ECS", "CPUUtilization", about, minutes_ago=ago)

    def was_refused(self, *, minutes_ago: int) -> None:
        """Let the load balancer have answered 503, for want of a node."""
        about = {"LoadBalancer": self.stack.outputs["LoadBalancerName"]}
        self.metric("AWS/ApplicationELB", "HTTPCode_ELB_503_Count", about, minutes_ago=minutes_ago)

    def metric(self, namespace: str, name: str, about: dict[str, str], *, minutes_ago: int) -> None:
        """Put a data point of 1 at that time."""
        dimensions = [{"Name": key, "Value": value} for key, value in about.items()]
        at = datetime.now(UTC) - timedelta(minutes=minutes_ago)
        point = {"MetricName": name, "Dimensions": dimensions, "Timestamp": at, "Value": 1.0}
        self._metrics.put_metric_data(Namespace=namespace, MetricData=[point])

    def send(self) -> None:
        """Put a message on the queue."""
        self.sqs.send_message(QueueUrl=self.stack.outputs["QueueUrl"], MessageBody="{}")

    def head(self, **attributes: str) -> None:
        """Write HEAD of a session, of which the indexes hold these."""
        item: dict[str, Any] = {name: {"S": value} for name, value in attributes.items()}
        key = {"PK": {"S": "SESSION#s-1"}, "SK": {"S": "HEAD"}}
        self._dynamodb.put_item(TableName=self.stack.outputs["Table"], Item=key | item)

    def due(self, minutes: float) -> None:
        """Let a session be due in so many minutes."""
        at = datetime.now(UTC) + timedelta(minutes=minutes)
        self.head(due_shard=f"DUE#{DUE_SHARDS - 1}", wake_at=format_instant(at.replace(microsecond=0)))


@pytest.fixture(scope="module")
def seasoned(ministack: Emulator) -> Service:
    """A service that has run for long enough."""
    service = Service(ministack)
    service.has_run_for(IDLE_MINUTES)
    return service


@pytest.fixture
def service(seasoned: Service) -> Service:
    """A service that has run for long enough, and has nothing to do."""
    seasoned.tasks = 1
    seasoned.sqs.purge_queue(QueueUrl=seasoned.stack.outputs["QueueUrl"])
    seasoned.head()
    return seasoned


def test_what_has_nothing_to_do_sleeps_and_is_not_woken_for_nothing(service: Service) -> None:
    """Idle for a quarter of an hour, nothing in the queue, nothing due for as long."""
    assert ["sleep", "nothing"] == [service.look(), service.look()]
    assert 0 == service.tasks


NEEDS: Final[dict[str, Callable[[Service], None]]] = {
    "a message": Service.send,
    "a timer": lambda service: service.due(0),
    "a session whose node was lost": lambda service: service.head(
        state_key=f"RUNNING#{STATE_SHARDS - 1}", updated_at="2026-01-01T00:00:00.000Z"
    ),
}


@pytest.mark.parametrize("needed_for", NEEDS)
def test_whoever_needs_it_keeps_it_awake_and_wakes_it(service: Service, needed_for: str) -> None:
    """What wakes a service that sleeps, one that is awake does not go to sleep over."""
    NEEDS[needed_for](service)
    assert "nothing" == service.look()
    service.tasks = 0
    assert "wake" == service.look()
    assert 1 == service.tasks


def test_what_is_due_soon_keeps_it_awake_and_does_not_wake_it_yet(service: Service) -> None:
    """It would hardly be asleep; and once it sleeps, there is time."""
    service.due(IDLE_MINUTES - 1)
    assert "nothing" == service.look()
    service.tasks = 0
    assert "nothing" == service.look()
    service.due(1)
    assert "wake" == service.look()


def test_a_request_that_nobody_answered_wakes_it_and_it_waits_for_the_next_one(ministack: Emulator) -> None:
    """Whoever asked asks again, and may take its time; what was refused long ago wakes nobody."""
    service = Service(ministack)
    service.has_run_for(IDLE_MINUTES)
    service.tasks = 0
    service.was_refused(minutes_ago=10)
    assert "nothing" == service.look()
    service.was_refused(minutes_ago=2)
    assert ["wake", "nothing"] == [service.look(), service.look()]
    assert 1 == service.tasks


def test_one_that_has_not_run_for_long_is_not_put_to_sleep(ministack: Emulator) -> None:
    """So a task that comes up is not stopped before it has looked at anything."""
    service = Service(ministack)
    service.has_run_for(IDLE_MINUTES - 1)
    assert "nothing" == service.look()
    assert 1 == service.tasks


def test_scaling_rests_while_the_service_sleeps() -> None:
    """Or it would wake it at once, for it runs fewer tasks than the least."""
    states = resources(parsed(FOLDER / "to-zero.yaml"), {"Stack": "prod"})["Look"]["Definition"]["States"]
    suspended = {name: set(states[name]["Arguments"]["SuspendedState"].values()) for name in SCALING}
    assert {"Scale": {False}, "StopScaling": {True}} == suspended
    assert ["Sleep", "Scale"] == [states["StopScaling"]["Next"], states["Wake"]["Next"]]
