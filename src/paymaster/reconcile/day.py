"""The day over all cells: proofs, runs and closing, each step in a transaction of its own.

Nothing here decides anything; it only brings the cells together. Every step may be repeated, so
whoever calls can stop anywhere and start again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from paymaster.db.cells import Databases
from paymaster.db.pool import CellDb
from paymaster.db.snapshots import OneSnapshot, Pieces, Snapshots
from paymaster.db.tx import Actor, CellRead
from paymaster.earn import proof as earn_proof
from paymaster.kernel.clock import business_day
from paymaster.ledger import proof as ledger_proof
from paymaster.ledger import proof_store
from paymaster.ledger.proof import Difference
from paymaster.ledger.proof_store import Checkpoint
from paymaster.rails.base import RailAccount
from paymaster.reconcile import close, close_store, proof, run_store
from paymaster.reconcile.close import SIGNING_KEY, CellState
from paymaster.reconcile.close_store import DayClose
from paymaster.reconcile.run import cut_off, run, unbooked_everywhere
from paymaster.reconcile.run_store import Run
from paymaster.secrets.port import RemoteSigner
from paymaster.withdraw import proof as withdraw_proof

ALLOWED = timedelta(days=2)
"""How long a confirmed payment may stay away from the statements before it is a break."""


async def prove_cell(tx: CellRead) -> list[Difference]:
    """Books, rewards, withdrawals and lines of a cell, on one snapshot."""
    return await _prove(OneSnapshot(tx), None)


async def _prove(snapshots: Snapshots, since: Checkpoint | None) -> list[Difference]:
    books = await ledger_proof.prove_books(snapshots, since=since)
    found = list(books.differences)
    found += await earn_proof.prove_in(snapshots)
    found += await withdraw_proof.prove_in(snapshots)
    found += await proof.prove_in(snapshots)
    return found


async def look(dbs: Databases, environment_id: int) -> list[CellState]:
    """Prove every cell of an environment, one after the other, in short snapshots.

    The postings that `paymaster ledger prove` found sound before are not read again.
    """
    states: list[CellState] = []
    for cell in dbs.cells(environment_id):
        db = dbs.cell(cell.number)
        found = await _prove(Pieces(db), await db.read(proof_store.last))
        states.append(await db.read(lambda tx, those=found: close.state(tx, those)))
    return states


async def run_account(
    dbs: Databases,
    environment_id: int,
    actor: Actor,
    trace_id: str,
    account: RailAccount,
    day: date,
    allowed: timedelta = ALLOWED,
) -> Run:
    """Prove one account and day with what all cells are waiting for. Raises as `run` does."""
    zone = dbs.environment(environment_id).time_zone
    overdue = await unbooked_everywhere(
        dbs, environment_id, account.id, cut_off(day, zone, allowed)
    )
    treasury = dbs.treasury(environment_id)
    return await treasury.run(actor, trace_id, lambda tx: run(tx, account, day, overdue))


async def run_due(
    dbs: Databases,
    environment_id: int,
    actor: Actor,
    trace_id: str,
    accounts: Sequence[RailAccount],
    allowed: timedelta = ALLOWED,
) -> list[Run]:
    """Run every account and day that is not closed and whose last run is not the last word.

    For a loop: days without a run, days of which something has changed since, and once a business
    day the newest statement of each account, because payments become overdue by time alone.
    """
    treasury = dbs.treasury(environment_id)
    done: list[Run] = []
    for account in accounts:
        due = await treasury.read(lambda tx, one=account: _due(tx, one))
        for day in due:
            done.append(  # noqa: PERF401 - each run is a transaction of its own
                await run_account(dbs, environment_id, actor, trace_id, account, day, allowed)
            )
    return done


async def _due(tx: CellRead, account: RailAccount) -> list[date]:
    _, closed = await close_store.head(tx)
    today = business_day(tx.now, tx.time_zone)
    days = await run_store.days_to_run(tx, account.id, closed)
    due: list[date] = []
    for day in days:
        last = await run_store.latest(tx, account.id, day)
        fresh = last is not None and not await run_store.stale(tx, last)
        if fresh and last is not None and day == days[-1]:
            fresh = business_day(last.started_at, tx.time_zone) == today
        if not fresh:
            due.append(day)
    return due


async def close_day(
    dbs: Databases,
    environment_id: int,
    signer: RemoteSigner,
    actor: Actor,
    trace_id: str,
    accounts: Sequence[RailAccount],
    day: date,
    *,
    key_id: str = SIGNING_KEY,
) -> DayClose:
    """Close a day in every cell and sign it; a day that is closed is returned as it is.

    `accounts` are the environment's active ones. Raises Unprocessable `day-not-ready` with a
    problem for each blocker, before anything is changed, `day-passed`, and what `signer` raises:
    the day is then closed but not signed, and closing it again signs it.
    """
    treasury = dbs.treasury(environment_id)
    by = _Signing(treasury, signer, actor, trace_id, key_id)
    waiting = await treasury.read(close_store.draft)
    if waiting is not None:
        await _signed(by, waiting)
    done = await treasury.read(lambda tx: close_store.find(tx, day))
    if done is not None:
        return done
    cells = await look(dbs, environment_id)
    close.refuse(await treasury.read(lambda tx: close.blockers(tx, day, accounts, cells)))
    frozen = [
        await dbs.cell(cell.number).run(actor, trace_id, lambda tx: close.freeze(tx, day))
        for cell in dbs.cells(environment_id)
        if not cell.treasury
    ]
    while True:
        draft = await treasury.run(
            actor, trace_id, lambda tx: close.prepare(tx, day, accounts, cells, frozen)
        )
        if draft is not None:
            signed = await _signed(by, draft)
        else:
            signed = await treasury.read(lambda tx: close_store.find(tx, day))
        if signed is not None and signed.day == day:
            return signed


@dataclass(frozen=True, slots=True)
class _Signing:
    """Who signs the days of a treasury, and for whom."""

    treasury: CellDb
    signer: RemoteSigner
    actor: Actor
    trace_id: str
    key_id: str


async def _signed(by: _Signing, draft: close_store.DayDraft) -> DayClose:
    """Outside a transaction: the key may be far away."""
    message = close.signed_message(draft.day, draft.closed_seq, draft.totals)
    signature = await by.signer.sign(by.key_id, message)
    return await by.treasury.run(
        by.actor,
        by.trace_id,
        lambda tx: close.sign(tx, draft, signature, key_id=by.key_id),
    )
