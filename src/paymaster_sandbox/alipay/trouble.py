"""How the provider misbehaves on demand.

A knob is used up, or strikes with a chance of so many in a thousand; it may be set for one method
only. The settings stay until they are changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from paymaster_sandbox.chassis import faults
from paymaster_sandbox.chassis.clock import SECOND
from paymaster_sandbox.chassis.seed import Seed
from paymaster_sandbox.chassis.store import Tx

NAME: Final = "alipay"

BEFORE: Final = ("drop_requests", "fail_before", "rate_limit", "refuse_unlisted")
"""Nothing is done: the connection is cut; 20000; call limited; a code that no list has."""

AFTER: Final = (
    "drop_answers", "fail_after", "accepted", "processing", "unlisted_code", "lied_no",
    "lied_short", "bad_signature", "unsigned", "unknown_serial", "stale_timestamp", "truncated",
    "garbled",
)  # fmt: skip
"""It is done, and the answer is missing, or says or proves something else."""

HARMLESS: Final = ("reordered",)
"""The answer is right and looks unusual: other order, more fields, escaped slashes."""

NOTICES: Final = (
    "notice_lose", "notice_late", "notice_forge", "notice_tamper", "notice_wrong_app",
    "notice_replay",
)  # fmt: skip

BILLS: Final = ("bill_omit", "bill_extra", "bill_alter", "bill_shift")

COUNTERS: Final = (*BEFORE, *AFTER, *HARMLESS, *NOTICES, *BILLS)

SETTINGS: Final[Mapping[str, int]] = {
    "slow_seconds": 0,
    "not_found_lag_seconds": 0,
    "late_seconds": 0,
    "skew_seconds": 0,
    "notice_late_seconds": 5 * SECOND,
    "notice_copies": 1,
    "balance_short": 0,
    "bill_missing": 0,
    "bill_old_headers": 0,
    "old_certificate_permille": 0,
}
"""Each setting's default; those named seconds are kept in microseconds."""


@dataclass(frozen=True, slots=True)
class Troubles:
    """The knobs of this provider."""

    seed: Seed

    def strikes(self, tx: Tx, knob: str, method: str = "") -> bool:
        """Whether the knob strikes now; one that is used up is less by one then."""
        names = (f"{NAME}.{knob}@{method}", f"{NAME}.{knob}") if method else (f"{NAME}.{knob}",)
        if any(faults.strikes(tx, name) for name in names):
            return True
        chance = faults.setting(tx, f"{NAME}.chance_{knob}", 0)
        return chance > 0 and self.seed.below(tx, f"{NAME}.{knob}", 1000) < chance

    def first(self, tx: Tx, knobs: tuple[str, ...], method: str) -> str | None:
        """The first of the knobs that strikes."""
        return next((knob for knob in knobs if self.strikes(tx, knob, method)), None)


def setting(tx: Tx, name: str) -> int:
    """The value of a setting."""
    return faults.setting(tx, f"{NAME}.{name}", SETTINGS[name])
