"""The stack on the emulator, resource by resource: what came of the template, asked of each service.

The emulator leaves out TTL, recovery, lifecycle, keys of a table, time zones, scaling, health checks and secrets of
tasks: there the template is read, here or in `test_templates`.
"""

import json

import pytest
from botocore.exceptions import ClientError

from orchestrator.aws.provision import RECEIVES_MAX, RETENTION_SECONDS, VISIBILITY_SECONDS, table_definition
from tests.deploy.stacks import Account, Stack
from tests.deploy.templates import BARE, EVERYTHING, FOLDER, KEY, MAIN, NEEDED, Node, parsed, resources
from tests.emulators import Emulator


def indexes(table: Node) -> list[Node]:
    """Return the indexes of a table, in the order of their names, each with what makes it."""
    parts = ("IndexName", "KeySchema", "Projection")
    found = [{part: each[part] for part in parts} for each in table["GlobalSecondaryIndexes"]]
    for each in found:
        each["Projection"] = {**each["Projection"]}
        each["Projection"]["NonKeyAttributes"] = sorted(each["Projection"].get("NonKeyAttributes", []))
    return sorted(found, key=lambda each: str(each["IndexName"]))


def test_the_table_is_the_one_that_provision_makes(account: Account, stack: Stack) -> None:
    """Its keys, its three indexes and what they hold; on demand, with point-in-time recovery and TTL."""
    expected = table_definition(stack.outputs["Table"])
    table = account.client("dynamodb").describe_table(TableName=stack.outputs["Table"])["Table"]
    assert expected["KeySchema"] == table["KeySchema"]
    named = {each["AttributeName"]: each["AttributeType"] for each in table["AttributeDefinitions"]}
    assert {each["AttributeName"]: each["AttributeType"] for each in expected["AttributeDefinitions"]} == named
    assert indexes(expected) == indexes(table)
    assert "PAY_PER_REQUEST" == table["BillingModeSummary"]["BillingMode"]
    written = resources(parsed(MAIN), NEEDED)["Table"]
    assert {"AttributeName": "expires_at", "Enabled": True} == written["TimeToLiveSpecification"]
    assert written["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"]
    assert written["DeletionProtectionEnabled"]


