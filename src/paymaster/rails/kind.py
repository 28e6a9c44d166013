"""What a kind of payout destination is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from paymaster.kernel.errors import Problem


@dataclass(frozen=True, slots=True)
class Checked:
    """A destination that can be paid to: store `details` sealed, show `mask`.

    `fingerprint_source` is equal for equal destinations however they were typed; the caller keys
    an HMAC with it to find one destination used by many users.
    """

    details: dict[str, str] = field(repr=False)
    mask: str
    fingerprint_source: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind: its fields, and the function that normalises them or reports problems."""

    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    normalise: Callable[[Mapping[str, str], list[Problem]], Checked | None]


def compact(text: str) -> str:
    """Upper case without the blanks that people type for legibility."""
    return "".join(text.split()).upper()
