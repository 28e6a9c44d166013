"""The chart: the reference page is generated, every recipe balances and names known accounts."""

from __future__ import annotations

from pathlib import Path

from paymaster.kernel.money import Money
from paymaster.ledger import recipes
from paymaster.ledger.chart import KINDS, Account, reference

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "chart.md"
TEN, ONE = Money(1000, "EUR"), Money(100, "EUR")


def test_the_reference_page_shows_the_chart_and_the_recipes() -> None:
    page = PAGE.read_text()
    assert reference() in page
    assert recipes.__doc__ is not None
    assert recipes.__doc__.split("\n\n", 1)[1].strip("\n") in page


def test_every_recipe_is_documented_and_uses_accounts_of_the_chart() -> None:
    made = {
        "fund": recipes.fund(1, 2, TEN),
        "opening": recipes.opening(1, TEN) + recipes.opening(1, -TEN),
        "own": recipes.own(1, TEN) + recipes.own(1, -TEN),
        "reward": recipes.reward(1, 2, TEN, vests=False, owes=True, commission=ONE)
        + recipes.reward(1, 2, TEN, vests=True, owes=True, commission=ONE),
        "mature": recipes.mature(2, TEN, owes=True),
        "reserve": recipes.reserve(2, ONE),
        "reserve_release": recipes.reserve_release(2, TEN, owes=True),
        "reverse": recipes.reverse(1, 2, TEN, ONE),
        "recover": (recipes.recover(2, TEN),),
        "request": recipes.request(2, TEN),
        "release": recipes.release(2, TEN),
        "paid": recipes.paid(2, 1, TEN, ONE),
        "returned": recipes.returned(2, 1, TEN),
        "booked": recipes.booked_out(1, 3, TEN) + recipes.booked_cash(1, 3, TEN),
        "unbooked": recipes.unbooked_out(1, 3, TEN) + recipes.unbooked_cash(1, 3, TEN),
        "lease": recipes.lease_out(1, 3, TEN) + recipes.lease_in(1, 3, TEN),
        "topup": recipes.topup_out(1, TEN) + recipes.topup_in(1, TEN),
        "rail_fee": recipes.rail_fee(1, ONE),
        "paid_in": recipes.paid_in(1, Account("budget", 2, "EUR"), TEN)
        + recipes.paid_in(1, Account("available", 2, "EUR"), TEN),
        "payin_booked": recipes.payin_booked(1, 3, TEN),
        "payin_refund_request": recipes.payin_refund_request(1, Account("budget", 2, "EUR"), ONE),
        "payin_refund_done": recipes.payin_refund_done(1, ONE),
        "payin_refund_failed": recipes.payin_refund_failed(1, Account("budget", 2, "EUR"), ONE),
        "payin_refund_booked": recipes.payin_refund_booked(1, 3, ONE),
        "suspend": recipes.suspend(1, TEN) + recipes.suspend(1, -TEN),
        "write_off": recipes.write_off(2, TEN) + recipes.write_off(2, TEN, 1),
        "write_off_undone": recipes.write_off_undone(2, TEN, 1, ONE),
    }
    for postings in made.values():
        for posting in postings:
            assert posting.amount.minor > 0
            for account in (posting.source, posting.destination):
                assert account.kind in KINDS, account
                assert account.asset == posting.amount.currency
    lines = str(recipes.__doc__).partition("\n\n")[2].splitlines()
    named = {line.split()[0] for line in lines if line.strip()}
    assert named == set(made)


def test_what_we_have_and_what_others_owe_us_is_shown_negated() -> None:
    negated = {name for name, kind in KINDS.items() if kind.shown == -1}
    assert negated == {"debt", "cash", "transit", "incoming", "rail_fees", "loss"}
    assert {kind.shown for kind in KINDS.values()} == {1, -1}
    floored = {name for name, kind in KINDS.items() if kind.floor is not None}
    assert floored == {"available", "vesting", "reserve", "held", "budget", "refunds"}
    assert {KINDS[name].floor for name in floored} == {0}
    assert {name: kind.ceiling for name, kind in KINDS.items() if kind.ceiling is not None} == {
        "debt": 0
    }


def test_who_owns_which_account() -> None:
    owners = {kind.owner for kind in KINDS.values()}
    owned = {owner: {n for n, kind in KINDS.items() if kind.owner == owner} for owner in owners}
    assert owned == {
        "user": {"available", "vesting", "reserve", "held", "debt"},
        "campaign": {"budget"},
        "house": {"commission", "fee_revenue", "fx", "transit", "equity", "loss"},
        "rail account": {"clearing", "cash", "incoming", "refunds", "rail_fees", "suspense"},
        "cell": {"intercell"},
    }
