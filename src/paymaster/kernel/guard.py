"""No network inside a transaction: the flag that database code sets and network code asks."""

from __future__ import annotations

from contextvars import ContextVar

from paymaster.kernel.errors import Broken

TRANSACTION_OPEN: ContextVar[bool] = ContextVar("transaction_open", default=False)
"""True in a task while it holds an open database transaction."""


def forbid_network() -> None:
    """Called before every byte that leaves for a provider.

    Raises Broken `network-inside-transaction`: an answer that never comes would hold locks, and a
    rollback after it would forget a payment.
    """
    if TRANSACTION_OPEN.get():
        raise Broken(
            "network-inside-transaction", "A provider was called while a transaction was open."
        )
