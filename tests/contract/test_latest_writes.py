"""What `LatestWrites` keeps: of each object the write that was seen last, by the order that S3 gives them."""

import asyncio
from datetime import timedelta

import pytest

from orchestrator.objects import KEPT, ObjectWrite, is_older
from tests.contract.stage import Store
from tests.contract.waiting import START


def write(sequencer: str, *, key: str = "in/a.pdf", bucket: str = "documents") -> ObjectWrite:
    return ObjectWrite(bucket, key, sequencer)


@pytest.mark.parametrize(
    ("sequencer", "than", "expected"),
    [
        ("0055", "0056", True),
        ("0056", "0055", False),
        ("0055", "0055", False),
        # A shorter text is no older than the same one with zeros behind it, and a longer one may be.
        ("0055", "005500", False),
        ("005500", "0055", False),
        ("0055", "005501", True),
        ("0054FF", "0055", True),
        ("", "0", False),
    ],
)
def test_the_shorter_sequencer_is_padded_on_the_right(sequencer: str, than: str, expected: bool) -> None:
    """S3 User Guide, "Event message structure"."""
    assert expected is is_older(sequencer, than)


async def noted(store: Store, *sequencers: str) -> list[str]:
    """Note writes of one object, one after another; return what was told to each."""
    return [await store.latest_writes.note(write(sequencer)) for sequencer in sequencers]


async def test_the_latest_write_of_an_object_is_told_to_whoever_notes_one(store: Store) -> None:
    """An earlier one changes nothing; one that is noted again is not older than itself.

    Of texts of different length the shorter one is padded with zeros on the right: that is no order of numbers.
    """
    assert ["0055", "0057", "0057", "0057"] == await noted(store, "0055", "0057", "0056", "0057")
    assert ["0057AE", "0057AE", "0057AE01", "0057AE01"] == await noted(
        store, "0057AE", "0057AD9999", "0057AE01", "0057"
    )


async def test_an_order_holds_for_one_object_only(store: Store) -> None:
    """Sequencers of another key, or of another bucket, say nothing of it."""
    await noted(store, "9")
    for other in (write("1", key="in/b.pdf"), write("1", bucket="others")):
        assert "1" == await store.latest_writes.note(other)


async def test_any_name_of_an_object_is_taken(store: Store) -> None:
    """As long as a key may be, in any script; and what is joined from two names is not another's."""
    for key in ("é" * 512, "日本/🍵 \x01", "/", "b/c"):
        assert "2" == await store.latest_writes.note(write("2", key=key, bucket="a"))
    assert "1" == await store.latest_writes.note(write("1", key="c", bucket="a/b"))


async def test_after_thirty_days_any_write_is_the_first(store: Store) -> None:
    """No queue keeps a message as long; DynamoDB may not have deleted the item yet."""
    await noted(store, "9")
    store.clock.set_wall(START + KEPT - timedelta(seconds=1))
    assert ["9"] == await noted(store, "1")
    store.clock.set_wall(START + KEPT)
    assert ["1", "1"] == await noted(store, "1", "0")


@pytest.mark.usefixtures("isolated")
async def test_of_writes_noted_at_once_the_latest_stays(store: Store) -> None:
    """Each is told of one that is no older than itself."""
    sequencers = [f"{number:02X}" for number in range(12)]
    told = await asyncio.gather(*(store.latest_writes.note(write(sequencer)) for sequencer in sequencers))
    assert [] == [each for each, latest in zip(sequencers, told, strict=True) if is_older(latest, than=each)]
    assert ["0B"] == await noted(store, "00")
