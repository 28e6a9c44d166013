"""Statements against the books: runs, breaks, lines, and how it all stands."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Literal, cast

from fastapi import APIRouter, Path, Query
from pydantic import StringConstraints
from starlette.responses import Response

from paymaster.api import guarded
from paymaster.api.context import Call, Operates, Reads
from paymaster.api.door import Door
from paymaster.api.guarded import Ready
from paymaster.api.models import Body, Day, Name, Reason, Reply, Text, listing, wire
from paymaster.api.paging import Paged, next_cursor
from paymaster.api.rails import find
from paymaster.api.shapes import Page
from paymaster.api.shapes_operate import BankStatementOut, BreakOut, LineOut, RunOut, SummaryOut
from paymaster.api.shapes_staff import WAITING
from paymaster.db.tx import CellRead, CellTx
from paymaster.dispatch import accounts
from paymaster.earn import campaign as campaigns
from paymaster.kernel.clock import business_day, rfc3339
from paymaster.kernel.errors import NotFound
from paymaster.kernel.ids import Ref, text_id
from paymaster.kernel.money import Money
from paymaster.reconcile import breaks, resolve, run_store, view
from paymaster.reconcile import day as days
from paymaster.reconcile.breaks import Ageing, Break
from paymaster.reconcile.resolve import Target
from paymaster.reconcile.run_store import Run

router = APIRouter(route_class=Door, tags=["reconciliation"])
BASE = "/v1/reconciliation"
RUNS, BREAKS, STATEMENTS = f"{BASE}/runs", f"{BASE}/breaks", f"{BASE}/statements"
LINES = f"{BASE}/statements/{{statement}}/lines"
AccountName = Annotated[Text, Query(max_length=40, description="Name of a rail account.")]
DayQuery = Annotated[Day, Query()]
BreakPath = Annotated[str, Path(max_length=40, description="`br_...`")]
StatementPath = Annotated[str, Path(max_length=40, description="`st_...`")]
LinePath = Annotated[str, Path(max_length=40, description="`sl_...`")]


class AskRun(Body):
    """Prove one account's day."""

    rail_account: Annotated[Text, StringConstraints(min_length=1, max_length=40)]
    day: Day


class Explanation(Body):
    """Where suspended money belongs; a campaign only for a budget."""

    kind: Literal["budget", "rail_fees", "equity", "loss", "commission", "transit"]
    campaign: Annotated[Text, StringConstraints(min_length=1, max_length=128)] | None = None


class Resolve(Body):
    """`target` is needed while the break has money in suspense."""

    reason: Reason
    target: Explanation | None = None


class Assign(Body):
    """Who looks after it."""

    owner: Name


class Retry(Body):
    """Look at a line again, with a corrected reference or our amount's difference as its fee."""

    reason: Reason
    reference: Annotated[Text, StringConstraints(max_length=40)] | None = None
    accept_difference: bool = False


async def _names(call: Call) -> dict[int, str]:
    found = await accounts.load(call.deps.dbs, call.environment.id)
    return {account.id: account.rail.name for account in found.values()}


def _run(call: Call, names: Mapping[int, str], row: Run) -> dict[str, Any]:
    amounts = {
        name: wire(Money(getattr(row, name), row.asset))
        for name in ("opening", "closing", "ledger", "outstanding", "difference")
    }
    return {
        "id": call.control_text("rr", row.id),
        "rail_account": names.get(row.rail_account_id, ""),
        "day": row.day.isoformat(),
        **amounts,
        "lines": row.lines,
        "matched": row.matched,
        "breaks": row.breaks,
        "as_of_seq": row.as_of_seq,
        "started_at": rfc3339(row.started_at),
        "actor": row.actor,
    }


@router.post(RUNS, response_model=RunOut)
async def ask_run(call: Operates, body: AskRun) -> Reply:
    """Hold one account's statement of a day against the books; opens and clears breaks."""
    account = await find(call, body.rail_account)
    row = await days.run_account(
        call.deps.dbs,
        call.environment.id,
        call.actor,
        call.trace_id,
        account.rail,
        date.fromisoformat(body.day),
    )
    return Reply(_run(call, {account.id: account.rail.name}, row))


