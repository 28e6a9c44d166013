"""READ FIRST: the whole life of a withdrawal, as one table.

Everything that may ever happen to a withdrawal stands here, with the money it moves. The guard in
`moves.py`, the rows of `legal_move` that the database checks by foreign key, the diagram in
docs/concepts/withdrawal.md and the proof in `proof.py` are all derived from this table.

How the money goes (the recipes are in `paymaster.ledger.recipes`):

    request      available -> held           when the withdrawal is made, before any move
    release      held -> available           denied, cancelled, failed: nothing left us
    paid         held -> clearing, fee       the rail says that the payee has it
    returned     clearing -> available       it came back after it was paid

Three rules shape the table:

*   Up to `queued` nothing has left this machine: people may still stop it. From `sending` on only
    what the provider says moves it, because the payment may already be on its way.
*   `unknown` is a state like any other. No answer is not a no: the money stays held until there is
    proof, and a `reject` or a new `queue` without the proof written down is refused.
*   Each state is entered by exactly one event. Being in `paid` means that `settle` happened, so the
    same message told twice is recognised without a second look-up.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from paymaster.kernel.errors import Broken
from paymaster.kernel.machine import Machine, Move


class State(StrEnum):
    """Where a withdrawal is."""

    REQUESTED = "requested"
    """The money is held; nobody has looked at it yet, or it starts anew after a hold."""
    SCREENING = "screening"
    """A screening worker has it, under a lease."""
    IN_REVIEW = "in_review"
    """A person must decide."""
    CHALLENGED = "challenged"
    """The user must prove something first."""
    APPROVED = "approved"
    """It may be paid."""
    QUEUED = "queued"
    """A rail account is chosen; it waits for its window or for room."""
    SENDING = "sending"
    """The order is committed and may be on the wire."""
    UNKNOWN = "unknown"
    """It may or may not have been executed; only the provider can tell."""
    SENT = "sent"
    """The provider took it in."""
    AWAITING_PAYEE = "awaiting_payee"
    """The provider waits for the payee to accept it."""
    PAID = "paid"
    """The payee has it. No rail's success is final: it can still come back."""
    FAILED = "failed"
    """Definitely not paid; the money is available again."""
    RETURNED = "returned"
    """Came back after it was paid; the money is available again."""
    DENIED = "denied"
    """Refused by a rule or a person; the money is available again."""
    CANCELLED = "cancelled"
    """Taken back by the user; the money is available again."""
    HELD = "held"
    """Frozen by a person; nothing moves until it is lifted or denied."""


class Event(StrEnum):
    """What can happen to it."""

    SCREEN = "screen"
    APPROVE = "approve"
    REVIEW = "review"
    CHALLENGE = "challenge"
    DENY = "deny"
    QUEUE = "queue"
    SEND = "send"
    ACCEPT = "accept"
    AWAIT = "await"
    SETTLE = "settle"
    REJECT = "reject"
    LOSE = "lose"
    RETURN = "return"
    CANCEL = "cancel"
    HOLD = "hold"
    RELEASE = "release"


