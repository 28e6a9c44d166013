"""Several key-encryption keys as one: the first wraps, any unwraps."""

from __future__ import annotations

from collections.abc import Sequence

from paymaster.kernel.errors import Broken
from paymaster.secrets.port import Kek, Wrapped


class Keks:
    """The places of `secrets.kek`, newest first: so a key moves from a file into a token."""

    def __init__(self, keks: Sequence[Kek]) -> None:
        self._keks = tuple(keks)

    def wrap(self, key: bytes) -> Wrapped:
        """See Kek."""
        return self._keks[0].wrap(key)

    def unwrap(self, wrapped: Wrapped) -> bytes:
        """See Kek."""
        for kek in self._keks:
            try:
                return kek.unwrap(wrapped)
            except Broken as error:
                if error.slug != "kek-unknown":
                    raise
        raise Broken(
            "kek-unknown", f"No place of `secrets.kek` has the key {wrapped.key_id[:40]!r}."
        )

    def current_id(self) -> str:
        """See Kek."""
        return self._keks[0].current_id()

    def ids(self) -> list[str]:
        """See Kek."""
        return [key_id for kek in self._keks for key_id in kek.ids()]