@router.get(RUNS, response_model=Page[RunOut])
async def list_runs(
    call: Reads,
    page: Paged,
    rail_account: AccountName | None = None,
    day: DayQuery | None = None,
) -> Reply:
    """Runs, newest first."""
    filters = {"rail_account": rail_account, "day": day}
    position = page.after(call, RUNS, filters)
    before = cast("int", position[0]) if position else None
    account = (await find(call, rail_account)).id if rail_account is not None else None
    wanted = date.fromisoformat(day) if day else None
    rows = await call.treasury.read(
        lambda tx: run_store.listing(tx, account, wanted, before, page.limit)
    )
    names = await _names(call)
    last = (rows[-1].id,) if len(rows) == page.limit else None
    data = [_run(call, names, row) for row in rows]
    return listing(data, next_cursor(call, RUNS, filters, last))


def _break(call: Call, names: Mapping[int, str], row: Break) -> dict[str, Any]:
    def money(minor: int | None) -> dict[str, str] | None:
        return None if minor is None else wire(Money(minor, row.asset))

    today = business_day(call.clock.now(), call.environment.time_zone)
    return {
        "id": call.control_text("br", row.id),
        "rail_account": names.get(row.rail_account_id, ""),
        "day": row.day.isoformat(),
        "kind": row.kind,
        "subject": row.subject,
        "expected": money(row.expected),
        "found": money(row.found),
        "currency": row.asset,
        "detail": row.detail,
        "state": row.state,
        "owner": row.owner,
        "resolution": row.resolution,
        "resolved_by": row.resolved_by,
        "opened_at": rfc3339(row.opened_at),
        "resolved_at": rfc3339(row.resolved_at) if row.resolved_at else None,
        "age_days": row.age_days(today),
    }


@router.get(BREAKS, response_model=Page[BreakOut])
async def list_breaks(
    call: Reads,
    page: Paged,
    state: Annotated[Literal["open", "resolved"], Query()] = "open",
    rail_account: AccountName | None = None,
    kind: Annotated[Text | None, Query(max_length=64)] = None,
    owner: Annotated[Text | None, Query(max_length=200)] = None,
) -> Reply:
    """Breaks, the oldest day first."""
    filters = {"state": state, "rail_account": rail_account, "kind": kind, "owner": owner}
    position = page.after(call, BREAKS, filters)
    after = (
        (date.fromisoformat(cast("str", position[0])), cast("int", position[1]))
        if position
        else None
    )
    account = (await find(call, rail_account)).id if rail_account is not None else None
    rows = await call.treasury.read(
        lambda tx: breaks.listing(
            tx,
            state=state,
            rail_account_id=account,
            kind=kind,
            owner=owner,
            after=after,
            limit=page.limit,
        )
    )
    names = await _names(call)
    last = (rows[-1].day.isoformat(), rows[-1].id) if len(rows) == page.limit else None
    data = [_break(call, names, row) for row in rows]
    return listing(data, next_cursor(call, BREAKS, filters, last))


async def _resolution(call: Call, subject: str, body: Mapping[str, Any]) -> Ready:
    number = call.control_id("br", subject)
    asked = body["target"]
    target = await _target(call, None if asked is None else Explanation(**asked))
    names = await _names(call)

    async def amount(tx: CellTx) -> Money | None:
        return await resolve.at_stake(tx, number)

    async def run(tx: CellTx) -> Mapping[str, Any]:
        return _break(call, names, await resolve.resolve(tx, number, body["reason"], target))

    return Ready(call.treasury, amount, run)


RESOLVE = guarded.Act("break.resolve", _resolution)


@router.post(f"{BREAKS}/{{break_id}}/resolve", response_model=BreakOut, responses=WAITING)
async def resolve_break(call: Operates, break_id: BreakPath, body: Resolve) -> Response:
    """End a break with a reason, and with an entry when its money lies in suspense."""
    return await guarded.guarded(call, RESOLVE, break_id, body.model_dump(mode="json"))


async def _target(call: Call, asked: Explanation | None) -> Target | None:
    if asked is None:
        return None
    if asked.campaign is None:
        return Target(asked.kind)
    name = call.name(asked.campaign)
    found = await call.look(lambda tx: campaigns.get(tx, call.environment.id, name))
    return Target(asked.kind, found.number)


@router.post(f"{BREAKS}/{{break_id}}/assign", response_model=BreakOut)
async def assign_break(call: Operates, break_id: BreakPath, body: Assign) -> Reply:
    """Give a break to somebody."""
    number = call.control_id("br", break_id)
    row = await call.write(call.treasury, lambda tx: breaks.assign(tx, number, body.owner))
    return Reply(_break(call, await _names(call), row))