WITHDRAWAL: Final = Machine(
    "withdrawal",
    State.REQUESTED,
    (
        # Judged by the rules and, where they say so, by a person; a proof given by the user
        # makes the rules judge again.
        Move(State.REQUESTED, Event.SCREEN, State.SCREENING),
        Move(State.SCREENING, Event.APPROVE, State.APPROVED),
        Move(State.SCREENING, Event.REVIEW, State.IN_REVIEW),
        Move(State.SCREENING, Event.CHALLENGE, State.CHALLENGED),
        Move(State.CHALLENGED, Event.SCREEN, State.SCREENING),
        Move(State.CHALLENGED, Event.APPROVE, State.APPROVED),
        Move(State.CHALLENGED, Event.REVIEW, State.IN_REVIEW),
        Move(State.IN_REVIEW, Event.APPROVE, State.APPROVED),
        Move(State.IN_REVIEW, Event.CHALLENGE, State.CHALLENGED),
        # Pulled back for another look: the user or the destination changed after the approval.
        Move(State.APPROVED, Event.REVIEW, State.IN_REVIEW),
        Move(State.QUEUED, Event.REVIEW, State.IN_REVIEW),
        # Sent. `queue` from `sending` on needs proof that the attempt is dead.
        Move(State.APPROVED, Event.QUEUE, State.QUEUED),
        Move(State.APPROVED, Event.SEND, State.SENDING),
        Move(State.QUEUED, Event.SEND, State.SENDING),
        Move(State.SENDING, Event.QUEUE, State.QUEUED),
        Move(State.UNKNOWN, Event.QUEUE, State.QUEUED),
        Move(State.SENT, Event.QUEUE, State.QUEUED),
        Move(State.AWAITING_PAYEE, Event.QUEUE, State.QUEUED),
        # Answered, in whatever order the answers come.
        Move(State.SENDING, Event.ACCEPT, State.SENT),
        Move(State.SENDING, Event.AWAIT, State.AWAITING_PAYEE),
        Move(State.SENDING, Event.LOSE, State.UNKNOWN),
        Move(State.SENDING, Event.SETTLE, State.PAID, "paid"),
        Move(State.SENDING, Event.REJECT, State.FAILED, "release"),
        Move(State.UNKNOWN, Event.ACCEPT, State.SENT),
        Move(State.UNKNOWN, Event.AWAIT, State.AWAITING_PAYEE),
        Move(State.UNKNOWN, Event.SETTLE, State.PAID, "paid"),
        Move(State.UNKNOWN, Event.REJECT, State.FAILED, "release"),
        Move(State.SENT, Event.AWAIT, State.AWAITING_PAYEE),
        Move(State.SENT, Event.LOSE, State.UNKNOWN),
        Move(State.SENT, Event.SETTLE, State.PAID, "paid"),
        Move(State.SENT, Event.REJECT, State.FAILED, "release"),
        Move(State.AWAITING_PAYEE, Event.ACCEPT, State.SENT),
        Move(State.AWAITING_PAYEE, Event.LOSE, State.UNKNOWN),
        Move(State.AWAITING_PAYEE, Event.SETTLE, State.PAID, "paid"),
        Move(State.AWAITING_PAYEE, Event.REJECT, State.FAILED, "release"),
        Move(State.PAID, Event.RETURN, State.RETURNED, "returned"),
        # Stopped by the user, while nothing has left this machine.
        Move(State.REQUESTED, Event.CANCEL, State.CANCELLED, "release"),
        Move(State.SCREENING, Event.CANCEL, State.CANCELLED, "release"),
        Move(State.IN_REVIEW, Event.CANCEL, State.CANCELLED, "release"),
        Move(State.CHALLENGED, Event.CANCEL, State.CANCELLED, "release"),
        Move(State.APPROVED, Event.CANCEL, State.CANCELLED, "release"),
        Move(State.QUEUED, Event.CANCEL, State.CANCELLED, "release"),
        # Stopped by us.
        Move(State.REQUESTED, Event.DENY, State.DENIED, "release"),
        Move(State.SCREENING, Event.DENY, State.DENIED, "release"),
        Move(State.IN_REVIEW, Event.DENY, State.DENIED, "release"),
        Move(State.CHALLENGED, Event.DENY, State.DENIED, "release"),
        Move(State.APPROVED, Event.DENY, State.DENIED, "release"),
        Move(State.QUEUED, Event.DENY, State.DENIED, "release"),
        Move(State.HELD, Event.DENY, State.DENIED, "release"),
        # Frozen and lifted. Lifting it starts the judgement anew, whoever had approved before.
        Move(State.REQUESTED, Event.HOLD, State.HELD),
        Move(State.SCREENING, Event.HOLD, State.HELD),
        Move(State.IN_REVIEW, Event.HOLD, State.HELD),
        Move(State.CHALLENGED, Event.HOLD, State.HELD),
        Move(State.APPROVED, Event.HOLD, State.HELD),
        Move(State.QUEUED, Event.HOLD, State.HELD),
        Move(State.HELD, Event.RELEASE, State.REQUESTED),
    ),
)
"""The table."""

TOWARDS_THE_RAIL: Final = frozenset({Event.APPROVE, Event.SEND})
"""Never for a user who is not active or to a destination that is closed: those go to review."""

CHOOSES_RAIL: Final = frozenset({Event.QUEUE, Event.SEND})
"""Events that may name a rail account; any other one must come from the account chosen then."""

BY_PEOPLE: Final = frozenset({
    Event.APPROVE, Event.REVIEW, Event.CHALLENGE, Event.DENY, Event.CANCEL, Event.HOLD,
    Event.RELEASE, Event.RETURN,
})  # fmt: skip
"""What a user or an operator may ask for; the rest only happens in the course of paying."""

REASONED: Final = frozenset({
    Event.REVIEW, Event.DENY, Event.REJECT, Event.RETURN, Event.HOLD, Event.RELEASE,
})  # fmt: skip
"""Events that always carry their reason."""

PROVEN: Final = frozenset({
    (State.SENDING, Event.QUEUE),
    (State.UNKNOWN, Event.QUEUE),
    (State.SENT, Event.QUEUE),
    (State.AWAITING_PAYEE, Event.QUEUE),
})  # fmt: skip
"""Moves whose reason must be the proof that the earlier attempt pays nobody."""

LEASED: Final = frozenset({
    (State.SCREENING, Event.APPROVE),
    (State.SCREENING, Event.REVIEW),
    (State.SCREENING, Event.CHALLENGE),
})  # fmt: skip
"""Moves that only the holder of the lease may make: nobody approves past the screening."""

DUE_AT_ONCE: Final = frozenset({State.REQUESTED, State.APPROVED, State.QUEUED})
"""States in which a worker has something to do right away, unless the step names another time."""


def posted(state: str) -> frozenset[str]:
    """The recipes that every way into this state has posted, besides `request`.

    It is the same set on every way (checked when this module is loaded), so the state alone says
    where the money is.
    """
    return _POSTED[state]


def holds_money(state: str) -> bool:
    """Whether the money is still set aside in this state."""
    return not posted(state)


def _walk() -> dict[str, frozenset[str]]:
    found = {WITHDRAWAL.initial.value: frozenset[str]()}
    waiting = [WITHDRAWAL.initial.value]
    while waiting:
        state = waiting.pop()
        for move in WITHDRAWAL.moves:
            if move.source != state:
                continue
            recipes = found[state].union([move.recipe] if move.recipe else [])
            if move.target.value not in found:
                found[move.target.value] = recipes
                waiting.append(move.target.value)
            elif found[move.target.value] != recipes:
                raise Broken("machine-ambiguous", f"Two ways into {move.target} post differently.")
    return found


def needs_reason(state: str, event: str) -> bool:
    """Whether this event may not happen in this state without a reason."""
    return event in REASONED or (state, event) in PROVEN


def entered_by(state: str) -> str | None:
    """The one event that leads into a state; None for one that no move leads into."""
    return next((move.event.value for move in WITHDRAWAL.moves if move.target == state), None)


_POSTED: Final = _walk()
