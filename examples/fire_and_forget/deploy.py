"""Creates a function, two state machines and the rules that start them: `python -m examples.fire_and_forget.deploy`.

For an account where none of them is there yet. In earnest they belong into your template, with the role that `ROLE_ARN`
stands for. The queue and the table are the orchestrator's.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import zipfile
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from aiobotocore.session import get_session

HERE: Final = Path(__file__).parent
SOURCE: Final = "acme.orders"
MACHINES: Final = {"Order Placed": "wait_for_token", "Order Imported": "poll"}
"""Which events of an order start which state machine."""
ROLE_ARN: Final = os.environ.get("ROLE_ARN", "arn:aws:iam::000000000000:role/fire-and-forget")


async def deploy(*, poll_seconds: int = 10, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the ARN of each state machine. `environment`: what the function needs besides the queue's address."""
    queue, table = (os.environ.get(f"ORCHESTRATOR_{name}") for name in ("QUEUE", "TABLE"))
    session, region = get_session(), os.environ["AWS_REGION"]
    async with AsyncExitStack() as stack:
        sqs = await stack.enter_async_context(session.create_client("sqs", region_name=region))
        functions = await stack.enter_async_context(session.create_client("lambda", region_name=region))
        states = await stack.enter_async_context(session.create_client("stepfunctions", region_name=region))
        events = await stack.enter_async_context(session.create_client("events", region_name=region))
        queue_url = (await sqs.get_queue_url(QueueName=queue or "orchestrator-sessions"))["QueueUrl"]
        function = await functions.create_function(
            FunctionName="submit-order",
            Runtime="python3.11",
            Handler="submit.handler",
            Role=ROLE_ARN,
            Timeout=5,
            Code={"ZipFile": zipped(HERE / "submit.py")},
            Environment={"Variables": {"QUEUE_URL": queue_url, **(environment or {})}},
        )
        names = {"SubmitFunctionArn": function["FunctionArn"], "TableName": table or "orchestrator"}
        arns: dict[str, str] = {}
        for detail_type, name in MACHINES.items():
            machine = definition(name, names, poll_seconds=poll_seconds)
            created = await states.create_state_machine(name=name, definition=machine, roleArn=ROLE_ARN)
            arns[name] = created["stateMachineArn"]
            pattern = {"source": [SOURCE], "detail-type": [detail_type]}
            await events.put_rule(Name=name, EventPattern=json.dumps(pattern))
            await events.put_targets(Rule=name, Targets=[{"Id": name, "Arn": arns[name], "RoleArn": ROLE_ARN}])
        return arns


def definition(name: str, names: Mapping[str, str], *, poll_seconds: int) -> str:
    """Return a state machine's text, with its names filled in."""
    text = (HERE / f"{name}.asl.json").read_text()
    for placeholder, value in names.items():
        text = text.replace(f"${{{placeholder}}}", value)
    machine = json.loads(text)
    if "Wait" in machine["States"]:
        machine["States"]["Wait"]["Seconds"] = poll_seconds
    return json.dumps(machine)


def zipped(file: Path) -> bytes:
    """Return the file in a ZIP archive."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as files:
        files.write(file, file.name)
    return archive.getvalue()


if __name__ == "__main__":
    for machine, arn in asyncio.run(deploy()).items():
        print(f"{machine}: {arn}")
