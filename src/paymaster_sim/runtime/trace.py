"""What happened, step by step, as one hash: the same seed gives the same."""

from __future__ import annotations

import hashlib


class Trace:
    """A running SHA-256 over lines; with `keep` the lines themselves."""

    def __init__(self, *, keep: bool = False) -> None:
        self._hash = hashlib.sha256()
        self._keep = keep
        self.steps = 0
        self.lines: list[str] = []

    def add(self, line: str) -> None:
        """One more step."""
        self.steps += 1
        self._hash.update(f"{line}\n".encode())
        if self._keep:
            self.lines.append(line)

    @property
    def digest(self) -> str:
        """Of all steps so far, in hexadecimal."""
        return self._hash.hexdigest()
