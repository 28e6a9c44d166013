"""READ FIRST: the whole life of a withdrawal, as one table.

Everything that may ever happen to a withdrawal stands here, with the money it moves. The guard in
`moves.py`, the rows of `legal_move` that the database checks by foreign key, the diagram in
docs/concepts/withdrawal.md and the proof in `proof.py` are all derived from this table.

How the money goes (the recipes are in `paymaster.ledger.recipes`):

    request      available -> held           when the withdrawal is made, before any move
    release      held -> available           denied, cancelled, failed: nothing left us
    paid         held -> clearing, fee       the rail says that the payee has it
    returned     clearing -> available       it came back after it was paid

Four rules shape the table:

*   Up to `queued` nothing has left this machine: people may still stop it. From `sending` on only
    what the provider says moves it, because the payment may already be on its way.
*   `unknown` is a state like any other. No answer is not a no: the money stays held until there is
    proof, and a `reject` or a new `queue` without the proof written down is refused.
*   Each move says who may make it. What a provider says is a fact and happens even to what is
    frozen by a regulatory hold (`holds.py`); what people and workers do waits until it is lifted.
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


class Who(StrEnum):
    """Who makes a move."""

    USER = "user"
    """The earner, or the app's server for the earner."""
    OPERATOR = "operator"
    """A person of the staff, or a key with the scope `operate`; always with a reason."""
    WORKER = "worker"
    """Paymaster itself: screening, dispatch, expiry, the consequence of a closed destination."""
    PROVIDER = "provider"
    """What the rail says: its answer, a query, a webhook, a report, a statement. A fact."""


_U, _O, _W, _P = (frozenset({who}) for who in Who)

