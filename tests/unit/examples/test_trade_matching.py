"""The trade matching example reads its own documents, finds the differences planted in them, and refuses the rest."""

from __future__ import annotations

import logging
from contextlib import suppress
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from fpdf import FPDF
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.trade_matching import make_documents
from examples.trade_matching.confirmations import (
    CURRENCIES,
    DOCUMENT_BYTES_MAX,
    PAGES_MAX,
    Confirmation,
    Difference,
    UnreadableDocument,
    differences,
    extract,
)

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = make_documents.FOLDER


def documents_below(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.glob("*/*.pdf"))}


SHIPPED = documents_below(FOLDER)

BANK_SAYS = {
    # trade: traded, value date, amount, currency, rate
    "0301": ("2026-03-02", "2026-03-04", "1250000.00", "EUR", "2.8750"),
    "0302": ("2026-03-04", "2026-03-06", "4800000.00", "USD", "4.1250"),
    "0303": ("2026-03-05", "2026-03-09", "12500000.00", "EUR", "2.6400"),
    "0304": ("2026-03-09", "2026-03-11", "2000000.00", "GBP", "3.9500"),
    "0305": ("2026-03-10", "2026-03-12", "750000.00", "USD", "4.0625"),
    "0306": ("2026-03-11", "2026-03-13", "8000000.00", "EUR", "2.7100"),
    "0307": ("2026-03-12", "2026-03-16", "640500.75", "USD", "4.2000"),
    "0308": ("2026-03-13", "2026-03-17", "3300000.00", "GBP", "3.8800"),
    "0309": ("2026-03-16", "2026-03-18", "5000000.00", "EUR", "2.6900"),
    "0310": ("2026-03-17", "2026-03-19", "980000.00", "EUR", "2.8100"),
}
FOUND_IN_PAIR: dict[str, tuple[Difference, ...]] = {
    "0301": (),
    "0302": (),
    "0303": (),
    "0304": (Difference(field="amount", bank="2000000.00", counterparty="2100000.00"),),
    "0305": (Difference(field="value_date", bank="2026-03-12", counterparty="2026-03-13"),),
    "0306": (Difference(field="currency", bank="EUR", counterparty="USD"),),
    "0307": (),
}
CONFIRMED_BY_THE_BANK_ONLY = {"0308"}
UNREADABLE = {"0309": "broken PDF", "0310": "no text"}

BANK_TEXT = """Confirmation of Fixed-Term Deposit
Trade Reference AWB-2026-0999
Trade Date 02 Mar 2026
Value Date 04 Mar 2026
Notional 1,250,000.00
Currency EUR
Rate 2.8750 % per annum"""
SLIP_TEXT = """DEAL CONFIRMATION
Principal EUR 1,250,000.00
Fixed rate 2.875 % p.a., actual/360
Starting 2026-03-04
Dealt on 2026-03-02
Your reference AWB-2026-0999"""


def document(side: str, trade: str) -> bytes:
    return SHIPPED[f"{side}/awb-2026-{trade}.pdf"]


def typed(text: str, *, pages: int = 1) -> bytes:
    """Return a PDF with these lines of text on each of its pages."""
    pdf = FPDF()
    pdf.core_fonts_encoding = "windows-1252"
    pdf.set_font("Helvetica", size=10)
    for _ in range(pages):
        pdf.add_page()
        pdf.multi_cell(0, 5, text)
    return bytes(pdf.output())


def test_the_tables_name_every_shipped_document() -> None:
    """No document ships without an expectation."""
    counterparty = FOUND_IN_PAIR.keys() | UNREADABLE.keys()
    assert counterparty | CONFIRMED_BY_THE_BANK_ONLY == BANK_SAYS.keys()
    named = {f"bank/awb-2026-{trade}.pdf" for trade in BANK_SAYS}
    named |= {f"counterparty/awb-2026-{trade}.pdf" for trade in counterparty}
    assert named == SHIPPED.keys()


