"""Makes the trade confirmations in `documents/`: the same bytes on every run, so that they can ship with the code.

To change a document, change a table below, run `python make_documents.py`, and correct the expected outcomes in
`tests/unit/examples/test_trade_matching.py`. Every company, place and trade here is invented.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time
from decimal import Decimal
from math import sin
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fpdf import FPDF
from fpdf.enums import XPos, YPos
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

FOLDER: Final = Path(__file__).parent / "documents"

BANK: Final = "Aldermoor & Wex Bank plc"
BANK_ADDRESS: Final = ("14 Tallow Quay", "Port Aldermoor", "treasury.operations@aldermoor-wex.example")
NAVY: Final = (22, 42, 82)
GREY: Final = (110, 110, 110)
PALE: Final = (238, 241, 246)
SPECIMEN: Final = "Specimen for demonstration. The companies and the trade in this document are invented."


@dataclass(frozen=True, slots=True)
class House:
    """A counterparty, and how it writes dates, numbers and currencies."""

    name: str
    address: tuple[str, ...]
    colour: tuple[int, int, int]
    date_format: str
    thousands: str
    decimal: str
    rate_places: str
    currencies: Mapping[str, str]
    declared_date_format: str | None = None

    def number(self, value: Decimal, places: str = ".2f") -> str:
        return format(value, f",{places}").translate(str.maketrans(",.", self.thousands + self.decimal))


BRUECKENFELS: Final = House(
    name="Brückenfels Maschinenbau AG",
    address=("Am Hüttenwerk 7", "Brückenfels"),
    colour=(156, 38, 32),
    date_format="%d.%m.%Y",
    thousands=".",
    decimal=",",
    rate_places=".3f",
    currencies={"EUR": "Euro", "GBP": "Pound sterling", "USD": "US dollar"},
)
QUILLHAVEN: Final = House(
    name="Quillhaven Freight, Inc.",
    address=("2200 Breakwater Avenue", "Quillhaven"),
    colour=(18, 104, 92),
    date_format="%m/%d/%Y",
    thousands=",",
    decimal=".",
    rate_places=".4f",
    currencies={"USD": "USD", "GBP": "GBP"},
    declared_date_format="MM/DD/YYYY",
)
NORDVIKHOLM: Final = House(
    name="Nordvikholm Rederi AS",
    address=("Sjøgata 31", "Nordvikholm"),
    colour=(28, 86, 150),
    date_format="%Y-%m-%d",
    thousands=" ",
    decimal=".",
    rate_places=".2f",
    currencies={"EUR": "€", "USD": "US$"},
)


@dataclass(frozen=True, slots=True)
class Trade:
    """A fixed-term deposit, as one of its two sides recorded it."""

    number: int
    house: House
    currency: str
    amount: Decimal
    rate: Decimal
    trade_date: date
    value_date: date
    maturity_date: date

    @property
    def reference(self) -> str:
        return f"AWB-2026-{self.number:04}"


def _trade(number: int, house: House, currency: str, amount: str, rate: str, *dates: str) -> Trade:
    traded, valued, matures = (date.fromisoformat(day) for day in dates)
    return Trade(number, house, currency, Decimal(amount), Decimal(rate), traded, valued, matures)


TRADES: Final = (
    _trade(301, BRUECKENFELS, "EUR", "1250000.00", "2.8750", "2026-03-02", "2026-03-04", "2026-09-04"),
    _trade(302, QUILLHAVEN, "USD", "4800000.00", "4.1250", "2026-03-04", "2026-03-06", "2026-06-05"),
    _trade(303, NORDVIKHOLM, "EUR", "12500000.00", "2.6400", "2026-03-05", "2026-03-09", "2026-04-09"),
    _trade(304, BRUECKENFELS, "GBP", "2000000.00", "3.9500", "2026-03-09", "2026-03-11", "2026-12-11"),
    _trade(305, QUILLHAVEN, "USD", "750000.00", "4.0625", "2026-03-10", "2026-03-12", "2026-04-13"),
    _trade(306, NORDVIKHOLM, "EUR", "8000000.00", "2.7100", "2026-03-11", "2026-03-13", "2026-06-15"),
    _trade(307, BRUECKENFELS, "USD", "640500.75", "4.2000", "2026-03-12", "2026-03-16", "2026-05-18"),
    _trade(308, QUILLHAVEN, "GBP", "3300000.00", "3.8800", "2026-03-13", "2026-03-17", "2026-09-17"),
    _trade(309, NORDVIKHOLM, "EUR", "5000000.00", "2.6900", "2026-03-16", "2026-03-18", "2026-06-18"),
    _trade(310, BRUECKENFELS, "EUR", "980000.00", "2.8100", "2026-03-17", "2026-03-19", "2026-06-19"),
)

# What the counterparty recorded otherwise; everything else it recorded as the bank did.
RECORDED_OTHERWISE: Final[Mapping[int, Mapping[str, Any]]] = {
    304: {"amount": Decimal("2100000.00")},
    305: {"value_date": date(2026, 3, 13)},
    306: {"currency": "USD"},
}
NEVER_CONFIRMED: Final = frozenset({308})
CUT_OFF_IN_TRANSIT: Final = frozenset({309})
SENT_BY_FAX: Final = frozenset({310})


def documents() -> Iterator[tuple[str, bytes]]:
    """Return every document: its path below `documents/`, and its bytes."""
    for trade in TRADES:
        name = f"{trade.reference.lower()}.pdf"
        yield f"bank/{name}", bank_letter(trade)
        if trade.number not in NEVER_CONFIRMED:
            theirs = replace(trade, **RECORDED_OTHERWISE.get(trade.number, {}))
            yield f"counterparty/{name}", counterparty_document(theirs)


def counterparty_document(trade: Trade) -> bytes:
    """Return the counterparty's document in the state in which it reaches the bucket."""
    if trade.number in SENT_BY_FAX:
        return fax(trade)
    slip = deal_slip(trade)
    return slip[: len(slip) * 3 // 5] if trade.number in CUT_OFF_IN_TRANSIT else slip


class Page(FPDF):
    """One A4 page whose bytes depend on what is written on it, and on nothing else."""

    def __init__(self, trade: Trade, *, title: str, author: str, font: str) -> None:
        super().__init__(format="A4")
        self.font = font
        self.core_fonts_encoding = "windows-1252"  # latin-1, the default, has no euro sign.
        self.set_compression(False)  # Another build of zlib would compress to other bytes.
        self.set_creation_date(datetime.combine(trade.trade_date, time(16, 30), UTC))
        self.set_producer("trade matching demo")
        self.set_title(f"{title} {trade.reference}")
        self.set_author(author)
        self.set_margin(25)
        self.set_auto_page_break(False)
        self.add_page()

    def write_at(self, x: float, y: float, text: str, *, width: float = 0, align: str = "L", **ink: Any) -> None:
        """Write one line of text with its box at x, y (millimetres from the top left)."""
        self.ink(**ink)
        self.set_xy(x, y)
        self.cell(width, 5, text, align=align, new_x=XPos.LMARGIN, new_y=YPos.NEXT)

    def paragraph(self, text: str, **ink: Any) -> None:
        self.ink(**ink)
        self.multi_cell(0, 5, text, align="L", new_x=XPos.LMARGIN, new_y=YPos.NEXT)

    def ink(self, *, size: float = 10.5, style: str = "", colour: tuple[int, int, int] = (25, 25, 25)) -> None:
        self.set_font(self.font, style, size)
        self.set_text_color(*colour)

    def signature(self, x: float, y: float, seed: int) -> None:
        """Sign at x, y with the hand that belongs to the seed."""
        self.set_draw_color(38, 52, 120)
        self.set_line_width(0.35)
        self.polyline([
            (x + 3.4 * t + 2.2 * sin(2.3 * t + seed), y + 3.6 * sin(3.1 * t + seed) / (1 + 0.22 * t))
            for t in (n / 12 for n in range(130))
        ])  # fmt: skip

    def finished(self) -> bytes:
        self.write_at(25, 281, SPECIMEN, align="C", size=7.5, style="I", colour=GREY)
        return bytes(self.output())


def bank_letter(trade: Trade) -> bytes:
    """Return the bank's letter: letterhead, addressee, a ruled table of fields, a signature."""
    page = Page(trade, title="Confirmation", author=BANK, font="Times")
    _letterhead(page)
    for n, line in enumerate((trade.house.name, "Treasury Department", *trade.house.address)):
        page.write_at(25, 56 + 5 * n, line)
    page.write_at(25, 86, f"Port Aldermoor, {trade.trade_date:%d %B %Y}".replace(" 0", " "), align="R")
    page.write_at(25, 98, "Confirmation of Fixed-Term Deposit", size=14, style="B", colour=NAVY)
    page.set_y(108)
    page.paragraph("Dear Sir or Madam,")
    page.ln(2)
    page.paragraph("We confirm the terms of the following transaction, agreed between us by telephone:")
    page.ln(3)
    for n, (label, value) in enumerate(_bank_fields(trade)):
        _table_row(page, label, value, shaded=n % 2 == 0)
    page.ln(6)
    page.paragraph(
        "Please compare these terms with your own records and tell us of any difference before the value date. "
        "Without word from you we shall settle the transaction as stated above."
    )
    page.ln(4)
    page.paragraph("Yours faithfully,")
    page.signature(28, page.get_y() + 9, seed=4)
    page.write_at(25, page.get_y() + 17, "Trade Confirmations, Treasury Operations")
    page.paragraph(BANK, style="B")
    return page.finished()


def _bank_fields(trade: Trade) -> Sequence[tuple[str, str]]:
    return (
        ("Trade Reference", trade.reference),
        ("Trade Date", f"{trade.trade_date:%d %b %Y}"),
        ("Value Date", f"{trade.value_date:%d %b %Y}"),
        ("Maturity Date", f"{trade.maturity_date:%d %b %Y}"),
        ("Notional", f"{trade.amount:,.2f}"),
        ("Currency", trade.currency),
        ("Rate", f"{trade.rate:.4f} % per annum"),
        ("Day Count", "Actual/360"),
        ("Counterparty", trade.house.name),
    )


def _letterhead(page: Page) -> None:
    page.set_fill_color(*NAVY)
    page.rect(25, 20, 15, 15, style="F")
    page.write_at(25, 25, "A&W", width=15, align="C", size=15, style="B", colour=(255, 255, 255))
    page.write_at(44, 21.5, BANK, size=19, colour=NAVY)
    page.write_at(44, 29, "Treasury Operations", size=11, style="I", colour=GREY)
    for n, line in enumerate(BANK_ADDRESS):
        page.write_at(125, 20.5 + 4.5 * n, line, width=60, align="R", size=8.5, colour=GREY)
    page.set_draw_color(*NAVY)
    page.set_line_width(0.6)
    page.line(25, 40, 185, 40)


def _table_row(page: Page, label: str, value: str, *, shaded: bool) -> None:
    page.set_draw_color(170, 178, 192)
    page.set_line_width(0.15)
    page.set_fill_color(*(PALE if shaded else (255, 255, 255)))
    page.ink(style="B")
    page.cell(52, 7.5, label, border=1, fill=True)
    page.ink()
    page.cell(108, 7.5, value, border=1, fill=True, new_x=XPos.LMARGIN, new_y=YPos.NEXT)


def deal_slip(trade: Trade) -> bytes:
    """Return the counterparty's deal confirmation: other labels, another order, the house's own formats."""
    house = trade.house
    page = Page(trade, title="Deal confirmation", author=house.name, font="Helvetica")
    page.set_fill_color(*house.colour)
    page.rect(0, 0, 210, 5, style="F")
    page.write_at(25, 20, house.name, size=16, style="B", colour=house.colour)
    page.write_at(25, 27, ", ".join(house.address), size=8.5, colour=GREY)
    page.write_at(25, 48, "DEAL CONFIRMATION", size=20, style="B")
    page.write_at(25, 58, "Money market placement, fixed term", size=11, colour=GREY)
    page.write_at(25, 74, "To", size=8, colour=GREY)
    page.write_at(25, 79, BANK)
    page.write_at(25, 84, "Treasury Operations, " + ", ".join(BANK_ADDRESS[:2]))
    page.set_y(100)
    for label, value in _slip_fields(trade):
        _slip_row(page, label, value)
    page.ln(8)
    page.paragraph("We have dealt with you on the terms above. Standing settlement instructions apply.", size=9.5)
    page.signature(29, page.get_y() + 15, seed=len(house.name))
    page.set_draw_color(*GREY)
    page.set_line_width(0.2)
    page.line(25, page.get_y() + 21, 90, page.get_y() + 21)
    page.write_at(25, page.get_y() + 22, f"For {house.name}", size=8.5, colour=GREY)
    return page.finished()


def _slip_fields(trade: Trade) -> Iterator[tuple[str, str]]:
    house = trade.house
    yield "Principal", f"{house.currencies[trade.currency]} {house.number(trade.amount)}"
    yield "Fixed rate", f"{house.number(trade.rate, house.rate_places)} % p.a., actual/360"
    yield "Starting", trade.value_date.strftime(house.date_format)
    yield "Ending", trade.maturity_date.strftime(house.date_format)
    yield "Dealt on", trade.trade_date.strftime(house.date_format)
    yield "Your reference", trade.reference
    yield "Our deal no.", str(57_820 + trade.number)
    if house.declared_date_format:
        yield "Date format", house.declared_date_format


def _slip_row(page: Page, label: str, value: str) -> None:
    y = page.get_y()
    page.ink(size=9, colour=GREY)
    page.cell(55, 9, label)
    page.ink(size=11, style="B")
    page.cell(105, 9, value, align="R", new_x=XPos.LMARGIN, new_y=YPos.NEXT)
    page.set_draw_color(205, 205, 205)
    page.set_line_width(0.2)
    page.line(25, y + 9, 185, y + 9)


def fax(trade: Trade) -> bytes:
    """Return the counterparty's deal confirmation as a fax machine passes it on: a picture, and no text."""
    page = Page(trade, title="Fax", author=trade.house.name, font="Helvetica")
    page.image(_fax_picture(trade), x=0, y=0, w=210, h=297)
    return bytes(page.output())


def _fax_picture(trade: Trade) -> Image.Image:
    """Return the page in black and white, a little askew, in the bitmap font that is part of Pillow."""
    picture = Image.new("1", (420, 594), 1)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default_imagefont()
    for x, y, line in _fax_lines(trade):
        draw.text((x, y), line.replace("ü", "ue"), font=font, fill=0)
    for n in range(160):  # Specks of dust: primes scatter them without a random number.
        draw.point((n * 7919 % 420, n * 104_729 % 594), fill=0)
    return picture.resize((1260, 1782)).rotate(-0.7, fillcolor=1)


def _fax_lines(trade: Trade) -> Iterator[tuple[int, int, str]]:
    """Return the lines of the fax and the dots at which they start."""
    house = trade.house.name
    fields = [f"{label:<18}{value}" for label, value in _slip_fields(trade)]
    closing = ["We have dealt with you on the terms above.", "", f"For {house}"]
    yield 20, 8, f"{trade.trade_date:%d.%m.%Y}  16:31   FAX {trade.house.address[-1]}   P.1/1"
    for n, line in enumerate([house, "", "DEAL CONFIRMATION", "", f"To {BANK}", "", *fields, "", *closing]):
        yield 50, 70 + 17 * n, line
    yield 20, 572, "Specimen. Companies and trade are invented."


def main() -> None:
    for path, content in documents():
        file = FOLDER / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


if __name__ == "__main__":
    main()
