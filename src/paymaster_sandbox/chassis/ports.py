"""Where a world listened the last time, so that it comes back at the same addresses."""

from __future__ import annotations

import json
from pathlib import Path


class Ports:
    """The ports of a world's servers, kept in its folder."""

    def __init__(self, data: Path) -> None:
        self._path = data / "ports.json"
        self._known: dict[str, int] = {}
        try:
            found = json.loads(self._path.read_text())
        except (FileNotFoundError, ValueError):
            return  # a first start, or one that was killed while it wrote
        self._known = {str(name): int(port) for name, port in found.items()}

    def before(self, name: str) -> int:
        """The port that a server had; 0 when it never had one."""
        return self._known.get(name, 0)

    def keep(self, name: str, port: int) -> None:
        """Remember it."""
        if self._known.get(name) == port:
            return
        self._known[name] = port
        self._path.write_text(json.dumps(self._known))
