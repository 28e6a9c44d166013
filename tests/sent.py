"""Payments as they stand after they were sent, for the tests of reconciliation."""

from __future__ import annotations

from dataclasses import dataclass

from tests.withdrawals import insert_destination

from paymaster.db.tx import CellTx
from paymaster.kernel.ids import reference, text_id
from paymaster.kernel.money import Money
from paymaster.ledger.chart import HOUSE, Account
from paymaster.ledger.entry import Entry, Posting
from paymaster.ledger.post import post
from paymaster.rails.base import RailAccount
from paymaster.withdraw.moves import Event, Step, move
from paymaster.withdraw.request import RequestWithdrawal, request


@dataclass(frozen=True)
class Payout:
    """A payment that was ordered."""

    cell: int
    user_id: int
    withdrawal_id: int
    attempt_id: int
    key: str
    amount: Money

    @property
    def attempt(self) -> str:
        return text_id("at", self.cell, self.attempt_id)


_EVENTS = {
    "sending": [],
    "unknown": [Event.LOSE],
    "sent": [Event.ACCEPT],
    "paid": [Event.SETTLE],
    "returned": [Event.SETTLE, Event.RETURN],
    "rejected": [Event.REJECT],
}


async def send_payout(
    tx: CellTx, account: RailAccount, text: str, state: str, batch_id: int | None
) -> Payout:
    amount = Money.parse(text, account.currency)
    user_id, earned, attempt_id, own_batch = tx.ids(4)
    await tx.execute(
        "INSERT INTO app_user (id, external_id, status, created_at, version)"
        " VALUES (%s, %s, 'active', %s, 1)",
        (user_id, f"user-{user_id}", tx.now),
    )
    destination_id = await insert_destination(tx, user_id)
    asset = account.currency
    gift = Posting(Account("equity", HOUSE, asset), Account("available", user_id, asset), amount)
    await post(tx, [Entry(earned, "gift", "test", (gift,))])
    (made,) = await request(tx, [RequestWithdrawal(user_id, destination_id, amount, None)])
    assert made.withdrawal_id is not None, made
    await _send(tx, made.withdrawal_id, account.id, state)
    if batch_id is None:
        await insert_batch(tx, own_batch, account.id)
    key = await insert_attempt(
        tx,
        attempt_id,
        batch_id or own_batch,
        account.id,
        amount,
        state,
        withdrawal_id=made.withdrawal_id,
    )
    return Payout(tx.cell, user_id, made.withdrawal_id, attempt_id, key, amount)


async def _send(tx: CellTx, withdrawal_id: int, account_id: int, state: str) -> None:
    await move(tx, [Step(withdrawal_id, Event.SCREEN)])
    await tx.execute("UPDATE withdrawal SET lease_token = 1 WHERE id = %s", (withdrawal_id,))
    (approved,) = await move(tx, [Step(withdrawal_id, Event.APPROVE, lease_token=1)])
    assert approved.done, approved
    for event in (Event.SEND, *_EVENTS[state]):
        step = Step(withdrawal_id, event, reason="said so", rail_account_id=account_id)
        (moved,) = await move(tx, [step])
        assert moved.done, moved


async def insert_batch(tx: CellTx, batch_id: int, account_id: int) -> None:
    await tx.execute(
        "INSERT INTO batch (id, batch_key, rail_account_id, sealed, digest, items, total, asset,"
        " state, tries, lease_token, created_at, trace_id, version)"
        " VALUES (%s, %s, %s, 's', 'd', 1, 1, 'EUR', 'sent', 1, 0, %s, 't', 1)",
        (batch_id, reference(tx.cell, batch_id), account_id, tx.now),
    )


async def insert_attempt(
    tx: CellTx,
    attempt_id: int,
    batch_id: int,
    account_id: int,
    amount: Money,
    state: str,
    *,
    withdrawal_id: int | None = None,
    transfer_id: int | None = None,
) -> str:
    key = reference(tx.cell, attempt_id)
    await tx.execute(
        "INSERT INTO attempt (id, withdrawal_id, transfer_id, number, batch_id, rail_account_id,"
        " key, amount, asset, state, created_at, resolved_at, tries, lease_token, trace_id,"
        " version) VALUES (%s, %s, %s, 1, %s, %s, %s, %s, %s, %s, %s, %s, 0, 0, 't', 1)",
        (
            attempt_id,
            withdrawal_id,
            transfer_id,
            batch_id,
            account_id,
            key,
            amount.minor,
            amount.currency,
            state,
            tx.now,
            tx.now if state in {"paid", "rejected", "returned"} else None,
        ),
    )
    return key


async def insert_transfer(
    tx: CellTx, from_id: int, to_id: int, money: Money, batch: int | None = None
) -> tuple[int, str]:
    """A transfer with its one attempt, both sent: id and key."""
    transfer_id, attempt_id, own_batch, *entries = tx.ids(6)
    await tx.execute(
        "INSERT INTO transfer (id, from_account_id, to_account_id, amount, asset, state, number,"
        " entry_out, entry_in, entry_back, created_at, actor, reason, trace_id, lease_token,"
        " version) VALUES (%s, %s, %s, %s, 'EUR', 'sending', 1, %s, %s, %s, %s, 't', 't', 't', 0,"
        " 1)",
        (transfer_id, from_id, to_id, money.minor, *entries, tx.now),
    )
    if batch is None:
        await insert_batch(tx, own_batch, from_id)
    key = await insert_attempt(
        tx, attempt_id, batch or own_batch, from_id, money, "sending", transfer_id=transfer_id
    )
    return transfer_id, key
