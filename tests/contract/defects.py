"""How a rail with a defect is described, so that the suite can be shown to catch it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from paymaster.rails.base import (
    Outcome,
    Prepared,
    Rail,
    RailAccount,
)
from paymaster.rails.deps import RailDeps
from paymaster.rails.sandbox_wallet.rail import SandboxWalletRail


@dataclass(frozen=True, slots=True)
class BrokenRail:
    """A defect: what it is, on which rail, and the check that has to catch it."""

    name: str
    rail: str
    caught_by: str
    make: Callable[[RailDeps], Rail]


BROKEN: list[BrokenRail] = []


def broken(name: str, caught_by: str) -> Callable[[type], type]:
    """Register a defective rail."""

    def register(made: type) -> type:
        rail = "sandbox-wallet" if issubclass(made, SandboxWalletRail) else "iso20022"
        BROKEN.append(BrokenRail(name, rail, caught_by, made))
        return made

    return register


def renamed(prepared: Prepared, key: str) -> Prepared:
    """The same request under another idempotency key, with the reference as it was."""
    return replace(prepared, keys=(key,))


class Wallet(SandboxWalletRail):
    """The wallet rail with its HTTP call within reach."""

    async def under(self, account: RailAccount, prepared: Prepared, key: str) -> Sequence[Outcome]:
        """Send under an idempotency key of one's own choosing."""
        return await super().send(account, renamed(prepared, key))
