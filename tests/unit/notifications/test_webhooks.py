"""Webhooks to real servers on loopback: signed so that a receiver can check them, and never trusted with our time."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from notices import ASKED, COMPLETED
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from actors import SystemClock
from orchestrator.errors import SettingsError
from orchestrator.notifications import NotDelivered
from orchestrator.notifications.webhooks import WebhookChannel
from orchestrator.settings import load

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PATIENCE_SECONDS = 5.0

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Receiver:
    """A server that writes down what came to it: body and headers."""

    url: str
    came: list[tuple[str, dict[str, str]]] = field(default_factory=list)


def answering(status: int, **headers: str) -> Answer:
    """Return an answer that is always the same."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, headers=headers)

    return answer


async def hanging(_: web.Request) -> web.Response:
    """Never answer."""
    await asyncio.Event().wait()
    raise AssertionError("nothing sets it")


async def dripping(request: web.Request) -> web.StreamResponse:
    """Answer, and never come to the end of it."""
    answer = web.StreamResponse()
    await answer.prepare(request)
    await asyncio.Event().wait()
    return answer


@asynccontextmanager
async def receiver(answer: Answer) -> AsyncIterator[Receiver]:
    """Run a server for one test; what it has under way ends with it."""
    received = Receiver("")

    async def handle(request: web.Request) -> web.StreamResponse:
        received.came.append((await request.text(), {name.lower(): value for name, value in request.headers.items()}))
        return await answer(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        received.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
        yield received
    finally:
        await runner.cleanup()


async def test_a_receiver_can_check_who_sent_it_and_what() -> None:
    """By the library that receivers use; another secret, or another body, fails the check."""
    async with receiver(answering(204)) as to:
        await WebhookChannel(to.url, SECRET, SystemClock()).tell(COMPLETED)
    ((body, headers),) = to.came
    assert COMPLETED.notification_id == headers["webhook-id"]
    received = Webhook(SECRET).verify(body, headers)
    assert ("session.completed", "2026-01-01T12:00:00.000Z") == (received["type"], received["timestamp"])
    assert (COMPLETED.notification_id, COMPLETED.result) == (
        received["data"]["notification_id"],
        received["data"]["result"],
    )
    assert "token" not in body
    for secret, text in ((SECRET[:-4] + "AAAA", body), (SECRET, body + " ")):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(text, headers)


async def test_every_try_has_the_same_id_and_the_approvals_token() -> None:
    """Whoever is told in this way is whom the deployment trusts to answer."""
    async with receiver(answering(200)) as to:
        for _ in range(2):
            await WebhookChannel(to.url, SECRET, SystemClock()).tell(ASKED)
    assert [ASKED.notification_id] * 2 == [headers["webhook-id"] for _, headers in to.came]
    assert {ASKED.token} == {json.loads(body)["data"]["token"] for body, _ in to.came}


@pytest.mark.parametrize(
    ("answer", "reason", "is_final"),
    [
        (answering(500), "HTTP_500", False),
        (answering(429), "HTTP_429", False),
        (answering(404), "HTTP_404", False),
        (answering(410), "HTTP_410", True),
        (answering(302, Location="/elsewhere"), "HTTP_302", False),
        (hanging, "TIMEOUT", False),
    ],
    ids=["500", "429", "404", "410", "redirect", "hangs"],
)
async def test_whatever_is_not_a_yes_is_not_delivered(answer: Answer, reason: str, is_final: bool) -> None:
    """One request each: no redirect is followed, and a target that hangs takes no more than its time."""
    async with asyncio.timeout(PATIENCE_SECONDS), receiver(answer) as to:
        seconds_max = 0.2 if answer is hanging else PATIENCE_SECONDS
        with pytest.raises(NotDelivered) as refusal:
            await WebhookChannel(to.url, SECRET, SystemClock(), seconds_max=seconds_max).tell(COMPLETED)
    assert (reason, is_final, 1) == (refusal.value.reason, refusal.value.is_final, len(to.came))


async def test_an_answer_that_never_ends_is_an_answer() -> None:
    """Its body is not read: nobody can keep us, or fill our memory, with it."""
    async with asyncio.timeout(PATIENCE_SECONDS), receiver(dripping) as to:
        await WebhookChannel(to.url, SECRET, SystemClock()).tell(COMPLETED)
    assert 1 == len(to.came)


async def test_a_target_that_nobody_listens_at_is_not_delivered() -> None:
    """Nor one that speaks no HTTP."""
    async with receiver(answering(200)) as to:
        gone = to.url
    with pytest.raises(NotDelivered, match="ClientConnectorError"):
        await WebhookChannel(gone, SECRET, SystemClock()).tell(COMPLETED)

    async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.test ESMTP\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(babble, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        with pytest.raises(NotDelivered):
            await WebhookChannel(f"http://{host}:{port}/", SECRET, SystemClock()).tell(COMPLETED)


@pytest.mark.parametrize(
    ("url", "secret", "named"),
    [
        ("http://example.test/hook", SECRET, "ORCHESTRATOR_WEBHOOK_URL: .*https"),
        ("http://127.0.0.1.example.test/hook", SECRET, "ORCHESTRATOR_WEBHOOK_URL: .*https"),
        ("ftp://example.test/hook", SECRET, "ORCHESTRATOR_WEBHOOK_URL: .*https"),
        ("https://", SECRET, "ORCHESTRATOR_WEBHOOK_URL: .*https"),
        ("https://[::1/hook", SECRET, "ORCHESTRATOR_WEBHOOK_URL: .*https"),
        ("https://example.test/hook", "whsec_c2hvcnQ=", "ORCHESTRATOR_WEBHOOK_SECRET: .*24 to 64 bytes"),
        ("https://example.test/hook", "not base64!", "ORCHESTRATOR_WEBHOOK_SECRET: .*24 to 64 bytes"),
        ("https://example.test/hook", "", "ORCHESTRATOR_WEBHOOK_SECRET: missing"),
        ("", SECRET, "ORCHESTRATOR_WEBHOOK_URL: missing"),
    ],
)
def test_a_bad_target_or_secret_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, url: str, secret: str, named: str
) -> None:
    """With one line that names the setting, and does not quote the secret."""
    monkeypatch.setenv("ORCHESTRATOR_WEBHOOK_URL", url)
    monkeypatch.setenv("ORCHESTRATOR_WEBHOOK_SECRET", secret)
    with pytest.raises(SettingsError, match=named) as refused:
        load()
    assert not secret or secret not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["https://example.test/hook", "http://127.0.0.1:9/hook", "http://[::1]/", "http://localhost"]
)
def test_a_target_that_nobody_can_listen_to_on_the_way_is_taken(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """TLS, or this machine."""
    monkeypatch.setenv("ORCHESTRATOR_WEBHOOK_URL", url)
    monkeypatch.setenv("ORCHESTRATOR_WEBHOOK_SECRET", SECRET)
    settings = load()
    assert url == settings.webhook_url
    assert SECRET not in repr(settings)


async def test_a_target_that_hangs_is_waited_for_by_one_session_at_a_time() -> None:
    """A thousand would fill the memory to hear the same; as soon as it answers, all are let through again."""
    let_go = asyncio.Event()

    async def sometimes(_: web.Request) -> web.Response:
        await let_go.wait()
        return web.Response(status=204)

    async with asyncio.timeout(PATIENCE_SECONDS), receiver(sometimes) as to:
        channel = WebhookChannel(to.url, SECRET, SystemClock(), seconds_max=0.5)
        first = await asyncio.gather(*[channel.tell(COMPLETED) for _ in range(3)], return_exceptions=True)
        assert ["TIMEOUT"] * 3 == [str(end) for end in first]
        later = await asyncio.gather(*[channel.tell(COMPLETED) for _ in range(100)], return_exceptions=True)
        assert ["TIMEOUT", *["TARGET_HANGS"] * 99] == [str(end) for end in later]
        let_go.set()
        await channel.tell(COMPLETED)
        assert [None] * 3 == await asyncio.gather(*[channel.tell(COMPLETED) for _ in range(3)])
