"""A Lambda function that hands an order over and returns: one message on the queue, and no answer waited for.

It is deployed as this one file; `boto3` is there on Lambda. The event's id becomes the session's, so that an event that
EventBridge delivers twice, or a call that Lambda retries, starts one session.
"""

import json
import os
from typing import Any

import boto3  # type: ignore[import-untyped]

# Made while the function is loaded, so that no call pays for it.
sqs = boto3.client("sqs")
QUEUE_URL = os.environ["QUEUE_URL"]


def handler(event: dict[str, Any], context: object) -> dict[str, str]:
    """Start the order's session; return its id. `task_token` is there where a task waits for the end."""
    order = event["order"]
    start = {
        "kind": "start",
        "session_type": "analyse-order",
        "session_id": f"analysis-{order['id']}",
        "input": order["detail"],
        "task_token": event.get("task_token"),
    }
    sqs.send_message(QueueUrl=QUEUE_URL, MessageBody=json.dumps(start))
    return {"session_id": start["session_id"]}
