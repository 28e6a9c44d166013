"""What the demo remembers in its data folder: the plan of the run, so that a second start goes on.

Only choices are kept here (dates, who withdraws, how much is moved to the wallet provider). What
has happened is asked of Paymaster.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from paymaster.kernel.errors import Refusal


@dataclass(slots=True)
class State:
    """`fingerprint` ties the folder to one log, reward, currency, number of cells and rails.

    `hooks_port` stays, because providers that repeat a message do so to the address that came with
    the order. `behind_seconds`: how far the sandbox's clock is behind the environment's.
    """

    fingerprint: str
    funding_day: str
    payout_day: str
    app_key: str = field(default="", repr=False)
    operator_key: str = field(default="", repr=False)
    withdrawals: list[dict[str, str]] | None = None
    float_amount: str | None = None
    hooks_port: int | None = None
    behind_seconds: int | None = None


def fingerprint(*parts: object) -> str:
    """Of everything that decides what the demo does."""
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()


class StateFile:
    """Reads and replaces the file atomically."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "demo" / "state.json"

    def load(self, wanted: str, funding_day: date, payout_day: date) -> State:
        """The remembered state, or a new one. Raises Refusal `demo-data-folder` for another log."""
        try:
            raw: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return State(wanted, funding_day.isoformat(), payout_day.isoformat())
        state = State(**raw)
        if state.fingerprint != wanted:
            raise Refusal(
                "demo-data-folder",
                "This data folder belongs to a demo with other answers, reward, currency, cells or "
                "rails; choose a fresh one with --data.",
            )
        return state

    def save(self, state: State) -> None:
        """Write it down before acting on it."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = self._path.with_suffix(".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
            json.dump(asdict(state), handle)
            handle.flush()
            os.fsync(handle.fileno())
        fresh.replace(self._path)
