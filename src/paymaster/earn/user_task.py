"""A user and the tasks on offer: what is on the list, starting, deciding, expiring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from paymaster.db import audit
from paymaster.db.tx import CellRead, CellTx
from paymaster.earn import grant, verify
from paymaster.earn.catalogue import SLICE_REWARDS, Offer
from paymaster.earn.grant import Grant
from paymaster.earn.machine import TASK, TaskEvent, TaskState
from paymaster.earn.states import States
from paymaster.earn.store import states as state_store
from paymaster.earn.store.states import Fresh, Pair
from paymaster.earn.views import money
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import Unprocessable
from paymaster.kernel.ids import text_id
from paymaster.people import users
from paymaster.people.profile import Profile
from paymaster.secrets.sealing import Sealer

DECISION = "decision"
"""The source of rewards that a decision brought; their event id is that of its commit."""


@dataclass(frozen=True, slots=True)
class UserTask:
    """A task as one user sees it."""

    offer: Offer
    state: str

    def wire(self) -> dict[str, Any]:
        """For JSON."""
        closes_at = self.offer.closes_at
        return {
            "id": self.offer.task_name,
            "campaign": self.offer.campaign_name,
            "type": self.offer.type,
            "title": self.offer.title,
            "reward": money(self.offer.reward),
            "state": self.state,
            "expires_at": None if closes_at is None else rfc3339(closes_at),
        }


@dataclass(frozen=True, slots=True)
class Decision:
    """A person's or partner's word on work that was handed in."""

    user_id: int
    offer: Offer
    approve: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Decided:
    """`slug` says why not: `not-submitted`."""

    state: str
    slug: str | None = None
    reward_id: str | None = None


def _eligible(offer: Offer, profile: Profile | None, year: int) -> bool:
    return offer.requirements.met_by(profile, year) and offer.targeting.met_by(profile, year)


def _over(offer: Offer, state: str, rewards: int) -> bool:
    """Nothing more is to be earned here."""
    if state in TASK.terminal() or state == TaskState.EXPIRED.value:
        return True
    if isinstance(offer.rule, verify.Gold):
        return offer.user_cap is not None and rewards >= offer.user_cap
    return rewards > 0


async def listing(
    tx: CellRead, sealer: Sealer, user_id: int, offers: Sequence[Offer]
) -> list[UserTask]:
    """What of the live offers the user may do; what is done or over is left out.

    Raises NotFound `user-unknown`, Unprocessable `user-suspended` or `user-closed`.
    """
    await users.require_active(tx, user_id)
    states = await state_store.states_of_user(tx, user_id, [offer.id for offer in offers])
    profile = (await users.profiles(tx, sealer, [user_id])).get(user_id)
    found: list[UserTask] = []
    for offer in offers:
        row = states.get(offer.id)
        if row is None:
            if _eligible(offer, profile, tx.now.year):
                found.append(UserTask(offer, TASK.initial.value))
        elif not _over(offer, row.state, row.rewards):
            found.append(UserTask(offer, row.state))
    return found


async def start(tx: CellTx, sealer: Sealer, user_id: int, offer: Offer) -> UserTask:
    """The user begins; doing so again changes nothing.

    Raises NotFound `user-unknown`, Unprocessable `user-suspended`, `user-closed`,
    `task-not-active`, `outside-dates` or `not-eligible`.
    """
    await users.require_active(tx, user_id)
    if not offer.active:
        raise Unprocessable("task-not-active", "The campaign or the task is not active.")
    if not offer.covers(tx.now):
        raise Unprocessable("outside-dates", "The task is not on offer now.")
    pair = (user_id, offer.id)
    if pair not in await state_store.states(tx, [pair]):
        profile = (await users.profiles(tx, sealer, [user_id])).get(user_id)
        if not _eligible(offer, profile, tx.now.year):
            raise Unprocessable("not-eligible", "The user's profile does not fit the task.")
    states = await States.lock(tx, {pair: Fresh(offer.home_cell, offer.closes_at)})
    states.move(pair, TaskEvent.START)
    await states.write(tx)
    return UserTask(offer, states.state(pair))


async def decide(
    tx: CellTx, commands: Sequence[Decision], *, slice_rewards: int = SLICE_REWARDS
) -> list[Decided]:
    """Approve or reject work that was handed in; approved work is rewarded at once.

    Work that is not handed in, or decided already, answers `not-submitted`.
    """
    states = await States.lock(
        tx,
        {(c.user_id, c.offer.id): Fresh(c.offer.home_cell, c.offer.closes_at) for c in commands},
    )
    approved: list[Decision] = []
    late: set[int] = set()
    acts: list[audit.Act] = []
    for place, command in enumerate(commands):
        pair = command.user_id, command.offer.id
        if states.state(pair) != TaskState.SUBMITTED.value or states.rewards(pair):
            late.add(place)
            continue
        word = TaskEvent.VERIFY if command.approve else TaskEvent.REJECT
        states.move(pair, word, command.reason)
        acts.append(_act(tx, command))
        if command.approve:
            approved.append(command)
    made = await _pay(tx, states, approved, slice_rewards)
    await states.write(tx)
    await audit.record(tx, acts)
    return [
        Decided(states.state(pair), "not-submitted")
        if place in late
        else Decided(states.state(pair), None, made.get(pair))
        for place, pair in enumerate((c.user_id, c.offer.id) for c in commands)
    ]


async def _pay(
    tx: CellTx, states: States, approved: Sequence[Decision], slice_rewards: int
) -> dict[Pair, str]:
    """Reward approved work; the text ids of the rewards."""
    evidence = str(tx.commit_id)
    granted = await grant.make(
        tx,
        [Grant(c.offer, c.user_id, verify.ONCE, DECISION, evidence) for c in approved],
        slice_rewards=slice_rewards,
    )
    made: dict[Pair, str] = {}
    for command, one in zip(approved, granted, strict=True):
        pair = command.user_id, command.offer.id
        states.add_reward(pair)
        grant.tell(states, pair, one, once=True)
        made[pair] = one.name
    return made


def _act(tx: CellTx, command: Decision) -> audit.Act:
    verdict = "approve" if command.approve else "reject"
    user = text_id("us", tx.cell, command.user_id)
    return audit.Act(
        f"user_task.{verdict}", user, command.reason, {"task": command.offer.task_name}
    )


async def expire_due(tx: CellTx, limit: int = 1000) -> int:
    """Expire unfinished tasks whose time is over; how many. Late events still count afterwards."""
    rows = await state_store.claim_expired(tx, limit)
    states = States.of(rows)
    for row in rows:
        states.move((row.user_id, row.task_id), TaskEvent.EXPIRE)
    await states.write(tx)
    return len(rows)
