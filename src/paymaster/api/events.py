"""Events in: batches of what users did; and those that were not taken in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Annotated, Any, cast

from fastapi import APIRouter, Path, Query, Request
from pydantic import StringConstraints
from starlette.responses import Response

from paymaster.api import guarded
from paymaster.api.context import Call, Events, Operates, OwnReads, Reads
from paymaster.api.door import Door
from paymaster.api.guarded import Ready
from paymaster.api.models import Amount, Reasoned, Reply, Text, listing, wire
from paymaster.api.paging import Paged, next_cursor
from paymaster.api.shapes import DeadLetterOut, IntakeOut, Page, RewardOut
from paymaster.api.shapes_staff import WAITING
from paymaster.api.users import UserPath
from paymaster.db import audit
from paymaster.db.tx import CellRead, CellTx
from paymaster.earn import dead_letter, mapping, reversal
from paymaster.earn.dead_letter import DeadLetter
from paymaster.earn.event import Status
from paymaster.earn.ingest import ingest
from paymaster.earn.intake import Limits, Parsed, TooLarge, inflate, parse
from paymaster.earn.machine import REWARD, RewardEvent
from paymaster.earn.reward import let_mature
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import Refusal
from paymaster.kernel.ids import text_id
from paymaster.kernel.money import Money
from paymaster.withdraw import holds

router = APIRouter(route_class=Door, tags=["events"])
DEAD_LETTERS, REWARDS = "/v1/dead-letters", "/v1/users/{user}/rewards"
_DELIMITERS = {"text/csv": ",", "text/tab-separated-values": "\t"}
RewardPath = Annotated[str, Path(max_length=40, description="`rw_...`")]

_EVENT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "event_id": {"type": "string", "minLength": 1, "maxLength": 128},
        "user": {"type": "string", "minLength": 1, "maxLength": 128},
        "campaign": {"type": ["string", "null"], "minLength": 1, "maxLength": 128},
        "task": {"type": "string", "minLength": 1, "maxLength": 128},
        "type": {"type": "string", "minLength": 1, "maxLength": 64},
        "occurred_at": {"type": "string", "format": "date-time"},
        "payload": {
            "type": "object",
            "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
        },
    },
    "required": ["event_id", "user", "task", "type", "occurred_at"],
    "additionalProperties": False,
}
_ROWS = {"schema": {"type": "string", "description": "The first line names the columns."}}
_BODY: dict[str, Any] = {
    "x-content-encodings": ["gzip"],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "anyOf": [
                        {"type": "array", "items": _EVENT, "minItems": 1},
                        {
                            "type": "object",
                            "properties": {
                                "events": {"type": "array", "items": _EVENT, "minItems": 1}
                            },
                            "required": ["events"],
                            "additionalProperties": False,
                        },
                    ]
                }
            },
            "application/x-ndjson": {
                "schema": {"type": "string", "description": "An event on each line."}
            },
            "text/csv": _ROWS,
            "text/tab-separated-values": _ROWS,
        },
    },
}


@router.post("/v1/events", response_model=IntakeOut, openapi_extra=_BODY)
async def send_events(
    call: Events,
    request: Request,
    source: Annotated[
        Text, Query(min_length=1, max_length=64, description="An event id is unique in its source.")
    ] = "api",
    fields: Annotated[
        Text | None,
        Query(
            alias="mapping",
            max_length=2000,
            description='For rows: JSON such as {"fields": {"event_id": "{id}", ...}}.',
        ),
    ] = None,
) -> Reply:
    """Take in a batch: NDJSON, JSON or rows, plain or gzip. Safe to repeat as a whole.

    One bad event never stops the others: it is in `rejected` with its line and reason, and in the
    dead-letter list.
    """
    if not source.isprintable():
        raise Refusal("source-malformed", "A source has 1 to 64 printable characters.")
    body, now = await request.body(), await call.now()
    parsed = _read(call, request, body, source, fields, now)
    report = await ingest(
        call.deps.dbs,
        call.deps.secrets.sealer,
        call.environment.id,
        call.actor,
        call.trace_id,
        source,
        parsed,
    )
    counts = report.counts()
    rewarded, waiting = counts[Status.REWARDED], counts[Status.AWAITING_FUNDS]
    return Reply(
        {
            "accepted": counts[Status.RECORDED] + rewarded + waiting,
            "rewarded": rewarded,
            "awaiting_funds": waiting,
            "duplicates": counts[Status.DUPLICATE],
            "rejected": [
                {
                    "line": one.line,
                    "event_id": one.event_id,
                    "slug": one.slug,
                    "detail": one.detail,
                }
                for one in report.outcomes
                if one.status is Status.REJECTED
            ],
        }
    )


def _read(
    call: Call, request: Request, body: bytes, source: str, fields: str | None, now: datetime
) -> Parsed:
    settings = call.deps.settings
    limits = Limits(
        body_bytes=settings.api.body_limit_bytes, events=settings.limits.event_batch_items
    )
    gzip = request.headers.get("content-encoding", "").strip().lower() == "gzip"
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in _DELIMITERS:
        if fields is not None:
            raise Refusal("mapping-unexpected", "A mapping goes with rows, not with JSON.")
        return parse(body, source, now, gzip=gzip, limits=limits)
    if gzip:
        body = inflate(body, limits.body_bytes)
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Refusal("batch-malformed", "The rows are not UTF-8.") from None
    parsed = Parsed([], [])
    read = mapping.read_rows(
        _lines(text),
        mapping.parse(_mapping(fields)),
        source,
        now,
        delimiter=_DELIMITERS[kind],
        limits=limits,
    )
    for part in read:
        parsed.events.extend(part.events)
        parsed.faults.extend(part.faults)
        if len(parsed.events) + len(parsed.faults) > limits.events:
            raise TooLarge("batch-too-large", f"Send at most {limits.events} events at once.")
    return parsed


def _lines(text: str) -> Iterator[str]:
    return iter(text.splitlines(keepends=True))


def _mapping(fields: str | None) -> dict[str, Any]:
    if fields is None:
        raise Refusal("mapping-missing", "Rows need the query parameter `mapping`.")
    try:
        document: object = json.loads(fields)
    except (ValueError, RecursionError):
        raise Refusal("json-malformed", "The mapping is not JSON.") from None
    found = cast("dict[str, Any]", document).get("fields") if isinstance(document, dict) else None
    if not isinstance(found, dict):
        raise Refusal("mapping-malformed", 'A mapping is an object: {"fields": {...}}.')
    return cast("dict[str, Any]", found)


@router.get(DEAD_LETTERS, response_model=Page[DeadLetterOut])
async def list_dead_letters(call: Reads, page: Paged) -> Reply:
    """Events that were not taken in, newest first, over all cells."""
    position = page.after(call, DEAD_LETTERS, {})
    before = cast("int", position[0]) if position else None
    taken = cast("int", position[1]) if position else 0

    async def work(tx: CellRead) -> list[tuple[int, int, DeadLetter]]:
        # The list is ordered by (id, cell): an equal id in a lower cell comes after it.
        bound = None if before is None else before + (1 if tx.cell < taken else 0)
        rows = await dead_letter.listing(tx, bound, page.limit)
        return [(row.id, tx.cell, row) for row in rows]

    parts = await call.everywhere(work)
    rows = sorted((row for part in parts for row in part), key=lambda row: row[:2], reverse=True)[
        : page.limit
    ]
    last = rows[-1][:2] if len(rows) == page.limit else None
    data = [
        {
            "id": text_id("dl", cell, number),
            "source": row.source,
            "line": row.line,
            "event_id": row.event_id,
            "slug": row.slug,
            "detail": row.detail,
            "received_at": rfc3339(row.received_at),
            "trace_id": row.trace_id,
        }
        for number, cell, row in rows
    ]
    return listing(data, next_cursor(call, DEAD_LETTERS, {}, last))


@router.get(REWARDS, response_model=Page[RewardOut])
async def list_rewards(call: OwnReads, user: UserPath, page: Paged) -> Reply:
    """A user's rewards, newest first."""
    ref = await call.user(user)
    filters = {"cell": ref.cell, "user": ref.id}
    position = page.after(call, REWARDS, filters)
    before = cast("int", position[0]) if position else None
    found = await call.cell(ref.cell).read(
        lambda tx: reversal.listing(tx, ref.id, before, page.limit)
    )
    last = (found[-1].number,) if len(found) == page.limit else None
    return listing([view.wire() for view in found], next_cursor(call, REWARDS, filters, last))


