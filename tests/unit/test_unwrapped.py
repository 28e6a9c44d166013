"""Wrapped secrets are opened one for one: what one of them lacks is no fault of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from paymaster.kernel.errors import Broken, Busy
from paymaster.secrets.port import SecretVersion
from paymaster.secrets.unwrapped import UnwrappedStore, stored_form


class Store:
    """Wrapped secrets, newest first."""

    def __init__(self, secrets: Mapping[str, Sequence[str]]) -> None:
        self.secrets = {name: list(values) for name, values in secrets.items()}

    def get(self, name: str) -> Sequence[SecretVersion]:
        values = self.secrets.get(name, [])
        return [SecretVersion(value, stored_form(value.encode()).encode()) for value in values]


class Opener:
    """Opens all but those it refuses."""

    def __init__(self, *refused: str) -> None:
        self.refused = set(refused)
        self.held = asyncio.Event()
        self.held.set()

    async def opened(self, wrapped: bytes, name: str) -> bytes:
        await self.held.wait()
        if name in self.refused:
            raise Broken("secret-store-refused", "No.")
        return b"opened-" + wrapped


def values(store: UnwrappedStore, name: str) -> list[bytes]:
    return [version.value for version in store.get(name)]


async def test_a_new_version_waits_although_others_that_are_open_are_asked_for() -> None:
    below = Store({"kek": ["k1"], "fingerprint": ["f1"]})
    store = UnwrappedStore(below, Opener(), names=["kek", "fingerprint"])
    await store.refresh()
    below.secrets["kek"].insert(0, "k2")
    assert values(store, "kek") == [b"opened-k1"]
    assert values(store, "fingerprint") == [b"opened-f1"]
    assert store.waiting
    await store.refresh()
    assert not store.waiting
    assert values(store, "kek") == [b"opened-k2", b"opened-k1"]


async def test_what_is_seen_while_others_are_opened_waits_for_the_next_time() -> None:
    below, opener = Store({"kek": ["k1"], "rail": ["r1"]}), Opener()
    store = UnwrappedStore(below, opener, names=["kek"])
    opener.held.clear()
    opening = asyncio.create_task(store.refresh())
    await asyncio.sleep(0)
    with pytest.raises(Busy):
        store.get("rail")
    opener.held.set()
    await opening
    assert store.waiting
    await store.refresh()
    assert values(store, "rail") == [b"opened-r1"]


async def test_one_that_does_not_open_stops_no_other() -> None:
    below = Store({"a-rail": ["a1"], "kek": ["k1"]})
    store = UnwrappedStore(below, Opener("a-rail"), names=["a-rail", "kek"])
    with pytest.raises(Broken):
        await store.refresh()
    assert values(store, "kek") == [b"opened-k1"]
    assert store.waiting
    with pytest.raises(Busy):
        store.get("a-rail")
