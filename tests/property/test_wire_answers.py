"""What comes back over a connection is an answer, an error of the service, or a fault that is tried again.

To change it: whatever reads an answer of AWS belongs here, down to its bytes.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import aiohttp
import pytest
from any_messages import NOON
from any_values import anything, examples, json_like, odd, spoiled
from botocore.exceptions import ClientError
from hypothesis import example, given
from hypothesis import strategies as st

from actors import ManualClock
from orchestrator.artifacts import ARTIFACT_BYTES_MAX, ArtifactRef, ArtifactUnreadable
from orchestrator.artifacts.coding import Decoder, Encoder
from orchestrator.artifacts.memory import MemoryArtifacts
from orchestrator.artifacts.payloads import PayloadStore
from orchestrator.aws.connection import Answer, Connection
from orchestrator.aws.faults import Patience, Reachability
from orchestrator.aws.queue import Queue, QueueMessage
from orchestrator.aws.signed import SignedClient
from orchestrator.aws.table import Table
from orchestrator.telemetry.context import trace_parent

FAULTS: Final = (aiohttp.ClientError, ConnectionError, TimeoutError)
"""What is tried again."""
SECONDS_MAX: Final = 10.0
"""Only a failing test waits that long."""

# --- bytes ---------------------------------------------------------------------------------------------------------

ANSWERS: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-Trailer: t\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.0 503 Slow Down\r\nConnection: close\r\n\r\n<html>",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
)
PIECES: Final = st.sampled_from(
    [b"", b"\r\n", b"\r\n\r\n", b"0\r\n", b"f" * 40, b":", b"\x00", b"Content-Length: -1\r\n", b"9" * 40, b"\xff"]
)


@st.composite
def bytes_received(draw: st.DrawFn) -> list[bytes]:
    """Return an answer of which some was spoiled, in the pieces in which it comes."""
    raw = draw(st.sampled_from(ANSWERS) | st.binary(max_size=60))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(raw)))
        raw = raw[:at] + draw(PIECES | st.binary(max_size=5)) + raw[at + draw(st.integers(0, 10)) :]
    cuts = sorted(draw(st.sets(st.integers(0, len(raw)), max_size=4)))
    return [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]


class Pipe(asyncio.Transport):
    """A transport that sends nowhere, and tells its protocol when it is closed."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._protocol = protocol
        self._is_closing = False

    def writelines(self, list_of_data: Any) -> None:
        """See `asyncio.WriteTransport`."""

    def is_closing(self) -> bool:
        """See `asyncio.BaseTransport`."""
        return self._is_closing

    def close(self) -> None:
        """See `asyncio.BaseTransport`."""
        if not self._is_closing:
            self._is_closing = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        """See `asyncio.WriteTransport`."""
        self.close()


@given(pieces=bytes_received())
@examples(400)
def test_any_bytes_are_an_answer_or_a_fault(pieces: list[bytes]) -> None:
    """And the connection that heard them is either fit for the next exchange or closed."""

    async def exchanged() -> None:
        connection = Connection(SECONDS_MAX)
        pipe = Pipe(connection)
        connection.connection_made(pipe)
        exchanging = asyncio.ensure_future(connection.exchange((b"head", b"body")))
        await asyncio.sleep(0)
        for piece in pieces:
            if connection.is_usable and piece:
                connection.data_received(piece)
                await asyncio.sleep(0)
        if not exchanging.done():
            pipe.close()
        async with asyncio.timeout(SECONDS_MAX):
            try:
                answer = await exchanging
            except FAULTS:
                assert not connection.is_usable
            else:
                assert 200 <= answer.status <= 999

    asyncio.run(exchanged())


# --- JSON ----------------------------------------------------------------------------------------------------------