def test_the_queue_gives_its_dead_to_the_queue_that_the_product_looks_for(account: Account, stack: Stack) -> None:
    """Named after it, for two weeks, encrypted, over TLS alone; with the numbers of `orchestrator provision`."""
    sqs = account.client("sqs")
    urls = (stack.outputs["QueueUrl"], stack.outputs["DeadLetterQueueUrl"])
    queue, dead = (sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"] for url in urls)
    assert f"{stack.outputs['QueueName']}-dlq" == dead["QueueArn"].rpartition(":")[2]
    redrive = json.loads(queue["RedrivePolicy"])
    assert (dead["QueueArn"], RECEIVES_MAX) == (redrive["deadLetterTargetArn"], int(redrive["maxReceiveCount"]))
    assert [queue["QueueArn"]] == json.loads(dead["RedriveAllowPolicy"])["sourceQueueArns"]
    assert str(VISIBILITY_SECONDS) == queue["VisibilityTimeout"]
    assert "20" == queue["ReceiveMessageWaitTimeSeconds"]
    for each in (queue, dead):
        assert (str(RETENTION_SECONDS), "true") == (each["MessageRetentionPeriod"], each["SqsManagedSseEnabled"])
        assert "OnlyOverTls" in each["Policy"]


def test_the_bucket_is_closed_encrypted_and_tidied(account: Account, stack: Stack) -> None:
    """No public access of any kind, TLS alone, parts of uploads that came to nothing gone after a day."""
    s3, name = account.client("s3"), stack.outputs["Bucket"]
    blocked = s3.get_public_access_block(Bucket=name)["PublicAccessBlockConfiguration"]
    assert [True] * 4 == list(blocked.values())
    (rule,) = s3.get_bucket_encryption(Bucket=name)["ServerSideEncryptionConfiguration"]["Rules"]
    assert "AES256" == rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"]
    rules = resources(parsed(MAIN), NEEDED)["Bucket"]["LifecycleConfiguration"]["Rules"]
    assert {"DaysAfterInitiation": 1} == rules[0]["AbortIncompleteMultipartUpload"]
    assert {"sessions/": "500", "dead-letters/": "30", "probes/": "1"} == {
        each["Prefix"]: str(each["ExpirationInDays"]) for each in rules[1:]
    }
    (statement,) = json.loads(s3.get_bucket_policy(Bucket=name)["Policy"])["Statement"]
    assert ("Deny", {"Bool": {"aws:SecureTransport": "false"}}) == (statement["Effect"], statement["Condition"])


def test_the_service_rolls_back_by_itself_and_never_runs_fewer(account: Account, stack: Stack) -> None:
    """A circuit breaker, all of the old tasks until the new ones are healthy, on Fargate and Fargate Spot."""
    ecs = account.client("ecs")
    (cluster,) = ecs.describe_clusters(clusters=[stack.outputs["Cluster"]])["clusters"]
    assert ["FARGATE", "FARGATE_SPOT"] == cluster["capacityProviders"]
    (service,) = ecs.describe_services(cluster=stack.outputs["Cluster"], services=[stack.outputs["Service"]])[
        "services"
    ]
    assert {
        "deploymentCircuitBreaker": {"enable": True, "rollback": True},
        "maximumPercent": 200,
        "minimumHealthyPercent": 100,
    } == service["deploymentConfiguration"]
    assert ["FARGATE", "FARGATE_SPOT"] == [each["capacityProvider"] for each in service["capacityProviderStrategy"]]
    groups = service["networkConfiguration"]["awsvpcConfiguration"]["securityGroups"]
    assert [stack.outputs["MemberSecurityGroup"], stack.outputs["TaskSecurityGroup"]] == groups
    task = ecs.describe_task_definition(taskDefinition=service["taskDefinition"])["taskDefinition"]
    assert (["FARGATE"], "512", "1024") == (task["requiresCompatibilities"], task["cpu"], task["memory"])
    assert ["orchestrator", "collector"] == [each["name"] for each in task["containerDefinitions"]]
    assert stack.outputs["TaskRoleArn"] == task["taskRoleArn"]


def test_nodes_and_the_load_balancer_reach_a_node_and_nobody_else_does(account: Account, stack: Stack) -> None:
    """At its port, by their groups, not by addresses; and `/nodes/` stays inside."""
    ec2, elb = account.client("ec2"), account.client("elbv2")
    (group,) = ec2.describe_security_groups(GroupIds=[stack.outputs["TaskSecurityGroup"]])["SecurityGroups"]
    sources = {
        (each["FromPort"], each["ToPort"], pair["GroupId"])
        for each in group["IpPermissions"]
        for pair in each["UserIdGroupPairs"]
    }
    lets_in = (stack.outputs["MemberSecurityGroup"], stack.resources["LoadBalancerSecurityGroup"])
    assert {(8080, 8080, each) for each in lets_in} == sources
    assert not [each for each in group["IpPermissions"] if each.get("IpRanges")]
    (balancer,) = elb.describe_load_balancers()["LoadBalancers"]
    assert "internal" == balancer["Scheme"]
    (targets,) = elb.describe_target_groups()["TargetGroups"]
    assert ("/ready", "ip", 8080) == (targets["HealthCheckPath"], targets["TargetType"], targets["Port"])
    rules = elb.describe_rules(ListenerArn=stack.resources["Listener"])["Rules"]
    (closed,) = [each for each in rules if not each["IsDefault"]]
    assert ("fixed-response", "404") == (
        closed["Actions"][0]["Type"],
        closed["Actions"][0]["FixedResponseConfig"]["StatusCode"],
    )


def test_every_alarm_is_there_and_tells_the_topic(account: Account, stack: Stack) -> None:
    """Twelve of them, each by its name in the runbook."""
    alarms = account.client("cloudwatch").describe_alarms(AlarmNamePrefix=stack.name)["MetricAlarms"]
    written = resources(parsed(MAIN), NEEDED)
    expected = {each["AlarmName"] for each in written.values() if each["Type"] == "AWS::CloudWatch::Alarm"}
    assert expected == {each["AlarmName"] for each in alarms}
    assert 12 == len(expected)
    assert {stack.outputs["AlarmTopic"]} == {action for each in alarms for action in each["AlarmActions"]}
    dashboard = account.client("cloudwatch").get_dashboard(DashboardName=stack.name)["DashboardBody"]
    assert stack.outputs["QueueName"] in dashboard


@pytest.mark.parametrize(
    "options",
    [
        BARE,
        EVERYTHING,
        NEEDED | {"Scaling": "to-zero", "Telemetry": "off"},
        NEEDED | {"PublicUrl": "https://x.example"},
    ],
    ids=["bare", "everything", "to zero, untold", "behind a name"],
)
def test_a_stack_comes_up_with_and_without_its_options(ministack: Emulator, options: dict[str, str]) -> None:
    """With exactly the resources whose conditions hold; scaling aside, which the emulator lacks."""
    expected = {
        name
        for name, each in resources(parsed(MAIN), options).items()
        if not each["Type"].startswith("AWS::ApplicationAutoScaling::")
    }
    assert expected == Account(ministack).deploy_main(options).resources.keys()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"CertificateArn": EVERYTHING["CertificateArn"]}, "PublicUrl"),
        ({"WebhookUrl": EVERYTHING["WebhookUrl"]}, "WebhookUrl, WebhookSecretArn"),
        ({"WebhookSecretArn": EVERYTHING["WebhookSecretArn"]}, "WebhookUrl, WebhookSecretArn"),
        ({"EncryptPayloads": "yes"}, "KmsKeyArn"),
    ],
)
def test_parameters_that_contradict_each_other_are_refused_before_anything_is_made(
    ministack: Emulator, options: dict[str, str], named: str
) -> None:
    """By name, with what is missing."""
    account = Account(ministack)
    with pytest.raises(ClientError, match=named):
        account.deploy_main(options)
    assert [] == account.client("sqs").list_queues().get("QueueUrls", [])


