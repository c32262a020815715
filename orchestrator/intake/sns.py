"""SNS envelopes: what a topic adds around a message where raw delivery is off (SNS, "HTTP/S notification JSON")."""

from __future__ import annotations

from typing import Final

from orchestrator.errors import Poison
from orchestrator.intake.parsing import NEVER_SUCCEEDS, json_object
from orchestrator.session.values import Json

INSIDE: Final = "Message: "
ENVELOPES_DEEP_MAX: Final = 3
"""One topic may feed another; AWS nests no deeper by itself."""
_CONFIRMATIONS: Final = ("SubscriptionConfirmation", "UnsubscribeConfirmation")


def unwrapped(body: dict[str, Json]) -> tuple[dict[str, Json], str]:
    """Return what is inside of all envelopes (the body itself where there is none), and where: `Message: ` for each.

    Raises:
        Poison: an envelope holds no JSON object, or too many others; the text says where.
    """
    where = ""
    while _is_notification(body, where):
        where += INSIDE
        if len(where) > ENVELOPES_DEEP_MAX * len(INSIDE):
            raise Poison(NEVER_SUCCEEDS, f"{where}envelopes are nested too deep")
        try:
            body = json_object(str(body["Message"]))
        except Poison as poison:
            raise placed(poison, where) from None
    return body, where


def placed(poison: Poison, where: str) -> Poison:
    """Return the error as one of what stands inside of envelopes."""
    return Poison(poison.reason, f"{where}{poison}") if where else poison


def _is_notification(body: dict[str, Json], where: str) -> bool:
    if body.get("Type") in _CONFIRMATIONS and "SubscribeURL" in body:
        raise Poison(NEVER_SUCCEEDS, f"{where}Type: open the SubscribeURL, then the topic sends what it is told")
    return body.get("kind") is None and body.get("Type") == "Notification" and isinstance(body.get("Message"), str)
