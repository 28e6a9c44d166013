"""The lives of an attempt and of a treasury transfer, as tables.

An attempt is one order for one payment. It is `sending` from the transaction that stores its bytes;
whatever happens to this process then, the row says that money may be on its way.

    awaiting    the provider has it and waits for the payee to accept it; only the provider ends it
    rejected    the provider's definite no, or proof that the order never left
    paid        the provider says the money went out; on no rail is that the last word
    returned    it came back
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from paymaster.kernel.machine import Machine, Move


class AttemptState(StrEnum):
    """What is known about an order for one payment."""

    SENDING = "sending"
    UNKNOWN = "unknown"
    SENT = "sent"
    AWAITING = "awaiting_payee"
    PAID = "paid"
    REJECTED = "rejected"
    RETURNED = "returned"


class AttemptEvent(StrEnum):
    """What can become known about it."""

    LOSE = "lose"
    ACCEPT = "accept"
    AWAIT = "await"
    PAY = "pay"
    REJECT = "reject"
    RETURN = "return"


ATTEMPT: Final = Machine(
    "attempt",
    AttemptState.SENDING,
    (
        Move(AttemptState.SENDING, AttemptEvent.LOSE, AttemptState.UNKNOWN),
        Move(AttemptState.SENDING, AttemptEvent.ACCEPT, AttemptState.SENT),
        Move(AttemptState.SENDING, AttemptEvent.AWAIT, AttemptState.AWAITING),
        Move(AttemptState.SENDING, AttemptEvent.PAY, AttemptState.PAID),
        Move(AttemptState.SENDING, AttemptEvent.REJECT, AttemptState.REJECTED),
        Move(AttemptState.UNKNOWN, AttemptEvent.ACCEPT, AttemptState.SENT),
        Move(AttemptState.UNKNOWN, AttemptEvent.AWAIT, AttemptState.AWAITING),
        Move(AttemptState.UNKNOWN, AttemptEvent.PAY, AttemptState.PAID),
        Move(AttemptState.UNKNOWN, AttemptEvent.REJECT, AttemptState.REJECTED),
        Move(AttemptState.SENT, AttemptEvent.AWAIT, AttemptState.AWAITING),
        Move(AttemptState.SENT, AttemptEvent.PAY, AttemptState.PAID),
        Move(AttemptState.SENT, AttemptEvent.REJECT, AttemptState.REJECTED),
        Move(AttemptState.AWAITING, AttemptEvent.ACCEPT, AttemptState.SENT),
        Move(AttemptState.AWAITING, AttemptEvent.PAY, AttemptState.PAID),
        Move(AttemptState.AWAITING, AttemptEvent.REJECT, AttemptState.REJECTED),
        Move(AttemptState.PAID, AttemptEvent.RETURN, AttemptState.RETURNED),
    ),
)
"""The table of attempts."""


class TransferState(StrEnum):
    """Where company money between two of our accounts is."""

    REQUESTED = "requested"
    SENDING = "sending"
    UNKNOWN = "unknown"
    SENT = "sent"
    OUT_BOOKED = "out_booked"
    """A statement of the paying account shows it."""
    IN_BOOKED = "in_booked"
    """A statement of the receiving account shows it, the paying one's not yet."""
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class TransferEvent(StrEnum):
    """What can happen to it."""

    SEND = "send"
    QUEUE = "queue"
    """Nothing left this machine, or the order is proven dead: it may be sent anew."""
    LOSE = "lose"
    ACCEPT = "accept"
    REJECT = "reject"
    BOOK_OUT = "book_out"
    BOOK_IN = "book_in"
    BOOK_BACK = "book_back"
    CANCEL = "cancel"


def _booked() -> tuple[Move, ...]:
    """Statements are facts, in whatever order they and the provider's answers come."""
    early = (TransferState.SENDING, TransferState.UNKNOWN, TransferState.SENT)
    return (
        *(Move(s, TransferEvent.BOOK_OUT, TransferState.OUT_BOOKED, "topup_out") for s in early),
        *(Move(s, TransferEvent.BOOK_IN, TransferState.IN_BOOKED, "topup_in") for s in early),
        Move(TransferState.OUT_BOOKED, TransferEvent.BOOK_IN, TransferState.DONE, "topup_in"),
        Move(TransferState.IN_BOOKED, TransferEvent.BOOK_OUT, TransferState.DONE, "topup_out"),
        Move(TransferState.OUT_BOOKED, TransferEvent.BOOK_BACK, TransferState.FAILED, "topup_back"),
    )


TRANSFER: Final = Machine(
    "transfer",
    TransferState.REQUESTED,
    (
        Move(TransferState.REQUESTED, TransferEvent.SEND, TransferState.SENDING),
        Move(TransferState.REQUESTED, TransferEvent.CANCEL, TransferState.CANCELLED),
        Move(TransferState.SENDING, TransferEvent.QUEUE, TransferState.REQUESTED),
        Move(TransferState.SENDING, TransferEvent.LOSE, TransferState.UNKNOWN),
        Move(TransferState.SENDING, TransferEvent.ACCEPT, TransferState.SENT),
        Move(TransferState.SENDING, TransferEvent.REJECT, TransferState.FAILED),
        Move(TransferState.UNKNOWN, TransferEvent.ACCEPT, TransferState.SENT),
        Move(TransferState.UNKNOWN, TransferEvent.REJECT, TransferState.FAILED),
        Move(TransferState.SENT, TransferEvent.REJECT, TransferState.FAILED),
        *_booked(),
    ),
)
"""The table of transfers."""

MACHINES: Final = (ATTEMPT, TRANSFER)
"""For the table of legal moves."""
