"""Transaction 1: the intent to pay, with the exact bytes, committed before the network is touched.

Approved withdrawals get their account; those whose turn it is become attempts, grouped into orders
as the rail takes them. What one payment lacks is that payment's business alone: it fails, or waits,
and the others go.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from paymaster.db.tx import CellTx
from paymaster.dispatch import choosing, proof, store, transfer, transfer_store, window
from paymaster.dispatch.accounts import PayoutAccount
from paymaster.dispatch.choosing import Routed
from paymaster.dispatch.desk import Desk, Order
from paymaster.dispatch.machine import TransferEvent
from paymaster.dispatch.purse import Purse
from paymaster.dispatch.purse import take as take_affordable
from paymaster.dispatch.store import NewAttempt, NewBatch
from paymaster.kernel.errors import Broken, NeverSent, RailRefused
from paymaster.kernel.ids import reference, text_id
from paymaster.kernel.money import Money
from paymaster.observe import get_logger
from paymaster.people import destinations
from paymaster.rails.base import Instruction, Payee, Prepared, Rail
from paymaster.secrets.sealing import place
from paymaster.withdraw import moves
from paymaster.withdraw.failing import pause_failing
from paymaster.withdraw.moves import Withdrawal

_log = get_logger(__name__)


class _Item(NamedTuple):
    """One payment on its way into an order."""

    attempt_id: int
    key: str
    withdrawal_id: int | None
    transfer_id: int | None
    money: Money
    payee: Payee | None
    trace_id: str
    number: int
    routed: str | None
    proven: bool = True


@dataclass(slots=True)
class _Sorted:
    """What became of the items of one account: orders, definite no, not now."""

    orders: list[tuple[int, Prepared, list[_Item]]] = field(
        default_factory=list[tuple[int, Prepared, "list[_Item]"]]
    )
    refused: list[tuple[_Item, str]] = field(default_factory=list[tuple[_Item, str]])
    postponed: list[tuple[_Item, str]] = field(default_factory=list[tuple[_Item, str]])


async def claim_approved(tx: CellTx, desk: Desk, rooms: Mapping[int, int]) -> list[Order]:
    """Give approved withdrawals their account; where there is room, make the orders at once.

    `rooms` has how many orders may begin for each account id.
    """
    waiting = await moves.take_due(tx, moves.State.APPROVED, desk.pace.items)
    chosen, nowhere = await choosing.choose(tx, desk, waiting)
    if nowhere:
        later = tx.now + desk.pace.look_again
        await store.postpone_approved(tx, nowhere, later, "no-route")
    orders: list[Order] = []
    for account_id, group in chosen.items():
        account = desk.accounts[account_id]
        at_once = account.payout_window == window.ALWAYS and account_id not in desk.watched
        room = rooms.get(account_id, 0) if at_once else 0
        rail = desk.rail(account)
        now = group[: room * rail.caps.batch_items] if rail is not None else []
        await _queue(tx, account, group[len(now) :])
        routed = {one.id: why for one, why in now}
        orders += await _form(tx, desk, account, [one for one, _ in now], [], routed)
    return orders


async def _queue(tx: CellTx, account: PayoutAccount, group: Sequence[Routed]) -> None:
    if not group:
        return
    if account.payout_window != window.ALWAYS:
        await window.ensure(tx, account.id, account.payout_window, account.time_zone)
    await moves.move(
        tx,
        [
            moves.Step(
                one.id,
                moves.Event.QUEUE,
                reason=f"{account.rail.name}: {why}",
                rail_account_id=account.id,
            )
            for one, why in group
        ],
        locked=[one for one, _ in group],
    )


async def claim_queued(
    tx: CellTx, desk: Desk, account: PayoutAccount, room: int, purse: Purse | None = None
) -> list[Order]:
    """Make orders of what waits for an account, if its window has closed; at most `room` orders.

    With a purse, of what its money is enough for.
    """
    rail = desk.rail(account)
    if rail is None or room < 1 or not account.active:
        return []
    windowed = account.payout_window != window.ALWAYS
    if windowed:
        await window.ensure(tx, account.id, account.payout_window, account.time_zone)
        if not await window.take_due(tx, account.id):
            return []
    limit = min(room * rail.caps.batch_items, max(rail.caps.batch_items, desk.pace.items))
    transfers = await transfer_store.take_requested(tx, account.id, limit)
    left = limit - len(transfers)
    if purse is None:
        waiting = await moves.take_queued(tx, account.id, left)
    else:
        gone = sum(one.money.minor for one in transfers)
        waiting = await take_affordable(tx, purse.without(gone), left)
    routed = await store.reasons(tx, [one.id for one in waiting])
    orders = await _form(tx, desk, account, waiting, transfers, routed)
    emptied = windowed and len(transfers) + len(waiting) < limit
    # One that somebody holds at this moment was skipped: it must not wait for the next window.
    if emptied and (purse is not None or not await moves.waits(tx, account.id)):
        await window.move_on(tx, account.id, account.payout_window, account.time_zone)
    return orders


async def _form(
    tx: CellTx,
    desk: Desk,
    account: PayoutAccount,
    waiting: Sequence[Withdrawal],
    transfers: Sequence[transfer_store.Transfer],
    routed: Mapping[int, str],
) -> list[Order]:
    """Move to `sending`, prepare the bytes, write orders and attempts."""
    rail = desk.rail(account)
    if rail is None or not (waiting or transfers):
        return []
    items = await _withdrawal_items(tx, desk, account, waiting, routed)
    items += await _transfer_items(tx, desk, transfers)
    found = _Sorted()
    found.postponed = [(item, "attempt-unproven") for item in items if not item.proven]
    items = [item for item in items if item.proven]
    found.refused = [(item, "destination-closed") for item in items if item.payee is None]
    payable = [item for item in items if item.payee is not None]
    for start in range(0, len(payable), rail.caps.batch_items):
        _prepare(tx, rail, account, payable[start : start + rail.caps.batch_items], found)
    await _write(tx, desk, account, found)
    await _fail(tx, found.refused)
    await _wait(tx, account, found.postponed, tx.now + desk.pace.look_again)
    until = tx.now + desk.pace.lease
    return [
        Order(batch_id, account, prepared, tx.commit_id, until, 1)
        for batch_id, prepared, _ in found.orders
    ]


async def _withdrawal_items(
    tx: CellTx,
    desk: Desk,
    account: PayoutAccount,
    waiting: Sequence[Withdrawal],
    routed: Mapping[int, str],
) -> list[_Item]:
    before = await proof.earlier(tx, [one.id for one in waiting])
    if not all(one.proven for one in before.values()):
        await proof.write_late(tx, list(before))
        before = await proof.earlier(tx, list(before))
    steps = [moves.Step(one.id, moves.Event.SEND, rail_account_id=account.id) for one in waiting]
    moved = await moves.move(tx, steps, locked=waiting)
    sending = [one for one, result in zip(waiting, moved, strict=True) if result.done]
    payees = await _payees(tx, desk, sorted({one.destination_id for one in sending}))
    ids = tx.ids(len(sending))
    return [
        _Item(
            attempt_id,
            reference(tx.cell, attempt_id),
            one.id,
            None,
            one.net,
            payees.get(one.destination_id),
            one.trace_id,
            1 + (before[one.id].number if one.id in before else 0),
            routed.get(one.id),
            one.id not in before or before[one.id].proven,
        )
        for attempt_id, one in zip(ids, sending, strict=True)
    ]


async def _payees(tx: CellTx, desk: Desk, destination_ids: Sequence[int]) -> dict[int, Payee]:
    """The opened destinations. One that cannot be opened is missing and spoils no other."""
    try:
        return await destinations.open_payees(tx, desk.sealer, destination_ids)
    except Broken as error:
        if len(destination_ids) == 1:
            _log.error("destination_unreadable", slug=error.slug, destination=destination_ids[0])
            return {}
    half = len(destination_ids) // 2
    first = await _payees(tx, desk, destination_ids[:half])
    return first | await _payees(tx, desk, destination_ids[half:])


async def _transfer_items(
    tx: CellTx, desk: Desk, transfers: Sequence[transfer_store.Transfer]
) -> list[_Item]:
    if not transfers:
        return []
    moved = await transfer.move(
        tx, [transfer.Step(one.id, TransferEvent.SEND) for one in transfers]
    )
    sending = [one for one, result in zip(transfers, moved, strict=True) if result.done]
    numbers = await store.transfer_numbers(tx, [one.id for one in sending])
    items: list[_Item] = []
    for attempt_id, one in zip(tx.ids(len(sending)), sending, strict=True):
        target = desk.accounts.get(one.to_account_id)
        payee = transfer.payee(target) if target is not None else None
        key, number = reference(tx.cell, attempt_id), 1 + numbers.get(one.id, 0)
        items.append(
            _Item(attempt_id, key, None, one.id, one.money, payee, one.trace_id, number, one.reason)
        )
    return items


def _prepare(
    tx: CellTx, rail: Rail, account: PayoutAccount, group: list[_Item], found: _Sorted
) -> None:
    """Prepare a group; what spoils it is taken out by name, or found by halving."""
    stack = [group]
    while stack:
        items = stack.pop()
        batch_id = tx.id()
        try:
            prepared = _prepared(rail, account, tx, batch_id, items)
        except RailRefused as refused:
            named = {problem.pointer.removeprefix("/"): problem for problem in refused.problems}
            bad = [item for item in items if item.key in named]
            good = [item for item in items if item.key not in named]
            if bad:
                found.refused += [
                    (item, f"{refused.slug}: {named[item.key].detail}") for item in bad
                ]
                stack += [good] if good else []
            elif len(items) == 1:
                found.refused.append((items[0], f"{refused.slug}: {refused.detail}"))
            else:
                stack += [items[: len(items) // 2], items[len(items) // 2 :]]
        except NeverSent as error:
            found.postponed += [(item, error.slug) for item in items]
        except Exception as error:  # noqa: BLE001 - a fault in a rail stops no other payment
            if len(items) > 1:
                stack += [items[: len(items) // 2], items[len(items) // 2 :]]
                continue
            _log.error("prepare_failed", key=items[0].key, error=type(error).__name__)
            found.postponed.append((items[0], "prepare-failed"))
        else:
            found.orders.append((batch_id, prepared, items))


def _prepared(
    rail: Rail, account: PayoutAccount, tx: CellTx, batch_id: int, items: Sequence[_Item]
) -> Prepared:
    batch_key = reference(tx.cell, batch_id)
    purpose = account.rail.settings.get("purpose", "").strip() or "Payout"
    instructions = [
        Instruction(item.key, item.money, item.payee, f"{purpose} {item.key}", tx.now)
        for item in items
        if item.payee is not None
    ]
    prepared = rail.prepare(account.rail, batch_key, instructions, tx.now)
    if prepared.batch_key != batch_key or set(prepared.keys) != {item.key for item in items}:
        raise Broken("batch-malformed", "A rail prepared another order than it was given.")
    return prepared


async def _write(tx: CellTx, desk: Desk, account: PayoutAccount, found: _Sorted) -> None:
    if not found.orders:
        return
    bodies = desk.sealer.seal_many(
        [
            (prepared.body, place("batch", tx.cell, batch_id))
            for batch_id, prepared, _ in found.orders
        ]
    )
    batches = [
        NewBatch(
            id=batch_id,
            batch_key=prepared.batch_key,
            rail_account_id=account.id,
            sealed=sealed,
            digest=hashlib.sha256(prepared.body).digest(),
            items=len(items),
            total=sum(item.money.minor for item in items),
            asset=account.rail.currency,
            trace_id=items[0].trace_id if len(items) == 1 else tx.trace_id,
        )
        for (batch_id, prepared, items), sealed in zip(found.orders, bodies, strict=True)
    ]
    await store.insert_batches(tx, batches, tx.commit_id, tx.now + desk.pace.lease)
    await store.insert_attempts(
        tx,
        [
            NewAttempt(
                id=item.attempt_id,
                withdrawal_id=item.withdrawal_id,
                transfer_id=item.transfer_id,
                number=item.number,
                batch_id=batch_id,
                rail_account_id=account.id,
                key=item.key,
                amount=item.money.minor,
                asset=item.money.currency,
                trace_id=item.trace_id,
                routed=item.routed,
            )
            for batch_id, _, items in found.orders
            for item in items
        ],
    )


async def _fail(tx: CellTx, refused: Sequence[tuple[_Item, str]]) -> None:
    """Nothing was sent and nothing will be: the money goes back."""
    steps = [
        moves.Step(item.withdrawal_id, moves.Event.REJECT, reason=reason)
        for item, reason in refused
        if item.withdrawal_id is not None
    ]
    await moves.move(tx, steps)
    await pause_failing(tx, [step.withdrawal_id for step in steps])
    await transfer.move(
        tx,
        [
            transfer.Step(item.transfer_id, TransferEvent.REJECT, reason)
            for item, reason in refused
            if item.transfer_id is not None
        ],
    )


async def _wait(
    tx: CellTx, account: PayoutAccount, postponed: Sequence[tuple[_Item, str]], due_at: datetime
) -> None:
    """Nothing was sent: back into the queue, with that as the proof."""
    reasons = [
        (item, f"{slug}: the order {text_id('at', tx.cell, item.attempt_id)} was never made")
        for item, slug in postponed
    ]
    await moves.move(
        tx,
        [
            moves.Step(
                item.withdrawal_id,
                moves.Event.QUEUE,
                reason=reason,
                rail_account_id=account.id,
                due_at=due_at,
            )
            for item, reason in reasons
            if item.withdrawal_id is not None
        ],
    )
    await transfer.move(
        tx,
        [
            transfer.Step(item.transfer_id, TransferEvent.QUEUE, reason, due_at)
            for item, reason in reasons
            if item.transfer_id is not None
        ],
    )
