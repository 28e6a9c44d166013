"""Several stores as one."""

from __future__ import annotations

from collections.abc import Sequence

from paymaster.secrets.port import SecretStore, SecretVersion


class ChainStore:
    """Asks the stores in order. The first that has a name answers, with its versions alone.

    Versions of two stores are not mixed: a value that an operator overrides in an earlier store
    must not go on being accepted from a later one.
    """

    def __init__(self, stores: Sequence[SecretStore]) -> None:
        self._stores = tuple(stores)

    def get(self, name: str) -> Sequence[SecretVersion]:
        """See SecretStore."""
        for store in self._stores:
            versions = store.get(name)
            if versions:
                return versions
        return []
