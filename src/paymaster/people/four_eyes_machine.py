"""The life of an act that waits for a second person."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from paymaster.kernel.machine import Machine, Move


class ApprovalState(StrEnum):
    """Where it is. Only `approved` acts were carried out."""

    PROPOSED = "proposed"
    APPROVED = "approved"
    REFUSED = "refused"
    """A second person said no."""
    WITHDRAWN = "withdrawn"
    """The proposer took it back."""
    EXPIRED = "expired"
    """Nobody decided in time."""


class ApprovalEvent(StrEnum):
    """What can happen to it."""

    APPROVE = "approve"
    REFUSE = "refuse"
    WITHDRAW = "withdraw"
    EXPIRE = "expire"


_WAITING = ApprovalState.PROPOSED

APPROVAL: Final = Machine(
    "approval",
    _WAITING,
    (
        Move(_WAITING, ApprovalEvent.APPROVE, ApprovalState.APPROVED),
        Move(_WAITING, ApprovalEvent.REFUSE, ApprovalState.REFUSED),
        Move(_WAITING, ApprovalEvent.WITHDRAW, ApprovalState.WITHDRAWN),
        Move(_WAITING, ApprovalEvent.EXPIRE, ApprovalState.EXPIRED),
    ),
)
"""The table of approvals."""
