"""The templates: what a linter, CloudFormation's own limits, and their parts say of them. Nothing is deployed here."""

import json
import re
from pathlib import Path

import pytest
from cfnlint.api import lint_file

from tests.deploy.templates import BARE, EVERYTHING, KEY, MAIN, NEEDED, TEMPLATES, Node, parsed, resources

BODY_BYTES_MAX = 51_200
"""CloudFormation, "Quotas": a template that is sent with the request; a larger one needs a bucket first."""
ON_DEMAND_FIRST = [
    {"CapacityProvider": "FARGATE", "Base": "1", "Weight": "1"},
    {"CapacityProvider": "FARGATE_SPOT", "Weight": "3"},
]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_a_template_is_clean(path: Path) -> None:
    """By cfn-lint, which knows the schema of every resource and follows each condition; and it can be sent as it is."""
    assert [] == lint_file(path)
    assert BODY_BYTES_MAX > len(path.read_bytes())


def container(name: str, parameters: dict[str, str]) -> dict[str, Node]:
    found = resources(parsed(MAIN), parameters)["TaskDefinition"]["ContainerDefinitions"]
    return next((dict(each) for each in found if each["Name"] == name), {})


def test_the_container_is_watched_stopped_in_time_and_writes_nowhere() -> None:
    """Health by the product's own probe, the longest stop of Fargate, a read-only root, logs that hold nobody up."""
    node = container("orchestrator", NEEDED)
    expected = {
        "EntryPoint": ["orchestrator"],
        "Command": ["serve"],
        "HealthCheck": {
            "Command": ["CMD", "orchestrator", "health"],
            "Interval": 15,
            "Timeout": 10,
            "Retries": 3,
            "StartPeriod": 60,
        },
        "StopTimeout": 120,
        "ReadonlyRootFilesystem": True,
        "MountPoints": [{"SourceVolume": "scratch", "ContainerPath": "/tmp"}],
        "LinuxParameters": {"InitProcessEnabled": True},
        "LogConfiguration": {
            "LogDriver": "awslogs",
            "Options": {
                "awslogs-group": "${Logs}",
                "awslogs-region": "us-east-1",
                "awslogs-stream-prefix": "node",
                "mode": "non-blocking",
                "max-buffer-size": "25m",
            },
        },
        "DependsOn": [{"ContainerName": "collector", "Condition": "START"}],
        "Secrets": [{"Name": "ORCHESTRATOR_API_KEYS", "ValueFrom": "${ApiKey}"}],
    }
    assert expected == {name: node[name] for name in expected}


def test_secrets_come_from_secrets_manager_and_stand_in_no_environment() -> None:
    """The task definition names where they are; who may describe it reads none."""
    node = container("orchestrator", EVERYTHING | {"ApiKeysSecretArn": "arn:keys"})
    assert [
        {"Name": "ORCHESTRATOR_API_KEYS", "ValueFrom": "arn:keys"},
        {"Name": "ORCHESTRATOR_WEBHOOK_SECRET", "ValueFrom": EVERYTHING["WebhookSecretArn"]},
    ] == node["Secrets"]
    assert not {"ORCHESTRATOR_API_KEYS", "ORCHESTRATOR_WEBHOOK_SECRET"} & {each["Name"] for each in node["Environment"]}


