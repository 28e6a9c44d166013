"""What a run ran on: figures mean nothing without it."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psycopg

from paymaster_bench.measure import now_seconds

SHOWN_SETTINGS = (
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_sync_method",
    "shared_buffers",
    "max_wal_size",
    "wal_compression",
)


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine, as it describes itself, and the server's settings, as it reports them."""

    cpu: str
    cores_used: int
    cores_of_machine: int
    kernel: str
    python: str
    postgresql: str
    server: str
    fdatasync_us: int
    """The median of a write of 8 kB made durable, in the run's own folder, when nothing ran."""

    settings: dict[str, str]

    @property
    def not_durable(self) -> list[str]:
        """Settings that trade durability for speed, which our own server never does."""
        wanted = ("fsync", "synchronous_commit", "full_page_writes")
        return [f"{name} {self.settings[name]}" for name in wanted if self.settings[name] != "on"]

    def wire(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


@contextmanager
def pinned(cores: int) -> Generator[int]:
    """Keep this process, and all it starts meanwhile, to so many cores; how many they may use.

    Where the system cannot do that, the machine's cores are what is used.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield os.cpu_count() or 1
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[-cores:])
    try:
        yield len(os.sched_getaffinity(0))
    finally:
        os.sched_setaffinity(0, allowed)


def describe(dsn: str, cores_used: int, server: str, fdatasync_us: int) -> Machine:
    """Ask the system and the server."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        rows: list[tuple[str, str]] = connection.execute(
            "SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY(%s)",
            (list(SHOWN_SETTINGS),),
        ).fetchall()
        version = str((connection.execute("SHOW server_version").fetchone() or ("?",))[0])
    return Machine(
        cpu=_cpu(),
        cores_used=cores_used,
        cores_of_machine=os.cpu_count() or 1,
        kernel=f"{platform.system()} {platform.release()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        postgresql=version,
        server=server,
        fdatasync_us=fdatasync_us,
        settings=dict(sorted(rows)),
    )


def fdatasync_us(folder: Path, times: int = 200) -> int:
    """What one durable write costs here: the floor under every single transaction."""
    file = os.open(folder / "fdatasync", os.O_WRONLY | os.O_CREAT, 0o600)
    sync = getattr(os, "fdatasync", os.fsync)
    took: list[float] = []
    try:
        os.write(file, bytes(8192))
        for _ in range(times):
            start = now_seconds()
            os.pwrite(file, bytes(8192), 0)
            sync(file)
            took.append(now_seconds() - start)
    finally:
        os.close(file)
    return round(statistics.median(took) * 1_000_000)


def _cpu() -> str:
    listed = Path("/proc/cpuinfo")
    if listed.exists():
        for line in listed.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
