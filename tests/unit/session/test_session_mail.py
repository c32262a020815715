"""The mail of a session: signals in order, known message ids, and what of both a next generation gets."""

import json

import pytest
from annotated_types import Le

from orchestrator.journal.codec import encode
from orchestrator.session import messages as m
from orchestrator.session.events import CancelRequested, SessionStarted, SignalReceived
from orchestrator.session.mail import (
    CARRIED_IDS_BYTES_MAX,
    CARRIED_IDS_MAX,
    CARRIED_SIGNALS_BYTES_MAX,
    NO_MAIL,
    Mail,
    mail_left_by,
    mail_to_carry,
)
from orchestrator.session.values import Json, JsonObject, canonical_json
from orchestrator.settings import Settings

ITEM_BYTES_MAX = 400 * 1024
"""DynamoDB, "Item size"."""
BESIDE_BYTES = 10 * 1024
"""A task token, the changes that the code knows, the item's other attributes."""
LARGE = "x" * (CARRIED_SIGNALS_BYTES_MAX // 4)
"""The data of a signal of which three fit beside a next generation's input, and four do not."""


def with_signals(*signals: tuple[str, str]) -> Mail:
    """Return the mail after these signals, each a name and a message id; the data are the id."""
    mail = NO_MAIL
    for name, message_id in signals:
        mail = mail.with_signal(SignalReceived(name, message_id, message_id))
    return mail


def carried(mail: Mail) -> JsonObject:
    """Return what is carried over of mail that fits, after a way through a journal."""
    carried, left = mail_to_carry(mail)
    assert carried is not None
    assert () == left
    return read_back(carried)


def read_back(carried: JsonObject) -> JsonObject:
    """Return what a journal gives back of it."""
    read: JsonObject = json.loads(json.dumps(carried))
    return read


def waiting(mail: Mail, name: str) -> list[str]:
    """Return the message ids of the signals of that name that wait."""
    return [signal.message_id for signal in mail.waiting.get(name) or ()]


def test_no_mail_is_carried_as_nothing() -> None:
    """The start of a next generation is no longer for it."""
    assert (None, ()) == mail_to_carry(NO_MAIL)
    assert mail_left_by({}) == NO_MAIL


def test_signals_wait_by_name_in_the_order_they_came() -> None:
    """The oldest is the next; one that is taken leaves no empty queue behind."""
    mail = with_signals(("go", "m1"), ("stop", "m2"), ("go", "m3"))
    assert (["m1", "m3"], ["m2"]) == (waiting(mail, "go"), waiting(mail, "stop"))
    mail, data = mail.without_signal({"signal": "go", "message_id": "m1"})
    assert ("m1", ["m3"]) == (data, waiting(mail, "go"))
    mail, _ = mail.without_signal({"signal": "stop", "message_id": "m2"})
    assert ["go"] == list(mail.waiting)
    assert mail.next_signal("stop") is None


@pytest.mark.parametrize("taken", [None, {"signal": "go", "message_id": "m3"}])
def test_a_signal_out_of_turn_is_a_bug(taken: Json) -> None:
    """The decision that recorded it takes the oldest."""
    with pytest.raises(AssertionError):
        with_signals(("go", "m1"), ("go", "m3")).without_signal(taken)


def test_a_request_without_an_id_is_no_message() -> None:
    """The time limit and the grace come from within."""
    assert NO_MAIL == NO_MAIL.with_request(CancelRequested("too long", cause="time_limit"))
    assert NO_MAIL.with_request(CancelRequested("x", message_id="c1")).is_known(m.CancelAsked("c1", "x"))


def test_signals_that_nobody_took_are_carried_over_with_their_data() -> None:
    """In order, and known from the beginning."""
    mail = with_signals(("go", "m1"), ("go", "m2"), ("stop", "m3"))
    left = mail_left_by(carried(mail))
    assert mail.waiting == left.waiting
    for signal in (("m1", "go"), ("m2", "go"), ("m3", "stop")):
        assert left.is_known(m.SignalSent(*signal, None))
        assert not left.contradicts(m.SignalSent(*signal, signal[0]))


def test_the_latest_message_ids_are_carried_over_and_the_oldest_forgotten() -> None:
    """A journal that begins with all there ever were would grow from generation to generation."""
    ids = [f"m{n}" for n in range(CARRIED_IDS_MAX + 5)]
    mail = NO_MAIL
    for message_id in ids:
        mail = mail.with_known(message_id, "0")
    left = carried(mail)["known"]
    assert isinstance(left, dict)
    assert set(ids[5:]) == left.keys()
    # What was latest stays latest: the generation after that forgets in the same order.
    grown = mail_left_by(carried(mail)).with_known("new", "0")
    again = carried(grown)["known"]
    assert isinstance(again, dict)
    assert {*ids[6:], "new"} == again.keys()


def test_a_signal_that_waits_is_known_however_old_it_is() -> None:
    """Its id goes along with it, so that a redelivery does not double it."""
    mail = with_signals(("go", "old"))
    for n in range(CARRIED_IDS_MAX):
        mail = mail.with_known(f"m{n}", "0")
    left = mail_left_by(carried(mail))
    assert ["old"] == waiting(left, "go")
    assert left.is_known(m.SignalSent("old", "go", "old"))


def test_signals_that_do_not_fit_beside_the_input_are_left_to_be_told_again() -> None:
    """In their order, behind those that fit; and the next generation does not know them, or it would not take them."""
    ids = [f"m{n}" for n in range(5)]
    mail = NO_MAIL
    for message_id in ids:
        mail = mail.with_signal(SignalReceived("go", message_id, LARGE))
    carried, left = mail_to_carry(mail)
    assert carried is not None
    assert ["m3", "m4"] == [signal.message_id for signal in left]
    following = mail_left_by(read_back(carried))
    assert ids[:3] == waiting(following, "go")
    assert ids[:3] == [message_id for message_id in ids if following.is_known(m.SignalSent(message_id, "go", LARGE))]
    for signal in left:
        following = following.with_signal(signal)
    assert mail.waiting == following.waiting


def test_a_signal_too_large_to_be_carried_is_left_alone() -> None:
    """Nothing of it goes along: no mail, and no id."""
    signal = SignalReceived("go", "m1", LARGE * 5)
    assert (None, (signal,)) == mail_to_carry(NO_MAIL.with_signal(signal))


def test_what_is_carried_has_a_size_that_it_does_not_exceed() -> None:
    """It stands in one item with the next generation's input (I12); of the ids, the latest that fit are kept."""
    ids = [f"{n:03d}{'x' * 125}" for n in range(CARRIED_IDS_MAX)]
    mail = NO_MAIL.with_signal(SignalReceived("go", "m1", LARGE))
    for message_id in ids:
        mail = mail.with_known(message_id, "0" * 32)
    read = carried(mail)
    known = read["known"]
    assert isinstance(known, dict)
    assert 0 < len(known) < CARRIED_IDS_MAX
    assert ids[-len(known) :] == list(known)
    assert len(canonical_json(known)) <= CARRIED_IDS_BYTES_MAX
    assert len(canonical_json(read)) <= CARRIED_IDS_BYTES_MAX + CARRIED_SIGNALS_BYTES_MAX


def test_what_is_carried_of_signals_is_the_same_on_every_node() -> None:
    """Name by name: who begins a next generation may die before the rest is told, and another node goes on."""
    names = [f"name-{n}" for n in range(10)]
    mail = NO_MAIL
    for turn in (1, 2):
        for name in reversed(names):
            # In each process the names stand in another order in the map.
            data = "x" * (CARRIED_SIGNALS_BYTES_MAX // 12)
            mail = mail.with_signal(SignalReceived(name, f"{name}.{turn}", data))
    carried, left = mail_to_carry(mail)
    assert carried is not None
    signals = carried["signals"]
    assert isinstance(signals, list)
    went = [str(signal["message_id"]) for signal in signals if isinstance(signal, dict)]
    assert [f"{name}.{turn}" for name in names for turn in (1, 2)] == [*went, *(s.message_id for s in left)]


def test_the_start_of_a_next_generation_fits_into_an_item_whatever_the_inline_limit() -> None:
    """The input at the highest limit that can be set, all that may be carried, and what else stands there (I12)."""
    limits = (each.le for each in Settings.model_fields["inline_limit_bytes"].metadata if isinstance(each, Le))
    mail, payload = NO_MAIL, "x" * int(str(next(limits)))
    for n in range(600):
        mail = mail.with_signal(SignalReceived("go", f"{n:0128d}", "x" * 100))
    for n in range(600, CARRIED_IDS_MAX):
        mail = mail.with_known(f"{n:0128d}", "0" * 32)
    carried, _ = mail_to_carry(mail)
    started = SessionStarted("t" * 64, "n" * 128, payload, "0" * 64, "t" * 55, carried=carried)
    assert len(encode(started)) <= ITEM_BYTES_MAX - BESIDE_BYTES
