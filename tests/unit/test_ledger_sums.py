"""What a large batch asks of each account, written at once."""

from __future__ import annotations

from paymaster.kernel.money import Money
from paymaster.ledger import accounts
from paymaster.ledger.accounts import Sums, _sums
from paymaster.ledger.chart import Account
from paymaster.ledger.entry import Entry, Mode, Posting

CASH, BUDGET, USER = (
    Account(kind, number, "EUR") for number, kind in enumerate(("cash", "budget", "available"), 1)
)


def entry(*postings: Posting) -> Entry:
    return Entry(1, "fund", "x", postings)


def posting(source: Account, target: Account, minor: int, mode: Mode = Mode.EXACT) -> Posting:
    return Posting(source, target, Money(minor, "EUR"), mode)


def test_what_goes_out_and_comes_in_is_summed_up_for_each_account() -> None:
    batch = [
        entry(posting(CASH, BUDGET, 100)),
        entry(posting(BUDGET, USER, 30), posting(CASH, BUDGET, 5)),
    ]
    assert _sums(batch, [11, 12, 13]) == {
        CASH: Sums(out=105, into=0, postings=2, last=13),
        BUDGET: Sums(out=30, into=105, postings=3, last=13),
        USER: Sums(out=0, into=30, postings=1, last=12),
    }
    assert _sums([], []) == {}
    assert accounts.touched(batch) == sorted([CASH, BUDGET, USER])


def test_what_depends_on_a_balance_is_decided_first() -> None:
    for mode in (Mode.UP_TO, Mode.REST):
        batch = [entry(posting(CASH, BUDGET, 100), posting(BUDGET, USER, 30, mode))]
        assert _sums(batch, [11, 12]) is None


def test_sums_that_could_leave_64_bits_are_decided_first() -> None:
    for minor, is_small in ((2**61 - 1, True), (2**61, False)):
        batch = [entry(posting(CASH, BUDGET, minor))]
        assert (_sums(batch, [11]) is not None) == is_small
    two = [entry(posting(CASH, BUDGET, 2**60), posting(CASH, BUDGET, 2**60))]
    assert _sums(two, [11, 12]) is None
