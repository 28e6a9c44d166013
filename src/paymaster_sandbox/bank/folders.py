"""The folders that a customer sees, and the files that cross them without loss or doubling.

In: a finished upload is claimed by renaming it out of the customer's reach under a name that is
never used again; that name keys its execution. Out: a file is a row in the books first and
appears by rename; if the bank dies in between, the row brings it back with the same bytes.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from paymaster_sandbox.chassis import journal
from paymaster_sandbox.chassis.base import Chassis
from paymaster_sandbox.chassis.schedule import Schedule
from paymaster_sandbox.chassis.store import Tx

SCHEMA = """
CREATE TABLE IF NOT EXISTS bank_out (
    name TEXT PRIMARY KEY, body BLOB NOT NULL, state TEXT NOT NULL
) WITHOUT ROWID;
"""

FINAL_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,115}\.xml")
"""Names of finished uploads."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """An uploaded file that now belongs to the bank. `key` is unique for ever."""

    key: str
    name: str
    path: Path


class Folders:
    """The directories under the data directory: `sftp/in`, `sftp/out`, `claimed`, `done`."""

    def __init__(self, directory: Path, chassis: Chassis, schedule: Schedule) -> None:
        self.root = directory / "sftp"
        self.incoming = self.root / "in"
        self.outgoing = self.root / "out"
        self._claimed = directory / "claimed"
        self._done = directory / "done"
        self._chassis = chassis
        self._schedule = schedule
        for folder in (self.incoming, self.outgoing / "archive", self._claimed, self._done):
            folder.mkdir(parents=True, exist_ok=True)
        schedule.handle("out.due", self._make_ready)
        schedule.after_run(self.write_ready)

    def claim(self) -> list[Claimed]:
        """Take every finished upload; those claimed before a crash come first."""
        for path in sorted(self.incoming.iterdir()):
            if FINAL_NAME.fullmatch(path.name) is None or not path.is_file():
                continue
            with self._chassis.tx() as tx:
                number = self._chassis.seed.count(tx, "claim")
            path.rename(self._claimed / f"{number:08}_{path.name}")
        claimed = sorted(self._claimed.iterdir())
        return [Claimed(path.name, path.name.split("_", 1)[1], path) for path in claimed]

    def finish(self, claimed: Claimed) -> None:
        """Put an executed file away."""
        claimed.path.rename(self._done / claimed.key)

    def publish(self, tx: Tx, name: str, body: bytes, after: int) -> None:
        """Let a file appear in `/out`, `after` microseconds from now."""
        tx.run("INSERT INTO bank_out (name, body, state) VALUES (?, ?, 'due')", name, body)
        self._schedule.put(tx, "out.due", name, after)

    def lose(self, tx: Tx, name: str, body: bytes) -> None:
        """Keep a file that the customer never gets to see, unless he asks for it."""
        tx.run("INSERT INTO bank_out (name, body, state) VALUES (?, ?, 'lost')", name, body)

    def publish_lost(self, tx: Tx) -> int:
        """The customer has asked for what he never got: let it appear; how many there were."""
        return tx.run("UPDATE bank_out SET state = 'ready' WHERE state = 'lost'")

    def publish_again(self, tx: Tx, name: str) -> None:
        """Let a file that the customer may have lost appear once more, with the same bytes."""
        tx.run("UPDATE bank_out SET state = 'ready' WHERE name = ?", name)

    def write_ready(self) -> None:
        """Write the files whose time has come."""
        with self._chassis.tx() as tx:
            ready = tx.all("SELECT name, body FROM bank_out WHERE state = 'ready'")
        for name, body in ready:
            part = self.outgoing / f".{name}.part"
            part.write_bytes(body)
            part.replace(self.outgoing / name)
            with self._chassis.tx() as tx:
                tx.run("UPDATE bank_out SET state = 'written' WHERE name = ?", name)
                journal.note(tx, "bank.out", name=name, size=len(body))

    def _make_ready(self, tx: Tx, name: str) -> None:
        tx.run("UPDATE bank_out SET state = 'ready' WHERE name = ? AND state = 'due'", name)
