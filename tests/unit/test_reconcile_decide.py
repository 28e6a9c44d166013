"""What a line is: the pure decision and the search for funding references."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paymaster.kernel.ids import reference
from paymaster.reconcile.breaks import Kind
from paymaster.reconcile.catalogue import Catalogue, Funding
from paymaster.reconcile.decide import (
    Ask,
    Decision,
    Doubt,
    Fee,
    Fund,
    Side,
    Transfer,
    TransferRow,
    decide,
)
from paymaster.reconcile.store import LineRow

DAY = date(2026, 11, 19)
KEY = reference(2, 77)
LINE = LineRow(
    1, 2, 7, "L", "payout", -1000, 0, "EUR", DAY, KEY, None, None, "open", None, False, 3, 4, DAY
)
EURO, DOLLAR = Funding(9, "EUR"), Funding(10, "USD")
CATALOGUE = Catalogue({"CP0A1ZC4R7M2K9T": EURO, "CP-DOLLAR-1": DOLLAR})
TRANSFER = TransferRow("T0000000000001A", 5, 6, 7, 8, 1000, "EUR")


def judged(line: LineRow, remittance: str | None = None) -> Decision:
    return decide(line, remittance, CATALOGUE, frozenset({1, 2}), {TRANSFER.key: TRANSFER})


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (LINE, Ask(2, KEY, "payout")),
        (replace(LINE, kind="other"), Ask(2, KEY, "payout")),
        (replace(LINE, kind="incoming"), Ask(2, KEY, "payout")),
        (replace(LINE, kind="return", amount=1000), Ask(2, KEY, "return")),
        (replace(LINE, kind="incoming", amount=1000), Ask(2, KEY, "incoming")),
        (replace(LINE, kind="incoming", amount=1, reference="CP0A1ZC4R7M2K9T"), Fund(9)),
        (replace(LINE, kind="fee", reference=None), Fee()),
        (replace(LINE, kind="fee", reference=None, amount=5), Fee()),
        (replace(LINE, amount=0), Fee()),
        (replace(LINE, reference=TRANSFER.key), Transfer(TRANSFER, Side.OUT)),
        (replace(LINE, reference=TRANSFER.key, amount=1000), Transfer(TRANSFER, Side.BACK)),
        (
            replace(LINE, reference=TRANSFER.key, amount=1000, rail_account_id=8, kind="topup"),
            Transfer(TRANSFER, Side.IN),
        ),
    ],
)
def test_what_a_line_is(line: LineRow, expected: Decision) -> None:
    assert judged(line) == expected


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (replace(LINE, reference=reference(3, 77)), Kind.UNKNOWN_LINE),
        (replace(LINE, reference=None), Kind.UNKNOWN_LINE),
        (replace(LINE, amount=1000), Kind.UNKNOWN_LINE),
        (replace(LINE, amount=1000, kind="incoming", reference="1"), Kind.UNKNOWN_LINE),
        (replace(LINE, amount=1000, kind="other"), Kind.UNKNOWN_LINE),
        (replace(LINE, kind="return"), Kind.UNKNOWN_LINE),
        (replace(LINE, reference=TRANSFER.key, amount=-999), Kind.TRANSFER_DIFFERS),
        (replace(LINE, reference=TRANSFER.key, asset="USD"), Kind.TRANSFER_DIFFERS),
        (replace(LINE, reference=TRANSFER.key, rail_account_id=9), Kind.TRANSFER_DIFFERS),
        (replace(LINE, amount=5, kind="incoming", reference="cp dollar 1"), Kind.FUNDING_CURRENCY),
    ],
)
def test_what_is_in_doubt(line: LineRow, kind: Kind) -> None:
    decision = judged(line)
    assert isinstance(decision, Doubt)
    assert decision.kind is kind


def test_money_in_for_two_campaigns_is_for_a_person() -> None:
    incoming = replace(LINE, kind="incoming", amount=5, reference=None)
    assert judged(incoming, "cp0a1zc4r7m2k9t") == Fund(9)
    both = judged(incoming, "CP0A1ZC4R7M2K9T and CP-DOLLAR-1")
    assert isinstance(both, Doubt)
    assert both.kind is Kind.FUNDING_AMBIGUOUS


@pytest.mark.parametrize(
    "text",
    [
        "CP0A1ZC4R7M2K9T",
        "cp0a1zc4r7m2k9t",
        "RE 4711 / CP0A1 ZC4R7 M2K9T / DANKE",
        "ref:CP0A1-ZC4R7-M2K9T.",
        "CP0A1ZC4\nR7M2K9T",
    ],
)
def test_a_reference_is_found_however_it_is_retyped(text: str) -> None:
    assert CATALOGUE.find(text) == {EURO}


@pytest.mark.parametrize(
    "text", ["XCP0A1ZC4R7M2K9T", "CP0A1ZC4R7M2K9T7", "CP0A1ZC4R7M2K9", "", None, "CP0 A1"]
)
def test_a_reference_is_not_found_inside_something_else(text: str | None) -> None:
    assert CATALOGUE.find(text) == frozenset()


def test_short_references_never_match_and_equal_ones_are_told_together() -> None:
    catalogue = Catalogue({"7": EURO, "AB-CD-EF": EURO, "abcdef": DOLLAR})
    assert catalogue.find("invoice 7") == frozenset()
    assert catalogue.find("abc def") == {EURO, DOLLAR}


@given(
    before=st.text(max_size=40),
    after=st.text(max_size=40),
    breaks=st.lists(st.integers(1, 14), max_size=4),
    lower=st.booleans(),
)
def test_any_text_around_and_any_breaks_within(
    before: str, after: str, breaks: list[int], lower: bool
) -> None:
    text = "CP0A1ZC4R7M2K9T"
    for place in sorted(set(breaks), reverse=True):
        text = f"{text[:place]} {text[place:]}"
    found = CATALOGUE.find(f"{before} - {text.lower() if lower else text} - {after}")
    assert EURO in found
