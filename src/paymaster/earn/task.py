"""The tasks of a campaign, and the gold answers of labelling tasks; PUTs may be repeated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from paymaster.db import audit, outbox
from paymaster.db.tx import ControlRead, ControlTx
from paymaster.earn import requirements, verify
from paymaster.earn.campaign import check_name
from paymaster.earn.machine import OFFER, TOWARDS, OfferState
from paymaster.earn.store import offers
from paymaster.earn.store.offers import CampaignRow, TaskRow
from paymaster.earn.views import TaskView
from paymaster.kernel.errors import Broken, NotFound, Problem, Refusal, Unprocessable
from paymaster.kernel.ids import parse_text_id, text_id
from paymaster.kernel.money import Money

TYPES = ("survey", "install", "ad_view", "labelling", "referral", "custom")
MAX_GOLD = 10_000
MAX_USER_CAP = 1_000_000


@dataclass(frozen=True, slots=True)
class PutTask:
    """Make a task, or change it to this. Type and start stay as first given.

    `reward` is what one completion earns, in the campaign's currency. A user earns it at most
    `user_cap` times. `verification` is as in `verify`, `requirements` as in `requirements`.
    """

    external_id: str
    type: str
    title: str
    reward: Money
    verification: Mapping[str, Any]
    starts_at: datetime
    requirements: Mapping[str, Any] = field(default_factory=dict[str, Any])
    user_cap: int | None = None
    expires_at: datetime | None = None
    state: OfferState = OfferState.ACTIVE


async def put_task(
    tx: ControlTx, environment_id: int, campaign: str, command: PutTask
) -> tuple[TaskView, bool]:
    """Make or change a task; the second value says whether it is new.

    A new reward counts for completions from now on. Raises NotFound `campaign-unknown`,
    Unprocessable `task-invalid`, `currency-mismatch`, `task-immutable` or `task-ended`.
    """
    parent = await offers.campaign(tx, environment_id, campaign)
    if parent is None:
        raise NotFound("campaign-unknown", "There is no campaign of this external id.")
    if command.reward.currency != parent.currency:
        raise Unprocessable(
            "currency-mismatch",
            f"The campaign pays in {parent.currency}, not {command.reward.currency}.",
        )
    rule, conditions = _check(command)
    wanted = TaskRow(
        id=tx.id(),
        campaign_id=parent.id,
        external_id=command.external_id,
        type=command.type,
        title=command.title,
        reward_minor=command.reward.minor,
        verification=verify.dump(rule),
        requirements=conditions.stored(),
        user_cap=command.user_cap,
        starts_at=command.starts_at,
        expires_at=command.expires_at,
        state=command.state.value,
        version=1,
        created_at=tx.now,
    )
    if await offers.insert_task(tx, wanted):
        await _tell(tx, parent, wanted, "created")
        return TaskView.of(wanted, parent), True
    row = await offers.lock_task(tx, parent.id, command.external_id)
    if row is None:
        raise Broken("row-count", "A task vanished.")
    changed = _changed(row, wanted)
    if changed == row:
        return TaskView.of(row, parent), False
    await offers.update_task(tx, changed)
    changed = replace(changed, version=row.version + 1)
    await _tell(tx, parent, changed, "changed")
    return TaskView.of(changed, parent), False


def _check(command: PutTask) -> tuple[verify.Rule, requirements.Requirements]:
    problems: list[Problem] = []
    check_name(command.external_id, "/external_id", 128, problems)
    check_name(command.title, "/title", 200, problems)
    if command.type not in TYPES:
        problems.append(Problem("/type", f"Types are: {', '.join(TYPES)}."))
    if command.reward.minor <= 0:
        problems.append(Problem("/reward/amount", "A reward is more than nothing."))
    if command.user_cap is not None and not 1 <= command.user_cap <= MAX_USER_CAP:
        problems.append(Problem("/user_cap", f"Write a number from 1 to {MAX_USER_CAP}."))
    if command.starts_at.tzinfo is None or (
        command.expires_at is not None and command.expires_at.tzinfo is None
    ):
        problems.append(Problem("/starts_at", "Write times with an offset, such as Z."))
    elif command.expires_at is not None and command.expires_at <= command.starts_at:
        problems.append(Problem("/expires_at", "A task expires after it starts."))
    rule = verify.read(command.verification, "/verification", problems)
    conditions = requirements.read(command.requirements, "/requirements", problems)
    if problems or rule is None:
        raise Unprocessable("task-invalid", "The task has faults.", problems=problems)
    return rule, conditions


def _changed(row: TaskRow, wanted: TaskRow) -> TaskRow:
    """The row as it shall be. Raises when something would change that must not."""
    kinds = row.verification.get("kind"), wanted.verification.get("kind")
    fixed = [name for name in ("type", "starts_at") if getattr(row, name) != getattr(wanted, name)]
    if kinds[0] != kinds[1]:
        fixed.append("verification/kind")
    if fixed:
        raise Unprocessable(
            "task-immutable",
            "Type, start and kind of verification of a task stay as they were first given.",
            problems=[Problem(f"/{name}", "Cannot change.") for name in fixed],
        )
    if row.state != wanted.state and not OFFER.allows(row.state, TOWARDS[OfferState(wanted.state)]):
        raise Unprocessable("task-ended", f"The task is {row.state} for good.")
    return replace(
        row,
        title=wanted.title,
        reward_minor=wanted.reward_minor,
        verification=wanted.verification,
        requirements=wanted.requirements,
        user_cap=wanted.user_cap,
        expires_at=wanted.expires_at,
        state=wanted.state,
    )


async def _tell(tx: ControlTx, parent: CampaignRow, row: TaskRow, what: str) -> None:
    name = text_id("tk", parent.home_cell, row.id)
    detail = {"version": row.version, "state": row.state, "reward_minor": str(row.reward_minor)}
    await audit.record(tx, [audit.Act(f"task.{what}", name, detail=detail)])
    payload = {
        "task": name,
        "campaign": text_id("cp", parent.home_cell, parent.id),
        "state": row.state,
        "version": row.version,
    }
    await outbox.put(tx, [outbox.Message(f"task.{what}", name, payload)])


async def put_gold(
    tx: ControlTx, environment_id: int, task: str, answers: Mapping[str, str]
) -> int:
    """Store known answers of a labelling task (`tk_...`); how many are new or different.

    Answers that were judged stay judged. Raises NotFound `task-unknown`, Unprocessable
    `gold-invalid` or `task-without-gold`, Refusal `batch-too-large`.
    """
    view = await get(tx, environment_id, task)
    if view.verification.get("kind") != "gold":
        raise Unprocessable("task-without-gold", "The task is not verified by gold answers.")
    if len(answers) > MAX_GOLD:
        raise Refusal("batch-too-large", f"At most {MAX_GOLD} answers at once.")
    problems: list[Problem] = []
    for index, (item, answer) in enumerate(answers.items()):
        check_name(item, f"/answers/{index}/item", 256, problems)
        check_name(answer, f"/answers/{index}/answer", 1024, problems)
    if problems:
        raise Unprocessable("gold-invalid", "Some answers have faults.", problems=problems[:100])
    changed = await offers.put_gold(tx, view.number, answers)
    if changed:
        detail = {"answers": len(answers), "changed": changed}
        await audit.record(tx, [audit.Act("task.gold", view.id, detail=detail)])
    return changed


async def get(tx: ControlRead, environment_id: int, task: str) -> TaskView:
    """A task by text id. Raises NotFound `task-unknown`."""
    try:
        ref = parse_text_id("tk", task)
    except NotFound:
        raise NotFound("task-unknown", "There is no such task.") from None
    found = await by_id(tx, environment_id, [ref.id])
    if ref.id not in found or found[ref.id].id != task:
        raise NotFound("task-unknown", "There is no such task.")
    return found[ref.id]


async def by_id(tx: ControlRead, environment_id: int, numbers: list[int]) -> dict[int, TaskView]:
    """Tasks of the environment by number; unknown ones are missing."""
    rows = await offers.tasks_by_id(tx, environment_id, numbers)
    parents = await offers.campaigns_by_id(tx, sorted({row.campaign_id for row in rows}))
    by_number = {row.id: row for row in parents}
    return {row.id: TaskView.of(row, by_number[row.campaign_id]) for row in rows}


async def listing(
    tx: ControlRead, environment_id: int, campaign: str, after: int = 0, limit: int = 50
) -> list[TaskView]:
    """A page of a campaign's tasks, oldest first. Raises NotFound `campaign-unknown`."""
    parent = await offers.campaign(tx, environment_id, campaign)
    if parent is None:
        raise NotFound("campaign-unknown", "There is no campaign of this external id.")
    rows = await offers.tasks_of(tx, parent.id, after, min(limit, 200))
    return [TaskView.of(row, parent) for row in rows]


async def named(tx: ControlRead, environment_id: int, campaign: str, task: str) -> TaskView:
    """A task by the app's names. Raises NotFound `campaign-unknown` or `task-unknown`."""
    parent = await offers.campaign(tx, environment_id, campaign)
    if parent is None:
        raise NotFound("campaign-unknown", "There is no campaign of this external id.")
    for row in await offers.tasks_by_name(tx, environment_id, [(campaign, task)]):
        return TaskView.of(row, parent)
    raise NotFound("task-unknown", "There is no such task.")
