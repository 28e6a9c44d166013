"""The life of a campaign and a task, of a task in the hands of a user, and of a reward."""

from __future__ import annotations

from enum import StrEnum

from paymaster.kernel.machine import Machine, Move


class OfferState(StrEnum):
    """A campaign or a task of one."""

    ACTIVE = "active"
    PAUSED = "paused"
    ENDED = "ended"


class OfferEvent(StrEnum):
    """What changes it."""

    PAUSE = "pause"
    RESUME = "resume"
    END = "end"


_OFFER = (
    Move(OfferState.ACTIVE, OfferEvent.PAUSE, OfferState.PAUSED),
    Move(OfferState.PAUSED, OfferEvent.RESUME, OfferState.ACTIVE),
    Move(OfferState.ACTIVE, OfferEvent.END, OfferState.ENDED),
    Move(OfferState.PAUSED, OfferEvent.END, OfferState.ENDED),
)
CAMPAIGN = Machine("campaign", OfferState.ACTIVE, _OFFER)
OFFER = Machine("offer", OfferState.ACTIVE, _OFFER)
TOWARDS: dict[OfferState, OfferEvent] = {
    OfferState.ACTIVE: OfferEvent.RESUME,
    OfferState.PAUSED: OfferEvent.PAUSE,
    OfferState.ENDED: OfferEvent.END,
}
"""The event that leads to a state."""


class TaskState(StrEnum):
    """Where a user stands with a task."""

    OFFERED = "offered"
    STARTED = "started"
    IN_PROGRESS = "in_progress"
    SUBMITTED = "submitted"
    """Handed in, to be decided by a person or a partner."""
    VERIFIED = "verified"
    """Done as asked; the reward waits for the sponsor's money."""
    REWARDED = "rewarded"
    REJECTED = "rejected"
    EXPIRED = "expired"
    REVERSED = "reversed"


class TaskEvent(StrEnum):
    """What moves it."""

    START = "start"
    PROGRESS = "progress"
    SUBMIT = "submit"
    VERIFY = "verify"
    REWARD = "reward"
    REJECT = "reject"
    EXPIRE = "expire"
    REVERSE = "reverse"


def _from(event: TaskEvent, target: TaskState, *sources: TaskState) -> tuple[Move, ...]:
    return tuple(Move(source, event, target) for source in sources)


_OPEN = (TaskState.OFFERED, TaskState.STARTED, TaskState.IN_PROGRESS)
_UNDECIDED = (*_OPEN, TaskState.SUBMITTED, TaskState.EXPIRED)

TASK = Machine(
    "task",
    TaskState.OFFERED,
    (
        *_from(TaskEvent.START, TaskState.STARTED, TaskState.OFFERED),
        *_from(TaskEvent.PROGRESS, TaskState.IN_PROGRESS, TaskState.OFFERED, TaskState.STARTED),
        *_from(
            TaskEvent.SUBMIT,
            TaskState.SUBMITTED,
            *_OPEN,
            TaskState.EXPIRED,
            TaskState.REJECTED,
        ),
        *_from(TaskEvent.VERIFY, TaskState.VERIFIED, *_UNDECIDED, TaskState.REVERSED),
        *_from(
            TaskEvent.REWARD,
            TaskState.REWARDED,
            *_UNDECIDED,
            TaskState.VERIFIED,
            TaskState.REVERSED,
        ),
        *_from(TaskEvent.REJECT, TaskState.REJECTED, TaskState.SUBMITTED, TaskState.VERIFIED),
        *_from(TaskEvent.EXPIRE, TaskState.EXPIRED, *_OPEN),
        *_from(TaskEvent.REVERSE, TaskState.REVERSED, TaskState.VERIFIED, TaskState.REWARDED),
    ),
)
"""Late events still count on an expired task: they happened before it expired."""


class RewardState(StrEnum):
    """What became of a reward. A row is never stored as `due`: it is decided when it is made."""

    DUE = "due"
    AWAITING_FUNDS = "awaiting_funds"
    VESTING = "vesting"
    CREDITED = "credited"
    REFUSED = "refused"
    REVERSED = "reversed"


class RewardEvent(StrEnum):
    """What moves it."""

    FUND = "fund"
    CREDIT = "credit"
    WAIT = "wait"
    REFUSE = "refuse"
    MATURE = "mature"
    REDUCE = "reduce"
    REVERSE = "reverse"


REWARD = Machine(
    "reward",
    RewardState.DUE,
    (
        Move(RewardState.DUE, RewardEvent.FUND, RewardState.VESTING, "reward"),
        Move(RewardState.DUE, RewardEvent.CREDIT, RewardState.CREDITED, "reward"),
        Move(RewardState.DUE, RewardEvent.WAIT, RewardState.AWAITING_FUNDS),
        Move(RewardState.DUE, RewardEvent.REFUSE, RewardState.REFUSED),
        Move(RewardState.AWAITING_FUNDS, RewardEvent.FUND, RewardState.VESTING, "reward"),
        Move(RewardState.AWAITING_FUNDS, RewardEvent.CREDIT, RewardState.CREDITED, "reward"),
        Move(RewardState.AWAITING_FUNDS, RewardEvent.REFUSE, RewardState.REFUSED),
        Move(RewardState.AWAITING_FUNDS, RewardEvent.REVERSE, RewardState.REVERSED),
        Move(RewardState.VESTING, RewardEvent.MATURE, RewardState.CREDITED, "mature"),
        Move(RewardState.VESTING, RewardEvent.REDUCE, RewardState.VESTING, "reverse"),
        Move(RewardState.CREDITED, RewardEvent.REDUCE, RewardState.CREDITED, "reverse"),
        Move(RewardState.VESTING, RewardEvent.REVERSE, RewardState.REVERSED, "reverse"),
        Move(RewardState.CREDITED, RewardEvent.REVERSE, RewardState.REVERSED, "reverse"),
    ),
)

MACHINES = (CAMPAIGN, OFFER, TASK, REWARD)
"""All machines of this package, for the table of legal moves and the docs."""