def test_the_collector_takes_otlp_on_loopback_alone_and_the_task_outlives_it() -> None:
    """Traces go to X-Ray; metrics to CloudWatch, each for the service as a whole, which is what alarms read."""
    collector = container("collector", NEEDED)
    assert (False, True) == (collector["Essential"], collector["ReadonlyRootFilesystem"])
    (configuration,) = [each["Value"] for each in collector["Environment"] if each["Name"] == "AOT_CONFIG_CONTENT"]
    config = parsed_text(configuration)
    assert {"otlp": {"protocols": {"http": {"endpoint": "localhost:4318"}}}} == config["receivers"]
    assert {"awsxray": {}, "awsemf": config["exporters"]["awsemf"]} == config["exporters"]
    metrics = config["exporters"]["awsemf"]
    assert ("SessionOrchestrator", "${MetricLogs}") == (metrics["namespace"], metrics["log_group_name"])
    (declaration,) = metrics["metric_declarations"]
    assert ["ServiceName"] in declaration["dimensions"]
    assert all("ServiceName" == each[0] for each in declaration["dimensions"])
    named = {"ServiceName": "service.name"}
    assert named == {each["key"]: each["from_attribute"] for each in config["processors"]["resource"]["attributes"]}
    pipelines = config["service"]["pipelines"]
    assert {"traces": ["awsxray"], "metrics": ["awsemf"]} == {
        name: each["exporters"] for name, each in pipelines.items()
    }
    used = {name for each in pipelines.values() for name in each["processors"]}
    assert config["processors"].keys() == used
    environment = {each["Name"]: each["Value"] for each in container("orchestrator", NEEDED)["Environment"]}
    assert ("prod", "http://localhost:4318") == (
        environment["OTEL_SERVICE_NAME"],
        environment["OTEL_EXPORTER_OTLP_ENDPOINT"],
    )


def parsed_text(text: str) -> dict[str, Node]:
    from cfnlint.decode import decode_str

    template, problems = decode_str(text)
    assert not problems
    return dict(template)


def test_a_bare_stack_has_no_part_that_is_an_option() -> None:
    """No load balancer, no collector, no scaling, no key: a queue, a table, a bucket and tasks."""
    bare = resources(parsed(MAIN), BARE)
    types = {each["Type"] for each in bare.values()}
    assert not {each for each in types if each.startswith(("AWS::ElasticLoadBalancing", "AWS::ApplicationAutoScaling"))}
    assert [container("orchestrator", BARE)] == bare["TaskDefinition"]["ContainerDefinitions"]
    assert {"DependsOn", "EnvironmentFiles"}.isdisjoint(container("orchestrator", BARE))
    assert {"LoadBalancers", "HealthCheckGracePeriodSeconds"}.isdisjoint(bare["Service"])
    assert "2" == bare["Service"]["DesiredCount"]
    assert "SSESpecification" not in bare["Table"]
    alarms = {name for name, each in bare.items() if each["Type"] == "AWS::CloudWatch::Alarm"}
    assert {"DeadLetterQueueNotEmptyAlarm", "OldestMessageAgeAlarm", "TasksMissingAlarm"} == alarms


def test_a_key_of_ones_own_encrypts_whatever_can_be_encrypted() -> None:
    """Table, both queues, bucket, the topic of approvals and the generated secret; and payloads, if so asked."""
    stack = resources(parsed(MAIN), EVERYTHING)
    assert {"SSEEnabled": True, "SSEType": "KMS", "KMSMasterKeyId": KEY} == stack["Table"]["SSESpecification"]
    assert [KEY, KEY, KEY] == [stack[name]["KmsMasterKeyId"] for name in ("Queue", "DeadLetters", "ApprovalTopic")]
    assert KEY == stack["ApiKey"]["KmsKeyId"]
    (rule,) = stack["Bucket"]["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": KEY} == rule["ServerSideEncryptionByDefault"]
    environment = {each["Name"]: each["Value"] for each in container("orchestrator", EVERYTHING)["Environment"]}
    assert KEY == environment["ORCHESTRATOR_PAYLOAD_KEY_ARN"]


def test_a_service_that_scales_is_counted_by_scaling_alone() -> None:
    """The stack sets no number of tasks then, so that an upgrade in the middle of a flood does not end nine of ten."""
    stack = resources(parsed(MAIN), EVERYTHING)
    assert "DesiredCount" not in stack["Service"]
    assert ON_DEMAND_FIRST == stack["Service"]["CapacityProviderStrategy"]
    target = stack["ScalableTarget"]
    assert ("service/${Cluster}/${Service.Name}", "2", "10") == (
        target["ResourceId"],
        target["MinCapacity"],
        target["MaxCapacity"],
    )
    backlog = stack["ScaleByBacklog"]["TargetTrackingScalingPolicyConfiguration"]
    assert "100" == backlog["TargetValue"]
    metrics = {each["Id"]: each for each in backlog["CustomizedMetricSpecification"]["Metrics"]}
    assert ["backlog"] == [name for name, each in metrics.items() if each["ReturnData"]]
    assert "FILL(visible, 0) / IF(FILL(tasks, 1) > 0, FILL(tasks, 1), 1)" == metrics["backlog"]["Expression"]
    told = {name: metrics[name]["MetricStat"]["Metric"]["MetricName"] for name in ("visible", "tasks")}
    assert {"visible": "ApproximateNumberOfMessagesVisible", "tasks": "CPUUtilization"} == told


