"""Why an act could not be done: somebody was there first, and this says who, when and what."""

from __future__ import annotations

from typing import Final

from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import Conflict
from paymaster.withdraw.holds_store import LastMove
from paymaster.withdraw.machine import Event, State

_DONE: Final[dict[str, str]] = {
    Event.SCREEN: "taken up for screening",
    Event.APPROVE: "approved",
    Event.REVIEW: "sent to review",
    Event.CHALLENGE: "made to wait for a proof",
    Event.DENY: "denied",
    Event.QUEUE: "put into a rail's queue",
    Event.SEND: "sent",
    Event.ACCEPT: "taken in by the provider",
    Event.AWAIT: "made to wait for the payee",
    Event.SETTLE: "paid",
    Event.REJECT: "found not to be paid",
    Event.LOSE: "left without an answer",
    Event.RETURN: "booked as come back",
    Event.CANCEL: "cancelled",
    Event.HOLD: "put on hold",
    Event.RELEASE: "released from its hold",
}

_SAYS: Final = {
    "under-screening": "It is being screened at this moment; try again in a few seconds.",
    "user-suspended": "The user is suspended: lift that first, or deny the withdrawal.",
    "user-closed": "The user's account is closed: deny the withdrawal.",
    "destination-closed": "The destination is closed: deny the withdrawal, the money goes back.",
    "destination-paused": "The destination is paused: resume it first, or deny the withdrawal.",
    "books-refused": "The books refused the posting; `paymaster ledger prove` names the reason.",
}

_AS_SEEN: Final = {"user": "you", "person": "staff", "key": "the app", "role": "paymaster"}
"""Who it was, for an earner: the part of the actor's name before the colon."""


def because(slug: str, state: str, before: LastMove | None) -> Conflict:
    """The conflict of an act that is too late, with the state and with who did what before it.

    Members: `state`; `moved_by`, `moved_at` and `move` where there was a move.
    """
    extra = {"state": state}
    if before is not None:
        extra |= {
            "moved_by": before.actor,
            "moved_at": rfc3339(before.moved_at),
            "move": before.event,
        }
    if slug in _SAYS:
        return Conflict(slug, _SAYS[slug], extra=extra)
    if slug == "already":
        slug = "illegal-move"
    if before is None:
        said = f"It is {state}; that cannot be done yet."
    else:
        said = (
            f"It was {_DONE[before.event]} by {before.actor} at {rfc3339(before.moved_at)}"
            f" and is {state}; this was not done."
        )
    return Conflict(slug, said, extra=extra)


def for_earner(error: Conflict) -> Conflict:
    """The same without names of the staff, and without a word of a regulatory hold."""
    if error.slug == "held-by-order":
        return under_review()
    extra = dict(error.extra)
    if "moved_by" not in extra:
        return error
    kind = extra["moved_by"].partition(":")[0]
    extra["moved_by"] = _AS_SEEN.get(kind, "paymaster")
    state = extra.get("state", State.REQUESTED.value)
    said = f"It is {state} since {extra['moved_at']}; this was not done."
    return Conflict(error.slug, said, extra=extra)


def for_app(error: Conflict) -> Conflict:
    """The same for an app's server: it may know that an authority ordered it, not which."""
    if error.slug != "held-by-order":
        return error
    return Conflict(error.slug, "It is frozen by order of an authority. Do not tell the user.")


def under_review() -> Conflict:
    """What an earner is told of everything that a regulatory hold stops."""
    return Conflict("account-under-review", UNDER_REVIEW)


UNDER_REVIEW: Final = "This is under review; it goes on when the review has ended."
"""The words of `account-under-review`."""
