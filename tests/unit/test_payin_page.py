"""The reference page of charges and refunds is made from their tables, and says all of them."""

from __future__ import annotations

from pathlib import Path

from paymaster.messages import meanings
from paymaster.payin import machine_page
from paymaster.payin.machine import ChargeEvent, ChargeState, RefundEvent, RefundState

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "payin-machine.md"


def test_the_page_is_made_from_the_machines() -> None:
    assert PAGE.read_text() == machine_page.reference()


def test_every_state_and_event_has_a_meaning() -> None:
    assert set(machine_page.STATES) == set(ChargeState) == set(meanings.TOPUPS)
    assert set(machine_page.EVENTS) == set(ChargeEvent)
    assert set(machine_page.REFUND_STATES) == set(RefundState) == set(meanings.TOPUP_REFUNDS)
    assert set(machine_page.REFUND_EVENTS) == set(RefundEvent)
