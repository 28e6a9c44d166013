"""The life of a user and of a payout destination."""

from __future__ import annotations

from enum import StrEnum

from paymaster.kernel.machine import Machine, Move


class Status(StrEnum):
    """What a user may do."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    """Earns nothing and withdraws nothing until resumed; what was earned stays."""
    CLOSED = "closed"
    """For good."""


class Act(StrEnum):
    """What changes a user's status or a destination's state."""

    SUSPEND = "suspend"
    PAUSE = "pause"
    RESUME = "resume"
    CLOSE = "close"
    LINK = "link"
    """A linked account that was unlinked is linked again: shown anew to be the user's own."""


class DestinationState(StrEnum):
    """Whether money may go there."""

    ACTIVE = "active"
    PAUSED = "paused"
    """Several payments in a row failed because of it; nothing goes there until it is resumed."""
    CLOSED = "closed"
    """For good; one that was only unlinked may be linked again."""


USER = Machine(
    "user",
    Status.ACTIVE,
    (
        Move(Status.ACTIVE, Act.SUSPEND, Status.SUSPENDED),
        Move(Status.SUSPENDED, Act.RESUME, Status.ACTIVE),
        Move(Status.ACTIVE, Act.CLOSE, Status.CLOSED),
        Move(Status.SUSPENDED, Act.CLOSE, Status.CLOSED),
    ),
)

DESTINATION = Machine(
    "destination",
    DestinationState.ACTIVE,
    (
        Move(DestinationState.ACTIVE, Act.PAUSE, DestinationState.PAUSED),
        Move(DestinationState.PAUSED, Act.RESUME, DestinationState.ACTIVE),
        Move(DestinationState.ACTIVE, Act.CLOSE, DestinationState.CLOSED),
        Move(DestinationState.PAUSED, Act.CLOSE, DestinationState.CLOSED),
        Move(DestinationState.CLOSED, Act.LINK, DestinationState.ACTIVE),
    ),
)

TOWARDS: dict[Status, Act] = {
    Status.ACTIVE: Act.RESUME,
    Status.SUSPENDED: Act.SUSPEND,
    Status.CLOSED: Act.CLOSE,
}
"""The act that leads to a status."""

MACHINES = (USER, DESTINATION)
"""All machines of this package, for the table of legal moves and the docs."""