WITHDRAWAL: Final = Machine(
    "withdrawal",
    State.REQUESTED,
    (
        # Judged by the rules and, where they say so, by a person; a proof given by the user
        # makes the rules judge again.
        Move(State.REQUESTED, Event.SCREEN, State.SCREENING, by=_W),
        Move(State.SCREENING, Event.APPROVE, State.APPROVED, by=_W),
        Move(State.SCREENING, Event.REVIEW, State.IN_REVIEW, by=_W),
        Move(State.SCREENING, Event.CHALLENGE, State.CHALLENGED, by=_W),
        Move(State.CHALLENGED, Event.SCREEN, State.SCREENING, by=_W),
        Move(State.CHALLENGED, Event.APPROVE, State.APPROVED, by=_O),
        Move(State.CHALLENGED, Event.REVIEW, State.IN_REVIEW, by=_O),
        Move(State.IN_REVIEW, Event.APPROVE, State.APPROVED, by=_O),
        Move(State.IN_REVIEW, Event.CHALLENGE, State.CHALLENGED, by=_O),
        # Pulled back for another look: the user or the destination changed after the approval.
        Move(State.APPROVED, Event.REVIEW, State.IN_REVIEW, by=_W | _O),
        Move(State.QUEUED, Event.REVIEW, State.IN_REVIEW, by=_W | _O),
        # Sent. `queue` from `sending` on needs proof that the attempt is dead. An operator says it
        # of what is `sending` only while nothing of its order has ever left.
        Move(State.APPROVED, Event.QUEUE, State.QUEUED, by=_W),
        Move(State.APPROVED, Event.SEND, State.SENDING, by=_W),
        Move(State.QUEUED, Event.SEND, State.SENDING, by=_W),
        Move(State.SENDING, Event.QUEUE, State.QUEUED, by=_P | _W | _O),
        Move(State.UNKNOWN, Event.QUEUE, State.QUEUED, by=_P | _O),
        Move(State.SENT, Event.QUEUE, State.QUEUED, by=_P | _O),
        Move(State.AWAITING_PAYEE, Event.QUEUE, State.QUEUED, by=_P | _O),
        # Answered, in whatever order the answers come. An operator says it with a proof.
        Move(State.SENDING, Event.ACCEPT, State.SENT, by=_P),
        Move(State.SENDING, Event.AWAIT, State.AWAITING_PAYEE, by=_P),
        Move(State.SENDING, Event.LOSE, State.UNKNOWN, by=_P | _W),
        Move(State.SENDING, Event.SETTLE, State.PAID, "paid", _P),
        Move(State.SENDING, Event.REJECT, State.FAILED, "release", _P | _W | _O),
        Move(State.UNKNOWN, Event.ACCEPT, State.SENT, by=_P),
        Move(State.UNKNOWN, Event.AWAIT, State.AWAITING_PAYEE, by=_P),
        Move(State.UNKNOWN, Event.SETTLE, State.PAID, "paid", _P | _O),
        Move(State.UNKNOWN, Event.REJECT, State.FAILED, "release", _P | _O),
        Move(State.SENT, Event.AWAIT, State.AWAITING_PAYEE, by=_P),
        Move(State.SENT, Event.LOSE, State.UNKNOWN, by=_P),
        Move(State.SENT, Event.SETTLE, State.PAID, "paid", _P | _O),
        Move(State.SENT, Event.REJECT, State.FAILED, "release", _P | _O),
        Move(State.AWAITING_PAYEE, Event.ACCEPT, State.SENT, by=_P),
        Move(State.AWAITING_PAYEE, Event.LOSE, State.UNKNOWN, by=_P),
        Move(State.AWAITING_PAYEE, Event.SETTLE, State.PAID, "paid", _P | _O),
        Move(State.AWAITING_PAYEE, Event.REJECT, State.FAILED, "release", _P | _O),
        Move(State.PAID, Event.RETURN, State.RETURNED, "returned", _P | _O),
        # Stopped by the user, while nothing has left this machine, or because the destination
        # that it was asked for is closed.
        Move(State.REQUESTED, Event.CANCEL, State.CANCELLED, "release", _U | _W),
        Move(State.SCREENING, Event.CANCEL, State.CANCELLED, "release", _U | _W),
        Move(State.IN_REVIEW, Event.CANCEL, State.CANCELLED, "release", _U | _W),
        Move(State.CHALLENGED, Event.CANCEL, State.CANCELLED, "release", _U | _W),
        Move(State.APPROVED, Event.CANCEL, State.CANCELLED, "release", _U | _W),
        Move(State.QUEUED, Event.CANCEL, State.CANCELLED, "release", _U | _W),
        Move(State.HELD, Event.CANCEL, State.CANCELLED, "release", _W),
        # Stopped by us.
        Move(State.REQUESTED, Event.DENY, State.DENIED, "release", _O),
        Move(State.SCREENING, Event.DENY, State.DENIED, "release", _W | _O),
        Move(State.IN_REVIEW, Event.DENY, State.DENIED, "release", _O),
        Move(State.CHALLENGED, Event.DENY, State.DENIED, "release", _W | _O),
        Move(State.APPROVED, Event.DENY, State.DENIED, "release", _O),
        Move(State.QUEUED, Event.DENY, State.DENIED, "release", _O),
        Move(State.HELD, Event.DENY, State.DENIED, "release", _O),
        # Frozen and lifted. Lifting it starts the judgement anew, whoever had approved before.
        Move(State.REQUESTED, Event.HOLD, State.HELD, by=_O),
        Move(State.SCREENING, Event.HOLD, State.HELD, by=_O),
        Move(State.IN_REVIEW, Event.HOLD, State.HELD, by=_O),
        Move(State.CHALLENGED, Event.HOLD, State.HELD, by=_O),
        Move(State.APPROVED, Event.HOLD, State.HELD, by=_O),
        Move(State.QUEUED, Event.HOLD, State.HELD, by=_O),
        Move(State.HELD, Event.RELEASE, State.REQUESTED, by=_O),
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
"""What people may ask for of the withdrawal itself. What they find out about its order, with a
proof, concerns the whole order and goes through `paymaster.dispatch.decide`."""

FACTS: Final = frozenset(
    event for event in Event
    if all(Who.PROVIDER in move.by for move in WITHDRAWAL.moves if move.event.value == event.value)
)  # fmt: skip
"""Events that only say what the provider did: a regulatory hold does not undo them."""

WAITING: Final = tuple(WITHDRAWAL.sources(Event.CANCEL))
"""States in which nothing has left this machine: `requested` to `queued`, and `held`."""

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
