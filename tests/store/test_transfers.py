"""Company money between two of our accounts: sent with payouts, booked by statements alone."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import pytest
from tests.contract.support import iban_of
from tests.payouts import Payouts, approved, assert_paid_once, new_payee, payout_world
from tests.scripted_rails import AskableRail, FileRail
from tests.withdrawals import assert_proven
from tests.world import PostgresServer, owner_rows

from paymaster.dispatch import transfer, window
from paymaster.dispatch.machine import TransferState
from paymaster.kernel.errors import Conflict, RailRefused, RailUnknown
from paymaster.kernel.money import Money
from paymaster.ledger.balance import account_balance
from paymaster.ledger.chart import Account
from paymaster.rails.base import Outcome, Verdict

PSP = iban_of("FR", "20041010050500013000001")
_numbers = itertools.count(100)


@pytest.fixture
def bank() -> FileRail:
    return FileRail("bank", batch_items=3)


@pytest.fixture
async def payouts(postgres: PostgresServer, bank: FileRail) -> AsyncIterator[Payouts]:
    wallet = AskableRail("wallet", kinds=frozenset({"sandbox-wallet"}))
    async with payout_world(postgres, bank, wallet, cells=2) as found:
        yield found
        await assert_proven(found.world)
        await assert_paid_once(found)


async def many(payouts: Payouts, *amounts: str, cell: int = 1) -> list[int]:
    return [
        await approved(payouts, await new_payee(payouts, next(_numbers), cell=cell), amount)
        for amount in amounts
    ]


async def closes(payouts: Payouts, name: str, value: str, time_zone: str = "UTC") -> None:
    """Give an account a window, as an installation would have from the start."""
    owner_rows(
        payouts.world,
        "UPDATE control.rail_account SET payout_window = %s, time_zone = %s WHERE name = %s"
        " RETURNING 1",
        value,
        time_zone,
        name,
    )
    await payouts.reload()


async def topup(payouts: Payouts, minor: int = 5000, source: str = "bank") -> transfer.Requested:
    if "float" not in payouts.accounts:
        settings = {"topup_iban": PSP, "holder": "Sandpay"}
        await payouts.add_account("float", "wallet", settings=settings)
    order = transfer.Order(
        payouts.accounts[source].id,
        payouts.accounts["float"].id,
        Money(minor, "EUR"),
        "weekly top-up",
    )
    (made,) = await payouts.world.run(
        lambda tx: transfer.request(tx, payouts.desk.accounts, payouts.rails, [order])
    )
    return made


async def transfer_state(payouts: Payouts) -> str:
    return str(await payouts.value("SELECT state FROM transfer"))


async def cash(payouts: Payouts, name: str, kind: str = "cash") -> int:
    owner = 0 if kind == "transit" else payouts.accounts[name].id
    return await payouts.world.read(lambda tx: account_balance(tx, Account(kind, owner, "EUR")))


async def test_company_money_leaves_in_the_same_file_as_payouts(
    payouts: Payouts, bank: FileRail
) -> None:
    made = await topup(payouts)
    assert made.transfer_id is not None
    await closes(payouts, "bank", "manual")
    await many(payouts, "1.00")
    dispatcher = payouts.dispatcher()
    await payouts.run(dispatcher)
    bank_id = payouts.accounts["bank"].id
    await payouts.world.run(lambda tx: window.close_now(tx, bank_id, 1, "now"))
    await payouts.run(dispatcher)
    (order,) = bank.orders
    assert len(order.keys) == 2
    assert PSP.encode() in order.body
    assert await transfer_state(payouts) == "sent"
    assert await cash(payouts, "bank") == 0, "only statements move the books"


async def test_both_statements_move_the_books_once_in_either_order(payouts: Payouts) -> None:
    orders: list[list[transfer.Side]] = [["out", "in"], ["in", "out"]]
    for number, sides in enumerate(orders, 1):
        made = await topup(payouts, 5000)
        assert made.transfer_id is not None
        await payouts.run(payouts.dispatcher())
        found: list[transfer.Moved] = []
        for side in (*sides, *sides):
            booking = transfer.Booking(made.transfer_id, side, Money(5000, "EUR"), "sl_1")
            found += await payouts.world.run(lambda tx, b=booking: transfer.book(tx, [b]))
        assert [moved.slug for moved in found] == [None, None, "already", "already"]
        assert found[-1].state == TransferState.DONE.value
        assert await cash(payouts, "bank") == 5000 * number
        assert await cash(payouts, "float") == -5000 * number
        assert await cash(payouts, "", "transit") == 0


async def test_a_transfer_that_came_back_is_back_on_the_account(payouts: Payouts) -> None:
    made = await topup(payouts)
    assert made.transfer_id is not None
    await payouts.run(payouts.dispatcher())
    found: list[transfer.Moved] = []
    bookings: list[tuple[transfer.Side, int]] = [
        ("back", 5000),
        ("out", 4999),
        ("out", 5000),
        ("back", 5000),
        ("back", 5000),
    ]
    for side, minor in bookings:
        booking = transfer.Booking(made.transfer_id, side, Money(minor, "EUR"), "sl_1")
        found += await payouts.world.run(lambda tx, b=booking: transfer.book(tx, [b]))
    assert [each.slug for each in found] == [
        "illegal-move", "transfer-amount-differs", None, None, "already",
    ]  # fmt: skip
    assert await transfer_state(payouts) == "failed"
    assert await cash(payouts, "bank") == 0
    assert await cash(payouts, "", "transit") == 0


async def test_a_transfer_that_is_refused_has_moved_nothing(
    payouts: Payouts, bank: FileRail
) -> None:
    await topup(payouts)
    bank.before = [RailRefused("provider-refused", "No.", extra={"code": "AC01"})]
    await payouts.run(payouts.dispatcher())
    assert await transfer_state(payouts) == "failed"
    assert await cash(payouts, "", "transit") == 0


async def test_a_transfer_without_an_answer_is_unknown(payouts: Payouts, bank: FileRail) -> None:
    await topup(payouts)
    bank.after = [RailUnknown("transport-unproven", "?")]
    await payouts.run(payouts.dispatcher())
    assert await transfer_state(payouts) == "unknown"
    key = str(await payouts.value("SELECT key FROM attempt"))
    await payouts.hear("bank", Outcome(key, Verdict.PAID))
    assert await transfer_state(payouts) == "sent"


async def test_a_transfer_is_cancelled_only_before_it_leaves(payouts: Payouts) -> None:
    made = await topup(payouts)
    assert made.transfer_id is not None
    number = made.transfer_id
    await payouts.world.run(lambda tx: transfer.cancel(tx, number, "not needed"))
    assert await transfer_state(payouts) == "cancelled"
    again = await topup(payouts)
    assert again.transfer_id is not None
    await payouts.run(payouts.dispatcher())
    second = again.transfer_id
    with pytest.raises(Conflict, match="sent cannot be cancelled"):
        await payouts.world.run(lambda tx: transfer.cancel(tx, second, "too late"))


async def test_transfers_that_make_no_sense_are_refused(payouts: Payouts) -> None:
    await topup(payouts)
    bank, wallet, funded = (payouts.accounts[name].id for name in ("bank", "wallet", "float"))
    euros = Money(100, "EUR")
    orders = [
        transfer.Order(bank, 99, euros, "x"),
        transfer.Order(bank, bank, euros, "x"),
        transfer.Order(bank, funded, Money(100, "USD"), "x"),
        transfer.Order(bank, funded, Money(0, "EUR"), "x"),
        transfer.Order(bank, funded, euros, " "),
        transfer.Order(wallet, funded, euros, "x"),
        transfer.Order(bank, wallet, euros, "x"),
    ]
    made = await payouts.world.run(
        lambda tx: transfer.request(tx, payouts.desk.accounts, payouts.rails, orders)
    )
    assert [each.slug for each in made] == [
        "transfer-account-unknown", "transfer-same-account", "transfer-currency",
        "transfer-amount", "reason-missing", "transfer-rail", "transfer-target",
    ]  # fmt: skip
    assert await payouts.value("SELECT count(*) FROM transfer") == 1
