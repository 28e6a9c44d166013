"""By when a payment should be there: windows, cut-offs, business days."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from paymaster.dispatch.accounts import PayoutAccount
from paymaster.dispatch.expected import arrival, expected_by
from paymaster.rails.base import RailAccount, RailCaps

BANK = RailCaps("bank", frozenset({"iban"}), 100, None, None, business_days=1)
WALLET = RailCaps("wallet", frozenset({"sandbox-wallet"}), 1, None, None)


class Rail:
    """As much of a rail as this looks at."""

    def __init__(self, caps: RailCaps) -> None:
        self.caps = caps


RAILS: Any = {"bank": Rail(BANK), "wallet": Rail(WALLET)}


def account(
    number: int = 1,
    rail: str = "bank",
    *,
    window: str = "always",
    state: str = "active",
    **settings: str,
) -> PayoutAccount:
    made = RailAccount(number, f"a{number}", rail, "EUR", settings)
    return PayoutAccount(made, 1, "UTC", window, state, 1)


def at(written: str) -> datetime:
    return datetime.fromisoformat(written).replace(tzinfo=UTC)


def told(*accounts: PayoutAccount, state: str = "approved", **more: Any) -> datetime | None:
    asked: dict[str, Any] = {
        "kind": "iban", "currency": "EUR", "account_id": None, "sent_at": None,
        "now": at("2026-11-20T09:00"), **more,
    }  # fmt: skip
    return expected_by({one.id: one for one in accounts}, RAILS, state, **asked)


@pytest.mark.parametrize(
    ("leaves", "expected"),
    [
        ("2026-11-18T09:00", "2026-11-19T23:59:59"),  # Wednesday morning
        ("2026-11-18T16:00", "2026-11-20T23:59:59"),  # at the cut-off
        ("2026-11-19T17:00", "2026-11-23T23:59:59"),  # Thursday evening: Friday, then Monday
        ("2026-11-20T09:00", "2026-11-23T23:59:59"),  # Friday
        ("2026-12-24T09:00", "2026-12-28T23:59:59"),  # both days of Christmas and a week-end
    ],
)
def test_a_bank_takes_a_business_day(leaves: str, expected: str) -> None:
    assert arrival(account(), BANK, at(leaves)) == at(expected)


def test_the_accounts_calendar_and_zone_count() -> None:
    one = account(calendar="every-day", cut_off="10:00", zone="Asia/Shanghai", arrival_days="0")
    assert arrival(one, BANK, at("2026-11-21T01:59")) == at("2026-11-21T15:59:59")
    assert arrival(one, BANK, at("2026-11-21T02:00")) == at("2026-11-22T15:59:59")


def test_a_wallet_takes_minutes() -> None:
    noon = at("2026-11-21T12:00")
    assert arrival(account(rail="wallet"), WALLET, noon) == at("2026-11-21T12:15")
    assert arrival(account(rail="wallet", arrival_minutes="90"), WALLET, noon) == at(
        "2026-11-21T13:30"
    )


def test_what_waits_for_a_window_leaves_with_it() -> None:
    daily = account(window="14:00")
    assert told(daily) == at("2026-11-23T23:59:59")
    assert told(account(window="17:00")) == at("2026-11-24T23:59:59")
    assert told(account(window="manual")) is None


def test_the_slowest_of_those_that_may_pay_counts() -> None:
    fast, slow = account(1, arrival_days="0"), account(2, arrival_days="3")
    assert told(fast, slow) == told(slow)
    assert told(fast, slow, account_id=1, state="queued") == told(fast)
    assert told(fast, account(2, state="paused", arrival_days="3")) == told(fast)


@pytest.mark.parametrize("state", ["in_review", "challenged", "held", "awaiting_payee", "paid", ""])
def test_where_somebody_must_act_first_nothing_is_told(state: str) -> None:
    assert told(account(), state=state) is None


def test_what_is_on_its_way_is_counted_from_its_order() -> None:
    sent = at("2026-11-18T09:00")
    for state in ("sending", "sent", "unknown"):
        assert told(account(), state=state, account_id=1, sent_at=sent) == at("2026-11-19T23:59:59")
        assert told(account(), state=state, account_id=9, sent_at=sent) is None
        assert told(account(), state=state, account_id=1) is None
    assert told(account(), kind="evm") is None
    assert told(account(), currency="USD") is None
    assert told(account(rail="of a plugin that is gone")) is None
