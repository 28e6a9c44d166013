"""The chassis itself: the shared parts in one object, and the transaction that they live in."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from paymaster_sandbox.chassis import clock, faults, journal, ledger, oracle, seed
from paymaster_sandbox.chassis.clock import Clock
from paymaster_sandbox.chassis.seed import Seed
from paymaster_sandbox.chassis.store import Store, Tx

SCHEMAS = (
    clock.SCHEMA,
    faults.SCHEMA,
    journal.SCHEMA,
    ledger.SCHEMA,
    oracle.SCHEMA,
    seed.SCHEMA,
)


@dataclass(frozen=True, slots=True)
class Chassis:
    """Books, time and chance of one world."""

    store: Store
    clock: Clock
    seed: Seed

    @contextmanager
    def tx(self) -> Generator[Tx]:
        """A transaction at the present virtual time."""
        with self.store.begin(self.clock.now()) as tx:
            yield tx