async def _again(call: Call, subject: str, body: Mapping[str, Any]) -> Ready:
    ref = Ref(call.treasury.number, call.control_id("sl", subject))

    async def amount(tx: CellTx) -> Money | None:
        return await resolve.line_money(tx, ref.id)

    async def run(tx: CellTx) -> Mapping[str, Any]:
        await resolve.retry(
            tx,
            ref,
            body["reason"],
            reference=body["reference"],
            accept_difference=body["accept_difference"],
        )
        return {}

    return Ready(call.treasury, amount, run)


RETRY = guarded.Act("line.retry", _again, status=204)


@router.post(f"{BASE}/lines/{{line}}/retry", status_code=204, responses=WAITING)
async def retry_line(call: Operates, line: LinePath, body: Retry) -> Response:
    """Let the matching look at a line in doubt once more."""
    return await guarded.guarded(call, RETRY, line, body.model_dump(mode="json"))


@router.get(STATEMENTS, response_model=Page[BankStatementOut])
async def list_statements(
    call: Reads,
    page: Paged,
    rail_account: AccountName | None = None,
    day: DayQuery | None = None,
) -> Reply:
    """Statements, newest first."""
    filters = {"rail_account": rail_account, "day": day}
    position = page.after(call, STATEMENTS, filters)
    before = cast("int", position[0]) if position else None
    account = (await find(call, rail_account)).id if rail_account is not None else None
    wanted = date.fromisoformat(day) if day else None
    rows = await call.treasury.read(
        lambda tx: view.statements(tx, account, wanted, before, page.limit)
    )
    names = await _names(call)
    data = [
        {
            "id": call.control_text("st", row.id),
            "statement_id": row.statement_id,
            "rail_account": names.get(row.rail_account_id, ""),
            "day": row.day.isoformat(),
            "opening": wire(Money(row.opening, row.asset)),
            "closing": wire(Money(row.closing, row.asset)),
            "lines": row.lines,
            "open_lines": row.open_lines,
            "restates": None
            if row.restates_id is None
            else call.control_text("st", row.restates_id),
            "received_at": rfc3339(row.received_at),
        }
        for row in rows
    ]
    last = (rows[-1].id,) if len(rows) == page.limit else None
    return listing(data, next_cursor(call, STATEMENTS, filters, last))


@router.get(LINES, response_model=Page[LineOut])
async def list_lines(
    call: Reads,
    statement: StatementPath,
    page: Paged,
    state: Annotated[Literal["open", "asked", "matched", "break"] | None, Query()] = None,
) -> Reply:
    """The lines of a statement. What names a person stays sealed."""
    number = call.control_id("st", statement)
    filters = {"statement": number, "state": state}
    position = page.after(call, LINES, filters)
    after = cast("int", position[0]) if position else 0

    async def work(tx: CellRead) -> list[view.LineView]:
        if not await view.exists(tx, number):
            raise NotFound("not-found", "There is no statement of this id.")
        return await view.lines(tx, number, state, after, page.limit)

    rows = await call.treasury.read(work)
    data = [
        {
            "id": text_id("sl", call.treasury.number, row.id),
            "line_id": row.line_id,
            "kind": row.kind,
            "amount": wire(Money(row.amount, row.asset)),
            "fee": wire(Money(row.fee, row.asset)),
            "booked_on": row.booked_on.isoformat(),
            "reference": row.reference,
            "code": row.code,
            "state": row.state,
            "matched": row.matched,
        }
        for row in rows
    ]
    last = (rows[-1].id,) if len(rows) == page.limit else None
    return listing(data, next_cursor(call, LINES, filters, last))


@router.get(f"{BASE}/summary", response_model=SummaryOut)
async def get_summary(call: Reads) -> Reply:
    """How many lines and breaks are open, with the age and the money in doubt."""

    async def work(tx: CellRead) -> tuple[int, list[Ageing]]:
        return await view.open_lines(tx), await breaks.ageing(tx)

    lines, ageing = await call.treasury.read(work)
    return Reply(
        {
            "open_lines": lines,
            "open_breaks": sum(row.open for row in ageing),
            "breaks": [
                {
                    "kind": row.kind,
                    "currency": row.asset,
                    "open": row.open,
                    "oldest": row.oldest.isoformat(),
                    "in_doubt": wire(row.in_doubt),
                }
                for row in ageing
            ],
        }
    )