async def _reversal(call: Call, subject: str, body: Mapping[str, Any]) -> Ready:
    ref = call.ref("rw", subject)

    said = body.get("amount")
    part = None if said is None else Money.parse(said["amount"], said["currency"])
    reference = body.get("reference")

    async def amount(tx: CellTx) -> Money | None:
        found = await reversal.locked(tx, ref.id)
        if not REWARD.allows(found.state, RewardEvent.REVERSE):
            return None
        return part or found.amount - found.taken_back

    async def run(tx: CellTx) -> Mapping[str, Any]:
        await holds.require_free_user(tx, (await reversal.get(tx, ref.id)).user_id)
        view = await reversal.reverse_one(tx, ref.id, body["reason"], part, reference)
        detail = {"amount": said, "reference": reference}
        await audit.record(tx, [audit.Act("reward.reverse", view.id, body["reason"], detail)])
        return view.wire()

    return Ready(call.cell(ref.cell), amount, run)


REVERSE = guarded.Act("reward.reverse", _reversal)


class ReverseReward(Reasoned):
    """Why, and how much of it if not all; a part needs the partner's reference."""

    amount: Amount | None = None
    reference: Annotated[Text, StringConstraints(min_length=1, max_length=128)] | None = None


def reverse_body(reason: str, amount: Money | None, reference: str | None) -> dict[str, Any]:
    """A reversal as it is stored while it waits for a second person."""
    asked: dict[str, Any] = {"reason": reason}
    if amount is not None:
        asked["amount"] = wire(amount)
    if reference is not None:
        asked["reference"] = reference
    return asked


@router.post("/v1/rewards/{reward}/reverse", response_model=RewardOut, responses=WAITING)
async def reverse_reward(call: Operates, reward: RewardPath, body: ReverseReward) -> Response:
    """Take a reward or part of it back, also after it was withdrawn: then the user owes it.

    Under the same reference nothing is taken twice. Nothing is taken while the user is under a
    regulatory hold.
    """
    amount = body.amount.money() if body.amount is not None else None
    asked = reverse_body(body.reason, amount, body.reference)
    return await guarded.guarded(call, REVERSE, reward, asked)


@router.post("/v1/rewards/{reward}/mature", response_model=RewardOut)
async def mature_reward(call: Operates, reward: RewardPath, body: Reasoned) -> Reply:
    """Let a reward mature that waits because too much is taken back; `waits_for` says so."""
    ref = call.ref("rw", reward)

    async def work(tx: CellTx) -> Mapping[str, Any]:
        await let_mature(tx, ref.id)
        view = await reversal.get(tx, ref.id)
        await audit.record(tx, [audit.Act("reward.mature", view.id, body.reason)])
        return view.wire()

    return Reply(await call.write(call.cell(ref.cell), work))
