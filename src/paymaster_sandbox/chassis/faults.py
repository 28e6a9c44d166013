"""The fault knobs: counters that are used up, and settings that stay until changed.

Names with a dot, such as `alipay.drop_answers`, are one provider's own; that provider lists them.
"""

from collections.abc import Mapping

from paymaster_sandbox.chassis.clock import SECOND
from paymaster_sandbox.chassis.store import Tx

SCHEMA = """
CREATE TABLE IF NOT EXISTS fault (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS fault_set (name TEXT PRIMARY KEY, armed INTEGER NOT NULL);
"""

COUNTERS = frozenset(
    {
        "drop_answers", "fail_before", "fail_after", "rate_limit",
        "webhook_late", "webhook_lose", "webhook_forge",
        "settlement_omit", "settlement_alter", "settlement_duplicate",
        "sftp_drop_answers", "pain002_lose",
    }
)  # fmt: skip
"""Each is the number of times that the fault will still strike."""

SETTINGS: Mapping[str, int] = {
    "webhook_copies": 1,
    "webhook_shuffle": 0,
    "balance_short": 0,
    "camt054": 0,
    "slow_seconds": 0,
    "late_seconds": 5 * SECOND,
    "not_found_lag_seconds": 0,
    "paid_after_seconds": SECOND // 20,
    "bank_answer_seconds": 0,
}
"""Each setting's default; those named seconds are kept in microseconds."""


def arm(tx: Tx, values: Mapping[str, int], name: str | None) -> bool:
    """Set knobs. A named set is armed once per data directory; False if it already was."""
    if name is not None:
        fresh = tx.run("INSERT OR IGNORE INTO fault_set (name, armed) VALUES (?, ?)", name, tx.now)
        if not fresh:
            return False
    for knob, value in values.items():
        tx.run("INSERT OR REPLACE INTO fault (name, value) VALUES (?, ?)", knob, value)
    return True


def strikes(tx: Tx, counter: str) -> bool:
    """Use up one of the counter, if any is left."""
    assert "." in counter or counter in COUNTERS
    return tx.run("UPDATE fault SET value = value - 1 WHERE name = ? AND value > 0", counter) == 1


def setting(tx: Tx, name: str, default: int | None = None) -> int:
    """The value of a setting; a provider's own comes with its default."""
    row = tx.one("SELECT value FROM fault WHERE name = ?", name)
    if row is not None:
        return int(row[0])
    return SETTINGS[name] if default is None else default


def current(tx: Tx) -> dict[str, int]:
    """Every knob as it stands, the providers' own left out."""
    values = {**dict.fromkeys(sorted(COUNTERS), 0), **SETTINGS}
    return {**values, **dict(tx.all("SELECT name, value FROM fault WHERE name NOT LIKE '%.%'"))}


def current_of(tx: Tx, provider: str) -> dict[str, int]:
    """What was set of a provider's own knobs, without the provider's name before them."""
    rows = tx.all("SELECT name, value FROM fault WHERE name LIKE ?", f"{provider}.%")
    return {name.removeprefix(f"{provider}."): value for name, value in rows}
