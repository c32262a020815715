"""What `Inbox` keeps: messages that wait for their session's owner, each once (rule 11)."""

import asyncio
from collections.abc import Sequence

import pytest

from orchestrator.inbox import Inbox, InboxItem, MessageConflict
from tests.contract.stage import SESSION, Store, append, head, recorded

MESSAGE = InboxItem("message-1", 1, '{"type":"signal"}')


async def read_ids(inbox: Inbox, session_id: str = SESSION) -> Sequence[str]:
    return [item.message_id for item in await inbox.read(session_id)]


async def test_a_session_without_messages_has_an_empty_inbox(inbox: Inbox) -> None:
    """`()` is no error, for a session that nobody knows either."""
    assert () == await inbox.read("never-seen")


async def test_a_message_is_read_back_equal(inbox: Inbox) -> None:
    """Id, position and body, whatever the text holds; reading takes nothing away."""
    message = InboxItem("message-1", 12_345, '{"why":"日本","line":"\\n","n":1e300}')
    await inbox.put(SESSION, message)
    assert (message,) == await inbox.read(SESSION) == await inbox.read(SESSION)


async def test_messages_are_read_by_position_then_by_id(inbox: Inbox) -> None:
    """The order of the table's keys and of the puts does not count; ten comes after nine."""
    in_order = [InboxItem("z", 1, "1"), InboxItem("a", 9, "2"), InboxItem("b", 9, "3"), InboxItem("Z", 10, "4")]
    for place in (2, 0, 3, 1):
        await inbox.put(SESSION, in_order[place])
    assert tuple(in_order) == await inbox.read(SESSION)


async def test_a_message_put_again_waits_once_at_its_first_place(inbox: Inbox) -> None:
    """A redelivery finds itself there, though the inbox version went on meanwhile."""
    await inbox.put(SESSION, MESSAGE)
    await inbox.put(SESSION, InboxItem(MESSAGE.message_id, 7, MESSAGE.body))
    assert (MESSAGE,) == await inbox.read(SESSION)


async def test_another_body_under_the_same_id_is_a_conflict(inbox: Inbox) -> None:
    """It is refused, not written over the first (rule 11)."""
    await inbox.put(SESSION, MESSAGE)
    with pytest.raises(MessageConflict) as refused:
        await inbox.put(SESSION, InboxItem(MESSAGE.message_id, 1, '{"type":"cancel"}'))
    assert (SESSION, MESSAGE.message_id) == (refused.value.session_id, refused.value.message_id)
    assert (MESSAGE,) == await inbox.read(SESSION)


@pytest.mark.usefixtures("isolated")
async def test_of_many_bodies_under_one_id_exactly_one_waits(inbox: Inbox) -> None:
    """Ten senders at once: one is stored, nine are told so."""
    messages = [InboxItem("message-1", 1, str(n)) for n in range(10)]
    outcomes = await asyncio.gather(*(inbox.put(SESSION, each) for each in messages), return_exceptions=True)
    assert 9 == sum(isinstance(outcome, MessageConflict) for outcome in outcomes)
    assert (messages[outcomes.index(None)],) == await inbox.read(SESSION)


async def test_ids_of_every_shape_are_kept_apart(inbox: Inbox) -> None:
    """Every character that an id may have, up to 128 of them; one that begins like another is another."""
    names = ["0", "A.z_0:9-", "a", "a:b", "z" * 127, "z" * 128, "..", "EVENT", "zz~"]
    for n, name in enumerate(names):
        await inbox.put(SESSION, InboxItem(name, n, name))
    assert names == await read_ids(inbox)


async def test_the_inbox_holds_nothing_but_messages(store: Store) -> None:
    """Events, HEAD and other sessions' messages stand beside it, and stay when it is emptied."""
    await store.heads.create(head())
    await append(store.journal, recorded(1))
    for name in (SESSION, "session-10", "session"):
        await store.inbox.put(name, MESSAGE)
    assert (MESSAGE,) == await store.inbox.read(SESSION)
    await store.inbox.delete(SESSION, [MESSAGE.message_id])
    assert [(), (MESSAGE,), (MESSAGE,)] == [await store.inbox.read(name) for name in (SESSION, "session-10", "session")]
    assert head() == await store.heads.get(SESSION)


async def test_only_the_messages_named_are_deleted(inbox: Inbox) -> None:
    """Sixty go at once, the others wait on."""
    await asyncio.gather(*(inbox.put(SESSION, InboxItem(f"message-{n:02d}", n, "x")) for n in range(70)))
    await inbox.delete(SESSION, [f"message-{n:02d}" for n in range(60)])
    assert [f"message-{n:02d}" for n in range(60, 70)] == await read_ids(inbox)


async def test_deleting_what_is_not_there_is_no_error(inbox: Inbox) -> None:
    """A deletion whose answer was lost is repeated; the id is free again."""
    await inbox.delete(SESSION, [])
    await inbox.delete(SESSION, ["unknown"])
    await inbox.put(SESSION, MESSAGE)
    for _ in range(2):
        await inbox.delete(SESSION, ["unknown", MESSAGE.message_id])
    await inbox.put(SESSION, InboxItem(MESSAGE.message_id, 2, "another"))
    assert [MESSAGE.message_id] == await read_ids(inbox)
