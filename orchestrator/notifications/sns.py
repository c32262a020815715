"""Approvals on an SNS topic, as a text that a person can act on; attributes let subscriptions filter."""

from __future__ import annotations

import json
import shlex
from typing import Final

from orchestrator.artifacts import is_reference
from orchestrator.aws.outlets import CallFailed, Topic
from orchestrator.notifications import ApprovalNotice, NotDelivered
from orchestrator.notifications.document import cut
from orchestrator.session.values import Json, format_instant

SUBJECT_LENGTH_MAX: Final = 100
"""SNS, `Publish`: fewer than 100 ASCII characters, none of them a line break."""
ASKED_LENGTH_MAX: Final = 10_000
NAMES_LENGTH_MAX: Final = 1_000


class SNSChannel:
    """The topic of those who approve."""

    def __init__(self, topic: Topic) -> None:
        self._topic = topic

    async def tell(self, notice: ApprovalNotice) -> None:
        """Send the message. Raises `NotDelivered`."""
        attributes = {
            "kind": notice.kind,
            "notification_id": notice.notification_id,
            "session_id": notice.session_id,
            "session_type": notice.session_type,
            "tenant": notice.tenant,
            "approval": notice.name,
        }
        try:
            await self._topic.publish(
                subject_of(notice),
                text_of(notice),
                attributes,
                group=notice.session_id,
                message=notice.notification_id,
            )
        except CallFailed as failed:
            raise NotDelivered(failed.reason) from None


def subject_of(notice: ApprovalNotice) -> str:
    """Return the line that a mail shows first."""
    line = f"Approval requested: {notice.name} ({notice.session_type})"
    printable = "".join(each if each.isascii() and each.isprintable() else "?" for each in line)
    return printable[: SUBJECT_LENGTH_MAX - 1]


def text_of(notice: ApprovalNotice) -> str:
    """Return what is asked, by which session, until when, and how to answer."""
    until = "no limit" if notice.times_out_at is None else format_instant(notice.times_out_at)
    answer = {"token": notice.token, "status": "SUCCESS", "result": {"approved": True, "by": "YOUR NAME"}}
    named = ", ".join(map(str, notice.approvers)) if isinstance(notice.approvers, list) else ""
    who = [f"Only from: {cut(named, NAMES_LENGTH_MAX)}"] if named else []
    names = f"{shlex.quote(notice.session_id)} {shlex.quote(notice.name)}"
    return "\n".join(
        [
            f"The session {notice.session_id} ({notice.session_type}, tenant {notice.tenant}) asks for an approval:",
            f"{notice.name}.",
            "",
            _asked(notice.subject),
            "",
            f"Answer until: {until}",
            *who,
            "",
            "Answer on the command line (`reject` says no):",
            f"  orchestrator approve {names} --by 'YOUR NAME'",
            "or from anywhere, with the token of this message (`false` says no):",
            f"  curl -X POST {shlex.quote(notice.url)} -H 'Content-Type: application/json' \\",
            f"    -d {shlex.quote(json.dumps(answer))}",
            "",
            f"Notification {notice.notification_id}: who has seen this id before has seen this question.",
        ]
    )


def _asked(subject: Json) -> str:
    if subject is None:
        return "(It says no more.)"
    if is_reference(subject):
        return f"What it is about stands in the bucket: {json.dumps(subject)}"
    text = subject if isinstance(subject, str) else json.dumps(subject, indent=2, ensure_ascii=False)
    return cut(text, ASKED_LENGTH_MAX)
