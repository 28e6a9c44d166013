"""What came in and went out, kept for tests to read."""

import json

from paymaster_sandbox.chassis.clock import stamp
from paymaster_sandbox.chassis.store import Tx

SCHEMA = """
CREATE TABLE IF NOT EXISTS journal (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, kind TEXT NOT NULL,
    facts TEXT NOT NULL
);
"""
_KEEP = 20_000


def note(tx: Tx, kind: str, **facts: object) -> None:
    """Write one event down; the oldest are forgotten beyond twenty thousand."""
    text = json.dumps(facts, separators=(",", ":"), default=str)
    seq = tx.insert("INSERT INTO journal (at, kind, facts) VALUES (?, ?, ?)", tx.now, kind, text)
    if seq % 1000 == 0:
        tx.run("DELETE FROM journal WHERE seq <= ?", seq - _KEEP)


def recent(tx: Tx, limit: int, kind: str | None = None) -> list[dict[str, object]]:
    """The newest events, newest last."""
    rows = tx.all(
        "SELECT seq, at, kind, facts FROM journal WHERE ?1 IS NULL OR kind = ?1"
        " ORDER BY seq DESC LIMIT ?2",
        kind, limit,
    )  # fmt: skip
    return [
        {"seq": seq, "at": stamp(at), "kind": name, **json.loads(facts)}
        for seq, at, name, facts in reversed(rows)
    ]
