"""What a trade confirmation says, read from its PDF, and where two confirmations of one trade differ.

Pure functions: bytes in, values out. To read another house's paper, add its `Layout` to `LAYOUTS`; a new way of
writing a date, an amount or a currency is a new line in the table that lists the known ones.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from io import BytesIO
from itertools import islice
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict
from pypdf import PdfReader

Side = Literal["bank", "counterparty"]


class Confirmation(BaseModel):
    """One side's word on a trade."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trade_reference: str
    side: Side
    trade_date: date
    value_date: date
    amount: Decimal
    currency: str
    """The ISO 4217 code."""
    rate: Decimal
    """Per cent per annum."""


class Difference(BaseModel):
    """A field in which the two sides disagree, and what each of them says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    field: str
    bank: str
    counterparty: str


class UnreadableDocument(ValueError):
    """The document cannot be read as a confirmation; the message says what is missing or broken."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How one house lays out its confirmations: the heading that tells it, and a pattern for each line of interest."""

    side: Side
    heading: str
    lines: tuple[str, ...]


LAYOUTS: Final = (
    Layout(
        side="bank",
        heading="Confirmation of Fixed-Term Deposit",
        lines=(
            r"Trade Reference (?P<trade_reference>\S+)",
            r"Trade Date (?P<trade_date>.+)",
            r"Value Date (?P<value_date>.+)",
            r"Notional (?P<amount>.+)",
            r"Currency (?P<currency>.+)",
            r"Rate (?P<rate>\S+) % per annum",
        ),
    ),
    Layout(
        side="counterparty",
        heading="DEAL CONFIRMATION",
        lines=(
            r"Principal (?P<currency>\D+) (?P<amount>\d.*)",
            r"Fixed rate (?P<rate>\S+) % p\.a\..*",
            r"Starting (?P<value_date>.+)",
            r"Dealt on (?P<trade_date>.+)",
            r"Your reference (?P<trade_reference>\S+)",
            r"Date format (?P<date_format>.+)",
        ),
    ),
)

REQUIRED: Final = ("trade_reference", "trade_date", "value_date", "amount", "currency", "rate")

DATE_FORMATS: Final = ("%Y-%m-%d", "%d.%m.%Y", "%d %b %Y")
# 03/04/2026 is in March or in April: such a date is read only in the format that the document itself declares.
DECLARED_DATE_FORMATS: Final = {"MM/DD/YYYY": "%m/%d/%Y", "DD/MM/YYYY": "%d/%m/%Y"}

# Each ends in two decimals, without which 1.250 might be a thousand or one and a quarter.
AMOUNTS: Final = (
    r"[1-9]\d{0,2}(,\d{3}){0,4}\.\d\d",  # 1,250,000.00
    r"[1-9]\d{0,2}(\.\d{3}){0,4},\d\d",  # 1.250.000,00
    r"[1-9]\d{0,2}( \d{3}){0,4}[.,]\d\d",  # 1 250 000.00
    r"[1-9]\d{0,14}[.,]\d\d",  # 1250000.00
)
RATE: Final = r"-?\d{1,3}[.,]\d{1,6}"

CURRENCIES: Final = {
    "EUR": ("EUR", "€", "Euro"),
    "GBP": ("GBP", "£", "Pound sterling"),
    "USD": ("USD", "US$", "US dollar"),
}

DOCUMENT_BYTES_MAX: Final = 1_000_000
PAGES_MAX: Final = 4

# What pypdf finds odd in a file it also raises, or repairs; its warnings would fill the log with other people's PDFs.
logging.getLogger("pypdf").setLevel(logging.CRITICAL)