def test_the_generator_makes_the_shipped_bytes() -> None:
    """What `make_documents` makes is what ships, byte for byte, and nothing is larger than it need be."""
    made = dict(make_documents.documents())
    assert SHIPPED.keys() == made.keys()
    assert not [path for path, content in made.items() if content != SHIPPED[path]]
    assert max(map(len, made.values())) < 20_000


def test_the_generator_writes_below_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Running it writes each document to the path it ships under."""
    monkeypatch.setattr(make_documents, "FOLDER", tmp_path)
    make_documents.main()
    written = documents_below(tmp_path)
    assert written == SHIPPED


@pytest.mark.parametrize("trade", BANK_SAYS)
def test_a_letter_of_the_bank_is_read(trade: str) -> None:
    """Every field of every letter is what the bank recorded."""
    traded, valued, amount, currency, rate = BANK_SAYS[trade]
    expected = Confirmation(
        trade_reference=f"AWB-2026-{trade}",
        side="bank",
        trade_date=date.fromisoformat(traded),
        value_date=date.fromisoformat(valued),
        amount=Decimal(amount),
        currency=currency,
        rate=Decimal(rate),
    )
    assert expected == extract(document("bank", trade))


@pytest.mark.parametrize(("trade", "expected"), FOUND_IN_PAIR.items())
def test_a_pair_differs_in_what_was_planted(trade: str, expected: tuple[Difference, ...]) -> None:
    """A shipped pair gives its planted differences, whichever side comes first."""
    bank, counterparty = extract(document("bank", trade)), extract(document("counterparty", trade))
    assert bank.side == "bank"
    assert counterparty.side == "counterparty"
    assert expected == differences(bank, counterparty) == differences(counterparty, bank)


@pytest.mark.parametrize(("trade", "reason"), UNREADABLE.items())
def test_a_damaged_document_is_unreadable(trade: str, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    """The truncated file and the fax say why they cannot be read, in the exception and not in the log."""
    with caplog.at_level(logging.DEBUG), pytest.raises(UnreadableDocument, match=reason):
        extract(document("counterparty", trade))
    assert not caplog.records


def test_a_confirmation_survives_json() -> None:
    """A confirmation and a difference are JSON and come back equal: a journal keeps them."""
    confirmation = extract(document("counterparty", "0303"))
    expected = {
        "trade_reference": "AWB-2026-0303",
        "side": "counterparty",
        "trade_date": "2026-03-05",
        "value_date": "2026-03-09",
        "amount": "12500000.00",
        "currency": "EUR",
        "rate": "2.64",
    }
    assert expected == confirmation.model_dump(mode="json")
    assert confirmation == Confirmation.model_validate_json(confirmation.model_dump_json())


def test_two_confirmations_of_one_side_are_no_pair() -> None:
    """Comparing a side with itself is a bug of the caller."""
    bank = extract(document("bank", "0301"))
    with pytest.raises(AssertionError, match="both confirmations are the bank's"):
        differences(bank, bank)


@pytest.mark.parametrize(
    ("text", "replaced", "by", "field", "expected"),
    [
        (BANK_TEXT, "1,250,000.00", "1.250.000,00", "amount", Decimal("1250000.00")),
        (BANK_TEXT, "1,250,000.00", "1 250 000.00", "amount", Decimal("1250000.00")),
        (BANK_TEXT, "1,250,000.00", "1 250 000,00", "amount", Decimal("1250000.00")),
        (BANK_TEXT, "1,250,000.00", "1250000.00", "amount", Decimal("1250000.00")),
        (BANK_TEXT, "1,250,000.00", "7,05", "amount", Decimal("7.05")),
        (BANK_TEXT, "2.8750", "-0,5", "rate", Decimal("-0.5")),
        (BANK_TEXT, "04 Mar 2026", "2026-03-04", "value_date", date(2026, 3, 4)),
        (BANK_TEXT, "04 Mar 2026", "04.03.2026", "value_date", date(2026, 3, 4)),
        (SLIP_TEXT, "2026-03-0", "03/0", "value_date", date(2026, 4, 3)),
        *((SLIP_TEXT, "EUR", way, "currency", code) for code, ways in CURRENCIES.items() for way in ways),
    ],
)
def test_each_way_of_writing_is_read(text: str, replaced: str, by: str, field: str, expected: object) -> None:
    """Every way to write a field that the tables list comes out as the same value."""
    text = text.replace(replaced, by)
    if "03/0" in text:
        text = text.replace("03/04", "03/04/2026").replace("03/02", "03/02/2026") + "\nDate format DD/MM/YYYY"
    assert expected == getattr(extract(typed(text)), field)


@pytest.mark.parametrize(
    ("replaced", "by", "reason"),
    [
        ("DEAL CONFIRMATION", "DEAL PROPOSAL", "unknown layout"),
        ("Starting 2026-03-04\n", "", "missing: value_date$"),
        ("Principal EUR 1,250,000.00\n", "", "missing: amount, currency$"),
        ("Starting 2026-03-04", "Starting 2026-03-04\nStarting 2026-03-05", "two values of value_date"),
        ("2026-03-04", "2026-02-30", "not a date"),
        ("2026-03-04", "03/04/2026", "not a date in a known or declared format"),
        ("2026-03-04", "03/04/2026\nDate format YY/MM/DD", "unknown date format 'YY/MM/DD'"),
        ("1,250,000.00", "1.250", "not an amount"),
        ("1,250,000.00", "1,250.000,00", "not an amount"),
        ("1,250,000.00", "12,50,000.00", "not an amount"),
        ("1,250,000.00", "0.00", "not an amount"),
        ("EUR", "$", "unknown currency: '\\$'"),
        ("2.875", "two", "not a rate"),
    ],
)
def test_a_doubtful_document_is_unreadable(replaced: str, by: str, reason: str) -> None:
    """What is missing, given twice or open to two readings is refused by name and never guessed."""
    with pytest.raises(UnreadableDocument, match=reason):
        extract(typed(SLIP_TEXT.replace(replaced, by)))


def test_a_document_beyond_the_limits_is_unreadable() -> None:
    """A file with too many bytes or too many pages is refused."""
    with pytest.raises(UnreadableDocument, match="larger than"):
        extract(b"%PDF-" + bytes(DOCUMENT_BYTES_MAX))
    with pytest.raises(UnreadableDocument, match="more than"):
        extract(typed(SLIP_TEXT, pages=PAGES_MAX + 1))


@given(st.binary(max_size=2_000) | st.binary(max_size=2_000).map(b"%PDF-1.4\n".__add__))
def test_random_bytes_are_unreadable(junk: bytes) -> None:
    """Bytes that are no PDF raise `UnreadableDocument` and nothing else."""
    with pytest.raises(UnreadableDocument):
        extract(junk)


@settings(deadline=None)
@given(st.sampled_from(sorted(SHIPPED)), st.floats(min_value=0, max_value=1, exclude_max=True))
def test_a_truncated_document_is_unreadable_or_whole(path: str, kept: float) -> None:
    """A document cut anywhere raises `UnreadableDocument`, or says all that the whole one says."""
    whole = SHIPPED[path]
    try:
        read = extract(whole[: int(len(whole) * kept)])
    except UnreadableDocument:
        return
    assert extract(whole) == read


@settings(deadline=None)
@given(st.sampled_from(sorted(SHIPPED)), st.data())
def test_a_corrupted_document_raises_nothing_else(path: str, data: st.DataObject) -> None:
    """A document with bytes overwritten is read, or raises `UnreadableDocument`."""
    content = bytearray(SHIPPED[path])
    for _ in range(data.draw(st.integers(1, 20))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(UnreadableDocument):
        extract(bytes(content))
