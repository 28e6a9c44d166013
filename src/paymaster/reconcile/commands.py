"""What the relay hands to this package: commands from other cells, each once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from paymaster.db.outbox import Outgoing
from paymaster.db.tx import CellTx
from paymaster.reconcile import wire
from paymaster.reconcile.answer import booked
from paymaster.reconcile.book import book

Handler = Callable[[CellTx, int, Outgoing], Awaitable[dict[str, Any]]]

HANDLERS: dict[str, Handler] = {wire.BOOK: book, wire.BOOKED: booked}
"""Topic -> handler `(tx in the target cell, source cell, message) -> result`."""
