"""A new version of one of our own keys is accepted at once, and used only when all know it.

Several processes take the same key from a store, and each looks at its own pace. Were the first one
that sees a new version to seal or sign with it, the others could not open or verify that for a
while. So a version is used from a certain age on; until then the one before it is, while the
new one already opens and verifies.

The times of files say little where an orchestrator writes all of them anew when one changes: what
this process has known for long enough is of age whatever they say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from paymaster.secrets.port import SecretStore, SecretVersion


class SettledStore:
    """The same secrets, first the version to use. A version without a time is of age."""

    def __init__(self, store: SecretStore, settle: timedelta, now: Callable[[], datetime]) -> None:
        self._store = store
        self._settle = settle
        self._now = now
        self._seen: dict[tuple[str, str, bytes], datetime] = {}

    def get(self, name: str) -> Sequence[SecretVersion]:
        """See SecretStore. Versions that are too young come last, the oldest of them first."""
        versions = self._store.get(name)
        if len(versions) < 2:
            return versions
        now = self._now()
        since = now - self._settle
        seen = {(name, v.id, hashlib.sha256(v.value).digest()): v for v in versions}
        young = [
            v
            for mark, v in seen.items()
            if self._seen.setdefault(mark, now) > since
            and v.created_at is not None
            and v.created_at > since
        ]
        if not young:
            return versions
        return [v for v in versions if v not in young] + young[::-1]
