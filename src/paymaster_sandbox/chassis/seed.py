"""Everything the sandbox draws by lot comes from its seed, so that a run can be repeated."""

import hashlib

from paymaster_sandbox.chassis.store import Tx

SCHEMA = """
CREATE TABLE IF NOT EXISTS seed (one INTEGER PRIMARY KEY CHECK (one = 1), value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS draw (purpose TEXT PRIMARY KEY, used INTEGER NOT NULL);
"""

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


class Seed:
    """Draws ids and numbers. Each purpose has its own durable sequence."""

    def __init__(self) -> None:
        self._value = 0

    def load(self, tx: Tx, value: int) -> None:
        """Take the stored seed; `value` counts on the first start only."""
        tx.run("INSERT OR IGNORE INTO seed (one, value) VALUES (1, ?)", value)
        self._value = int(tx.value("SELECT value FROM seed"))

    def count(self, tx: Tx, purpose: str) -> int:
        """The next number of a sequence: 1, 2, 3..."""
        return int(
            tx.value(
                "INSERT INTO draw (purpose, used) VALUES (?, 1)"
                " ON CONFLICT (purpose) DO UPDATE SET used = used + 1 RETURNING used",
                purpose,
            )
        )

    def id(self, tx: Tx, prefix: str) -> str:
        """A new id: the prefix and 20 letters and digits that look random."""
        digest = self._digest(prefix, self.count(tx, prefix))
        return prefix + "".join(_ALPHABET[byte & 31] for byte in digest[:20])

    def below(self, tx: Tx, purpose: str, limit: int) -> int:
        """A number from 0 to limit - 1."""
        return int.from_bytes(self._digest(purpose, self.count(tx, purpose))[:8]) % limit

    def _digest(self, purpose: str, number: int) -> bytes:
        return hashlib.sha256(f"{self._value}:{purpose}:{number}".encode()).digest()
