"""SQS, as the product sees it: messages that repeat, come in any order, and come again until they are deleted.

To change it: a standard queue and its dead-letter queue. What a message is about is known to who sent it, so that they
can be told when it was acknowledged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeAlias

from orchestrator.aws.provision import RECEIVES_MAX
from tests.simulation.world import World

Request: TypeAlias = Mapping[str, Any]

QUEUE_URL = "https://sqs.simulated/queue"
DEAD_LETTERS_URL = "https://sqs.simulated/dead-letters"


@dataclass(slots=True)
class Message:
    """One message on the queue. `on_deleted` is called when its receiver acknowledges it."""

    message_id: str
    body: str
    on_deleted: Callable[[], None]
    visible_at: float = 0.0
    receives: int = 0


@dataclass(slots=True)
class DeadLetter:
    """What went to the dead-letter queue. `code` is empty for what SQS moved there itself, after too many receives."""

    message_id: str
    body: str
    code: str


@dataclass(slots=True)
class _Poll:
    answer: Callable[[dict[str, Any]], None]
    count: int
    visibility: float
    until: float
    is_over: bool = False


class SimQueue:
    """The queue and its dead-letter queue. `repeats()` says whether a message is handed out though it is in flight."""

    def __init__(self, world: World, repeats: Callable[[], bool]) -> None:
        self._world = world
        self._repeats = repeats
        self._messages: dict[str, Message] = {}
        self._receipts: dict[str, str] = {}
        self._polls: list[_Poll] = []
        self._numbers = count(1)
        self.dead_letters: list[DeadLetter] = []

    @property
    def is_empty(self) -> bool:
        """Whether every message was acknowledged or went to the dead-letter queue."""
        return not self._messages

    def put(self, body: str, on_deleted: Callable[[], None] = lambda: None) -> str:
        """Send a message; return its id."""
        message_id = f"m-{next(self._numbers)}"
        self._messages[message_id] = Message(message_id, body, on_deleted, self._world.time)
        self._hand_out()
        return message_id

    def perform(self, operation: str, request: Request) -> dict[str, Any]:
        """Return the answer to a request that is answered at once."""
        match operation:
            case "GetQueueUrl":
                is_dead_letters = request["QueueName"].endswith("-dlq")
                return {"QueueUrl": DEAD_LETTERS_URL if is_dead_letters else QUEUE_URL}
            case "DeleteMessageBatch":
                return self._each(request, self._delete)
            case "ChangeMessageVisibilityBatch":
                return self._each(request, self._prolong)
            case "SendMessage":
                return self._send(request)
            case _:
                raise AssertionError(f"{operation} is not simulated")

    def receive(self, request: Request, answer: Callable[[dict[str, Any]], None]) -> None:
        """Answer a poll when there are messages for it, or when its wait is over."""
        wait = float(request["WaitTimeSeconds"])
        poll = _Poll(answer, request["MaxNumberOfMessages"], request["VisibilityTimeout"], self._world.time + wait)
        self._polls.append(poll)
        self._world.after(wait, lambda: self._end(poll))
        self._hand_out()

    # --- handing out ---------------------------------------------------------------------------------------------

    def _hand_out(self) -> None:
        while self._polls:
            self._redrive()
            ready = [m for m in self._messages.values() if m.visible_at <= self._world.time]
            if not ready:
                self._look_again()
                return
            poll = self._polls.pop(0)
            poll.is_over = True
            self._world.chance.shuffle(ready)
            poll.answer({"Messages": [self._delivery(m, poll.visibility) for m in ready[: poll.count]]})

    def _look_again(self) -> None:
        later = [m.visible_at for m in self._messages.values()]
        if later:
            self._world.at(min(later), self._hand_out)

    def _redrive(self) -> None:
        worn = [m for m in self._messages.values() if m.receives >= RECEIVES_MAX and m.visible_at <= self._world.time]
        for message in worn:
            del self._messages[message.message_id]
            self.dead_letters.append(DeadLetter(message.message_id, message.body, ""))
            message.on_deleted()

    def _delivery(self, message: Message, visibility: float) -> dict[str, Any]:
        message.receives += 1
        message.visible_at = self._world.time + (0.5 if self._repeats() else visibility)
        receipt = f"r-{next(self._numbers)}"
        self._receipts[receipt] = message.message_id
        return {
            "MessageId": message.message_id,
            "ReceiptHandle": receipt,
            "Body": message.body,
            "Attributes": {"ApproximateReceiveCount": str(message.receives)},
        }

    def _end(self, poll: _Poll) -> None:
        if not poll.is_over:
            poll.is_over = True
            self._polls.remove(poll)
            poll.answer({})

    # --- what receivers ask --------------------------------------------------------------------------------------

    def _each(self, request: Request, do: Callable[[Mapping[str, Any]], None]) -> dict[str, Any]:
        for entry in request["Entries"]:
            do(entry)
        return {"Successful": [{"Id": entry["Id"]} for entry in request["Entries"]], "Failed": []}

    def _delete(self, entry: Mapping[str, Any]) -> None:
        message_id = self._receipts.get(entry["ReceiptHandle"], "")
        message = self._messages.get(message_id)
        if message is None:
            return
        message.on_deleted()
        if self._repeats():
            # Now and then a server that was away brings a deleted message back (SQS, "at-least-once delivery").
            message.visible_at = self._world.time + 1.0
            message.on_deleted = lambda: None
            self._hand_out()
        else:
            del self._messages[message_id]

    def _prolong(self, entry: Mapping[str, Any]) -> None:
        message = self._messages.get(self._receipts.get(entry["ReceiptHandle"], ""))
        if message is not None:
            message.visible_at = self._world.time + entry["VisibilityTimeout"]
            self._hand_out()

    def _send(self, request: Request) -> dict[str, Any]:
        attributes = request.get("MessageAttributes", {})
        if request["QueueUrl"] == DEAD_LETTERS_URL:
            about = attributes["OriginalMessageId"]["StringValue"]
            code = attributes["ErrorCode"]["StringValue"]
            self.dead_letters.append(DeadLetter(about, request["MessageBody"], code))
            return {"MessageId": f"d-{next(self._numbers)}"}
        return {"MessageId": self.put(request["MessageBody"])}
