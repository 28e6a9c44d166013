"""A new version of one of our own keys is accepted at once, and used only when all know it.

Several processes take the same key from a store, and each looks at its own pace. Were the first one
that sees a new version to seal or sign with it, the others could not open or verify that for a
while. So a version is used from a certain age on; until then the one before it is, while the
new one already opens and verifies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from paymaster.secrets.port import SecretStore, SecretVersion


class SettledStore:
    """The same secrets, first the version to use. A version without a time is of age."""

    def __init__(self, store: SecretStore, settle: timedelta, now: Callable[[], datetime]) -> None:
        self._store = store
        self._settle = settle
        self._now = now

    def get(self, name: str) -> Sequence[SecretVersion]:
        """See SecretStore. Versions that are too young come last, the oldest of them first."""
        versions = self._store.get(name)
        if len(versions) < 2:
            return versions
        since = self._now() - self._settle
        young = [v for v in versions if v.created_at is not None and v.created_at > since]
        if not young:
            return versions
        return [v for v in versions if v not in young] + young[::-1]
