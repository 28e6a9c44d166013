"""What goes wrong on demand: for the next calls, or for a share of them drawn from the seed.

A mishap strikes one kind of call, named as in the envelope (`transfer.create`, `transfer.*`, `*`).
It is used up after `times`, or strikes `percent` of the calls until it is taken away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from paymaster_sandbox.chassis import faults
from paymaster_sandbox.chassis.clock import SECOND
from paymaster_sandbox.chassis.seed import Seed
from paymaster_sandbox.chassis.store import Tx

SCHEMA = """
CREATE TABLE IF NOT EXISTS wechat_mishap (
    id INTEGER PRIMARY KEY, call TEXT NOT NULL, kind TEXT NOT NULL, left_over INTEGER,
    percent INTEGER NOT NULL, text TEXT NOT NULL, number INTEGER NOT NULL
);
"""

BEFORE: Final = frozenset(
    {"cut_before", "error_before", "limited_before", "code_before", "accepted_before"}
)
"""Nothing has happened, and the caller is not told so."""

AFTER: Final = frozenset(
    {
        "cut_after", "error_after", "limited_after", "code_after", "lied_no", "lied_short",
        "accepted_after", "slow",
        "bad_signature", "no_signature", "unknown_serial", "stale", "signtest", "truncated",
        "garbled", "reordered", "extra_fields",
    }
)  # fmt: skip
"""What was asked for has been done, and the answer does not say so.

`lied_no` and `lied_short` are the worst of them: a code from the provider's own list, signed, says
that nothing was done.
"""

NOTICES: Final = frozenset(
    {
        "lost", "late", "copies", "bad_signature", "unknown_serial", "stale", "signtest",
        "wrong_mchid", "tampered", "replayed",
    }
)  # fmt: skip
"""What happens to a notice (call `notice`). All but the first three send a false one beside."""

BILLS: Final = frozenset(
    {"omit", "extra", "alter", "next_day", "pair", "creating", "legacy_header", "odd_text"}
)
"""What is planted in a daily file when it is first asked for (call `bill.trade`, `bill.flow`)."""

KINDS: Final = BEFORE | AFTER | NOTICES | BILLS

SETTINGS: Final[Mapping[str, int]] = {
    "accept_seconds": 0,
    "paid_seconds": 0,
    "cancel_seconds": 0,
    "late_close_seconds": 0,
    "not_found_lag_seconds": 0,
    "clock_skew_seconds": 0,
    "refund_seconds": 0,
    "cancel_too_late": 0,
    "retry_interval_seconds": 0,
}
"""Settings and their defaults, in microseconds where they are named seconds."""


@dataclass(frozen=True, slots=True)
class Mishap:
    """One that strikes now. `text` and `number` say how, where the kind needs it."""

    kind: str
    text: str
    number: int


def arm(
    tx: Tx, call: str, kind: str, *, times: int | None, percent: int, text: str, number: int
) -> None:
    """Make a mishap wait; `times` None: until it is taken away."""
    assert kind in KINDS
    tx.run(
        "INSERT INTO wechat_mishap (call, kind, left_over, percent, text, number)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        call, kind, times, percent, text, number,
    )  # fmt: skip


def clear(tx: Tx) -> None:
    """Take every mishap away."""
    tx.run("DELETE FROM wechat_mishap")


def listed(tx: Tx) -> list[dict[str, object]]:
    """Those that wait."""
    rows = tx.all(
        "SELECT call, kind, left_over, percent, text, number FROM wechat_mishap ORDER BY id"
    )
    names = ("call", "kind", "times", "percent", "text", "number")
    return [dict(zip(names, row, strict=True)) for row in rows]


def strike(tx: Tx, seed: Seed, call: str, kinds: frozenset[str] = KINDS) -> Mishap | None:
    """The first that waits for this call; it has struck then."""
    family = f"{call.partition('.')[0]}.*"
    rows = tx.all(
        "SELECT id, kind, percent, text, number FROM wechat_mishap"
        " WHERE call IN (?, ?, '*') AND (left_over IS NULL OR left_over > 0) ORDER BY id",
        call, family,
    )  # fmt: skip
    for key, kind, percent, text, number in rows:
        if kind not in kinds or (percent < 100 and seed.below(tx, "mishap", 100) >= percent):
            continue
        tx.run("UPDATE wechat_mishap SET left_over = left_over - 1 WHERE id = ?", key)
        tx.run("DELETE FROM wechat_mishap WHERE left_over = 0")
        return Mishap(kind, text, number)
    return None


def every(tx: Tx, seed: Seed, call: str, kinds: frozenset[str]) -> list[Mishap]:
    """Everything that waits for this call, all of it at once."""
    found: list[Mishap] = []
    while (one := strike(tx, seed, call, kinds)) is not None and len(found) < 1000:
        found.append(one)
    return found


def setting(tx: Tx, name: str) -> int:
    """The value of one of the provider's settings."""
    return faults.setting(tx, f"wechat.{name}", SETTINGS[name])


def set_to(tx: Tx, name: str, value: float) -> None:
    """Change a setting; seconds are given as such."""
    kept = round(value * SECOND) if name.endswith("_seconds") else round(value)
    faults.arm(tx, {f"wechat.{name}": kept}, None)


def settings(tx: Tx) -> dict[str, float]:
    """Every setting as it stands, in seconds."""
    return {
        name: setting(tx, name) / SECOND if name.endswith("_seconds") else setting(tx, name)
        for name in SETTINGS
    }