class Exchanged:
    """An exchange that answers what it is told to."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def post(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """See `Exchange.post`."""
        return self._answer


class Keys:
    """Credentials of nobody."""

    access_key, secret_key, token = "a", "s", None

    async def get_frozen_credentials(self) -> "Keys":
        """See `AioCredentials`."""
        return self


def signed(answer: Answer) -> SignedClient:
    """Return a client that is answered so."""
    exchange, keys = Exchanged(answer), Keys()
    return SignedClient(
        exchange,  # type: ignore[arg-type]
        keys,  # type: ignore[arg-type]
        url="http://nowhere/",
        region="r",
        service="s",
        target="T",
    )


def patience() -> Patience:
    """Return a patience that gives up at once."""
    clock = ManualClock(NOON)
    return Patience(clock, Reachability("t", clock), lambda: 0.0, seconds_max=-1.0)


statuses: Final = st.sampled_from([200, 200, 200, 400, 413, 500, 503])
odd_bytes: Final = st.sampled_from([b"", b"[" * 100_000, b'{"__type":' * 50_000, b"9" * 10_000, b"\xff{}", b"null"])


@given(status=statuses, raw=st.binary() | odd_bytes | odd.map(lambda value: json.dumps(value).encode()), query=anything)
@example(400, b"[" * 100_000, "")
@example(400, b"9" * 10_000, "")
@examples(400)
def test_any_body_is_an_object_an_error_of_the_service_or_a_fault(status: int, raw: bytes, query: str) -> None:
    """Whatever its status is."""
    client = signed(Answer(status, {"x-amzn-query-error": query}, raw))
    if status == 200:
        with suppress(*FAULTS):
            assert isinstance(asyncio.run(client.call("Query", {})), dict)
        return
    with pytest.raises(ClientError) as raised:
        asyncio.run(client.call("Query", {}))
    told = raised.value.response["Error"]
    assert all(isinstance(text, str) for text in (told["Code"], told["Message"]))


POLLED: Final[dict[str, Any]] = {
    "Messages": [
        {
            "MessageId": "m-1",
            "ReceiptHandle": "r-1",
            "Body": "{}",
            "MD5OfBody": "0",
            "Attributes": {
                "ApproximateReceiveCount": "1",
                "AWSTraceHeader": "Root=1-5759e988-bd862e3fe1be46a994272793",
            },
            "MessageAttributes": {
                "traceparent": {"StringValue": "00-" + "1" * 32 + "-" + "2" * 16 + "-01", "DataType": "String"},
                "raw": {"BinaryValue": "AAAA", "DataType": "Binary"},
            },
        }
    ]
}


@given(answer=spoiled(st.just(POLLED)))
@examples(400)
def test_any_answer_to_a_poll_is_messages_or_a_fault(answer: Any) -> None:
    """A node that is told nonsense polls again; its consumer does not end."""
    raw = json.dumps(answer).encode()
    queue = Queue(None, signed(Answer(200, {}, raw)), "http://queue", patience())  # type: ignore[arg-type]
    try:
        messages = asyncio.run(queue.receive(messages_max=1, wait_seconds=0, visibility_seconds=1))
    except FAULTS:
        return
    for message in messages:
        assert isinstance(message, QueueMessage)
        trace_parent(xray_header=message.trace_header, attributes=message.attributes)


QUERIED: Final[dict[str, Any]] = {
    "Items": [{"PK": {"S": "SESSION#s"}, "SK": {"S": "HEAD"}, "epoch": {"N": "1"}, "token_sha256": {"SS": ["a"]}}],
    "Count": 1,
}


@given(answer=spoiled(st.just(QUERIED)))
@example({"Items": [{"epoch": {"N": "ten"}}]})
@example({"Items": [{"epoch": {"N": "1E+9999999999"}}]})
@examples(400)
def test_any_answer_to_a_query_is_items_or_a_fault(answer: Any) -> None:
    """Items are read before the next page is asked for."""
    if isinstance(answer, dict):
        answer.pop("LastEvaluatedKey", None)
    table = Table(None, signed(Answer(200, {}, json.dumps(answer).encode())), "t", patience())  # type: ignore[arg-type]

    async def read() -> Sequence[object]:
        return [item async for item in table.partition("p", sk_after="a", sk_until="b")]

    try:
        assert all(isinstance(item, dict) for item in asyncio.run(read()))
    except FAULTS:
        return


# --- the bucket ----------------------------------------------------------------------------------------------------

CONTENT: Final = b'{"some": "content"}' * 20


@st.composite
def objects(draw: st.DrawFn) -> bytes:
    """Return the bytes of an object, some of them spoiled."""
    encoder = Encoder(compressed=True)
    raw = bytes(encoder.feed(CONTENT)) + encoder.finish()
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(raw)))
        raw = raw[:at] + draw(st.binary(max_size=5)) + raw[at + draw(st.integers(0, 10)) :]
    return raw


@given(raw=objects() | st.binary(), compressed=st.booleans(), length=st.integers(0, 1_000))
@examples(300)
def test_any_object_is_the_content_or_unreadable(raw: bytes, compressed: bool, length: int) -> None:
    """Never another content, and never more of it than its reference says."""
    encoder = Encoder(compressed=False)
    encoder.feed(CONTENT)
    ref = encoder.ref("bucket", "key")
    if length % 3 == 0:
        ref = ArtifactRef(ref.artifact, length, ref.sha256)
    decoder = Decoder(ref, compressed=compressed)
    try:
        content = decoder.feed(raw)
        while decoder.is_pending:
            content += decoder.feed(decoder.kept)
        decoder.finish()
    except ArtifactUnreadable:
        return
    assert CONTENT == content


REFERENCE: Final = {"artifact": "s3://bucket/sessions/s/1.json.gz", "bytes": 5, "sha256": "0" * 64}


@given(value=spoiled(st.just(REFERENCE)) | spoiled(st.just({"inline": REFERENCE})) | json_like)
@example({**REFERENCE, "bytes": ARTIFACT_BYTES_MAX + 1})
@example({**REFERENCE, "artifact": "s3://elsewhere/key"})
@example({**REFERENCE, "artifact": "s3:///"})
@examples(400)
def test_any_value_of_a_journal_is_opened_or_unreadable(value: Any) -> None:
    """Where it is a reference, or half of one, too."""
    store = PayloadStore(MemoryArtifacts("bucket"), inline_bytes_max=1_000)
    with suppress(ArtifactUnreadable):
        asyncio.run(store.open(value))