def test_a_key_of_ones_own_reaches_the_services(full_account: Account, full_stack: Stack) -> None:
    """The queue, for one, is encrypted with it."""
    queue = full_account.client("sqs").get_queue_attributes(
        QueueUrl=full_stack.outputs["QueueUrl"], AttributeNames=["KmsMasterKeyId"]
    )
    assert KEY == queue["Attributes"]["KmsMasterKeyId"]


def test_a_tenant_sends_starts_of_its_own_sessions_and_nothing_else(account: Account, stack: Stack) -> None:
    """What names another tenant, or is no start, does not get as far as the queue."""
    sender = f"arn:aws:iam::{account.id}:role/acme"
    tenant = account.deploy(
        "tenant.yaml", {"Stack": stack.name, "Tenant": "acme", "SenderArns": sender}, f"{stack.name}-acme"
    )
    sns, sqs = account.client("sns"), account.client("sqs")
    topic, queue = tenant.outputs["TopicArn"], stack.outputs["QueueUrl"]
    policy = json.loads(sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["Policy"])["Attributes"]["Policy"])
    (sources,) = [each for each in policy["Statement"] if each["Sid"] == "EventSources"]
    (pattern,) = sources["Condition"]["ArnLike"]["aws:SourceArn"]
    assert topic.startswith(pattern.removesuffix("*"))
    start = {"kind": "start", "session_type": "report", "input": None, "tenant": "acme"}
    for body in (start | {"tenant": "emca"}, {"kind": "cancel", "session_id": "other"}, start):
        sns.publish(TopicArn=topic, Message=json.dumps(body))
    arrived = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)["Messages"]
    assert [start] == [json.loads(each["Body"]) for each in arrived]
    sqs.purge_queue(QueueUrl=queue)


def test_a_schedule_sends_what_starts_a_session(account: Account, stack: Stack) -> None:
    """An occurrence is one session however often it is told: its key is made of the schedule and the time."""
    parameters = {"Stack": stack.name, "SessionType": "report", "Expression": "cron(0 8 * * ? *)"}
    account.deploy("schedule.yaml", parameters | {"Timezone": "Europe/Zurich", "Tenant": "acme"}, "report-at-eight")
    schedule = account.client("scheduler").get_schedule(Name="report-at-eight")
    assert "cron(0 8 * * ? *)" == schedule["ScheduleExpression"]
    written = resources(parsed(FOLDER / "schedule.yaml"), parameters | {"Timezone": "Europe/Zurich"})["Schedule"]
    assert "Europe/Zurich" == written["ScheduleExpressionTimezone"]
    assert stack.outputs["QueueName"] == schedule["Target"]["Arn"].rpartition(":")[2]
    assert {
        "kind": "start",
        "session_type": "report",
        "tenant": "acme",
        "input": {"cron": "", "timezone": "Europe/Zurich", "scheduled_at": "<aws.scheduler.scheduled-time>"},
        "idempotency_key": "<aws.scheduler.schedule-arn> <aws.scheduler.scheduled-time>",
    } == json.loads(schedule["Target"]["Input"])


def test_endpoints_are_those_of_the_services_that_a_task_calls(account: Account) -> None:
    """Each one open to its network, and asking for no stack: the tasks of one start only where the endpoints are."""
    route_table = account.client("ec2").create_route_table(VpcId=account.network["VpcId"])["RouteTable"]["RouteTableId"]
    parameters = {"ClientCidr": "10.0.0.0/16", "RouteTableIds": route_table, **account.network}
    parameters |= {"CallsKms": "yes", "CallsAgents": "yes"}
    endpoints = account.deploy("endpoints.yaml", parameters, "endpoints")
    found = account.client("ec2").describe_vpc_endpoints()["VpcEndpoints"]
    services = {each["ServiceName"].removeprefix("com.amazonaws.us-east-1."): each for each in found}
    needed = ["dynamodb", "s3", "sqs", "sns", "events", "states", "kms", "secretsmanager", "ecr.api", "ecr.dkr", "logs"]
    assert {*needed, "xray", "lambda", "bedrock-agentcore"} == services.keys()
    assert [route_table] == services["dynamodb"]["RouteTableIds"]
    assert 15 == len(endpoints.resources)
    group = endpoints.resources["EndpointSecurityGroup"]
    (rule,) = account.client("ec2").describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]
    assert ["10.0.0.0/16"] == [each["CidrIp"] for each in rule["IpRanges"]]