def extract(pdf: bytes) -> Confirmation:
    """Return what the document confirms, or raise `UnreadableDocument`."""
    lines = _lines(pdf)
    layout = _layout(lines)
    found = _fields(lines, layout)
    return Confirmation(
        trade_reference=found["trade_reference"],
        side=layout.side,
        trade_date=_date(found["trade_date"], found.get("date_format")),
        value_date=_date(found["value_date"], found.get("date_format")),
        amount=_amount(found["amount"]),
        currency=_currency(found["currency"]),
        rate=_rate(found["rate"]),
    )


def differences(a: Confirmation, b: Confirmation) -> tuple[Difference, ...]:
    """Return the fields in which the two sides of a trade differ, whichever side comes first; `()` is a match."""
    assert a.side != b.side, f"both confirmations are the {a.side}'s"
    bank, counterparty = (a, b) if a.side == "bank" else (b, a)
    return tuple(
        Difference(field=field, bank=str(getattr(bank, field)), counterparty=str(getattr(counterparty, field)))
        for field in REQUIRED
        if getattr(bank, field) != getattr(counterparty, field)
    )


def _lines(pdf: bytes) -> list[str]:
    """Return the document's lines of text, their white space made single blanks."""
    if len(pdf) > DOCUMENT_BYTES_MAX:
        raise UnreadableDocument(f"larger than {DOCUMENT_BYTES_MAX} bytes")
    try:
        texts = [page.extract_text() for page in islice(PdfReader(BytesIO(pdf)).pages, PAGES_MAX + 1)]
    # A damaged file takes pypdf down roads that end in any exception there is, its own or Python's.
    except Exception as error:
        raise UnreadableDocument(f"broken PDF: {str(error) or type(error).__name__}") from error
    if len(texts) > PAGES_MAX:
        raise UnreadableDocument(f"more than {PAGES_MAX} pages")
    lines = [" ".join(line.split()) for text in texts for line in text.splitlines()]
    if not any(lines):
        raise UnreadableDocument("no text in the PDF: a scan or a fax, perhaps")
    return lines


def _layout(lines: list[str]) -> Layout:
    for layout in LAYOUTS:
        if layout.heading in lines:
            return layout
    raise UnreadableDocument("unknown layout: no line is the heading of a known confirmation")


def _fields(lines: list[str], layout: Layout) -> dict[str, str]:
    """Return each field as the document writes it; a field that is missing or given twice makes it unreadable."""
    found: dict[str, str] = {}
    for match in (re.fullmatch(pattern, line) for line in lines for pattern in layout.lines):
        for field, value in match.groupdict().items() if match else ():
            if found.setdefault(field, value) != value:
                raise UnreadableDocument(f"two values of {field}: {found[field]!r} and {value!r}")
    missing = [field for field in REQUIRED if field not in found]
    if missing:
        raise UnreadableDocument(f"missing: {', '.join(missing)}")
    return found


def _date(text: str, declared: str | None) -> date:
    formats: tuple[str, ...] = DATE_FORMATS
    if declared is not None:
        if declared not in DECLARED_DATE_FORMATS:
            raise UnreadableDocument(f"unknown date format {declared!r}")
        formats = (DECLARED_DATE_FORMATS[declared],)
    for known in formats:
        try:
            return datetime.strptime(text, known).date()
        except ValueError:
            continue
    raise UnreadableDocument(f"not a date in a known or declared format: {text!r}")


def _amount(text: str) -> Decimal:
    if not any(re.fullmatch(pattern, text, re.ASCII) for pattern in AMOUNTS):
        raise UnreadableDocument(f"not an amount with two decimals: {text!r}")
    digits = re.sub(r"\D", "", text)
    return Decimal(f"{digits[:-2]}.{digits[-2:]}")


def _currency(text: str) -> str:
    for code, spellings in CURRENCIES.items():
        if text in spellings:
            return code
    raise UnreadableDocument(f"unknown currency: {text!r}")


def _rate(text: str) -> Decimal:
    if not re.fullmatch(RATE, text, re.ASCII):
        raise UnreadableDocument(f"not a rate: {text!r}")
    return Decimal(text.replace(",", "."))
