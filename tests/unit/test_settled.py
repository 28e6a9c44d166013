"""Which version of a key of ours is used while processes learn of a new one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from paymaster.kernel.clock import ManualClock
from paymaster.secrets.port import SecretVersion
from paymaster.secrets.settled import SettledStore

START = datetime(2026, 11, 20, 9, tzinfo=UTC)
SETTLE = timedelta(seconds=90)


class Files:
    """Versions, newest first, with the times of their files."""

    def __init__(self) -> None:
        self.versions: list[SecretVersion] = []

    def put(self, number: int, at: datetime, value: bytes | None = None) -> None:
        """A new version."""
        fresh = SecretVersion(str(number), value or b"value %d" % number, at)
        self.versions.insert(0, fresh)

    def mounted_anew(self, at: datetime) -> None:
        """An orchestrator replaces all files when one of them changes."""
        self.versions = [SecretVersion(one.id, one.value, at) for one in self.versions]

    def get(self, name: str) -> Sequence[SecretVersion]:
        """See SecretStore."""
        return self.versions


def _made() -> tuple[Files, ManualClock, SettledStore]:
    files, clock = Files(), ManualClock(START)
    return files, clock, SettledStore(files, SETTLE, clock.now)


def _ids(store: SettledStore) -> str:
    return "".join(one.id for one in store.get("kek"))


def test_a_new_version_is_used_when_all_know_it() -> None:
    files, clock, store = _made()
    files.put(1, START - timedelta(days=9))
    files.put(2, START)
    assert _ids(store) == "12"
    clock.advance(SETTLE)
    assert _ids(store) == "21"


def test_what_a_process_has_long_known_is_not_young_again_because_its_file_is() -> None:
    files, clock, store = _made()
    files.put(1, START - timedelta(days=9))
    files.put(2, START - timedelta(days=8))
    assert _ids(store) == "21"
    clock.advance(timedelta(days=1))
    files.mounted_anew(clock.now())
    assert _ids(store) == "21"
    files.put(3, clock.now())
    assert _ids(store) == "213"
    clock.advance(SETTLE)
    assert _ids(store) == "321"


def test_another_value_under_a_known_number_is_young() -> None:
    files, clock, store = _made()
    files.put(1, START - timedelta(days=9))
    files.put(2, START - timedelta(days=8))
    assert _ids(store) == "21"
    clock.advance(timedelta(days=1))
    files.versions[0] = SecretVersion("2", b"another value", clock.now())
    assert _ids(store) == "12"