def test_a_fleet_at_zero_raises_no_alarm_for_that() -> None:
    """Nobody runs, nobody tells: both are as they should be, then."""
    to_zero = resources(parsed(MAIN), NEEDED | {"Scaling": "to-zero"})
    awake = resources(parsed(MAIN), NEEDED)
    assert {"TasksMissingAlarm", "TelemetryMissingAlarm"} == awake.keys() - to_zero.keys()


def test_each_alarm_names_what_to_read_and_tells_the_topic() -> None:
    """A section of the runbook by the alarm's own name, so that whoever is woken finds what to do."""
    for path in TEMPLATES:
        for each in parsed(path)["Resources"].values():
            if each["Type"] == "AWS::CloudWatch::Alarm":
                alarm = each["Properties"]
                name = alarm["AlarmName"]["Fn::Sub"].removeprefix("${AWS::StackName}-")
                page, _, section = alarm["AlarmDescription"].rpartition(" ")[2].partition("#")
                assert (page, section) in {("docs/runbook.md", name), ("deploy/ecs/README.md", "to-zero")}
                headings = re.findall(r"^#+ (.*)$", (MAIN.parents[2] / page).read_text(), re.MULTILINE)
                assert section in {heading.lower().replace(" ", "-") for heading in headings}
                assert 1 == len(alarm["AlarmActions"])


def test_the_dashboard_is_json_with_a_widget_for_each_thing_to_know() -> None:
    """And every metric of ours in it is of the service as a whole, or found by an attribute."""
    body = json.loads(resources(parsed(MAIN), EVERYTHING)["Dashboard"]["DashboardBody"])
    assert 15 == len(body["widgets"])
    own = [
        metric
        for widget in body["widgets"]
        for metric in widget["properties"]["metrics"]
        if metric[0] == "SessionOrchestrator"
    ]
    assert all(["ServiceName", "prod"] == metric[2:4] for metric in own)


def test_every_metric_that_is_watched_is_one_that_nodes_tell() -> None:
    """A name that no code counts would be an alarm that never rings; so would an attribute be an empty curve."""
    source = "".join(path.read_text() for path in (MAIN.parents[2] / "orchestrator" / "telemetry").glob("*.py"))
    stack = resources(parsed(MAIN), EVERYTHING)
    watched = {each["MetricName"] for each in stack.values() if each.get("Namespace") == "SessionOrchestrator"}
    body = stack["Dashboard"]["DashboardBody"]
    drawn = set(re.findall(r'"(orchestrator\.[a-z_.]+)"', body)) | set(re.findall(r'MetricName=\\"([a-z_.]+)', body))
    assert watched <= drawn
    # Messages are counted by what became of them, under a name that is put together.
    told = set(re.findall(r'"(orchestrator\.[a-z_.]+|gen_ai\.[a-z_.]+)"', source)) | {
        f"{whole}{what}"
        for whole in re.findall(r'f"(orchestrator\.[a-z_.]+)\{what\}"', source)
        for what in ("received", "deleted", "dead_lettered")
        if f'"{what}"' in source
    }
    assert set() == drawn - told
    searched = set(re.findall(r"SEARCH\('\{SessionOrchestrator,ServiceName,([a-z_.]+)\}", body))
    (configuration,) = [
        each["Value"]
        for each in container("collector", EVERYTHING)["Environment"]
        if each["Name"] == "AOT_CONFIG_CONTENT"
    ]
    (declaration,) = parsed_text(configuration)["exporters"]["awsemf"]["metric_declarations"]
    declared = {each[1] for each in declaration["dimensions"] if len(each) > 1}
    assert searched <= declared
    assert not [name for name in declared if f'"{name}"' not in source]
