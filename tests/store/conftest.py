"""Embedded servers, and processes that start them, for the tests of the embedded server itself."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from paymaster.db.embedded import EmbeddedPostgres

QUICK = {"fsync": "off"}
SOURCES = Path(__file__).resolve().parents[2] / "src"

MakeServer = Callable[..., EmbeddedPostgres]
Spawn = Callable[..., subprocess.Popen[str]]

RUN_IT = """
import sys, time
from pathlib import Path
from paymaster.db.embedded import EmbeddedPostgres
server = EmbeddedPostgres(
    Path(sys.argv[1]), settings={"fsync": "off"}, exit_with_owner=sys.argv[2] == "owned"
)
server.start()
server.create_database("books")
print(server.owner_dsn("books"), flush=True)
if sys.argv[3] == "stay":
    sys.stdin.read()
"""


@pytest.fixture(scope="session")
def initialised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory after its first start, to be copied: four times as quick as initdb."""
    folder = tmp_path_factory.mktemp("initialised") / "data"
    with EmbeddedPostgres(folder, settings=QUICK):
        pass
    return folder


@pytest.fixture
def make_server(tmp_path: Path, initialised: Path) -> Generator[MakeServer]:
    """Makes servers below a temporary directory and leaves none of them running."""
    made: list[EmbeddedPostgres] = []

    def make(name: str = "data", *, fresh: bool = False, **options: Any) -> EmbeddedPostgres:
        folder = tmp_path / name
        if not fresh and not folder.exists():
            shutil.copytree(initialised, folder)
        options.setdefault("settings", QUICK)
        server = EmbeddedPostgres(folder, **options)
        made.append(server)
        return server

    yield make
    for server in made:
        server.stop(even_if_attached=True)


@pytest.fixture
def spawn(tmp_path: Path) -> Generator[Spawn]:
    """Starts processes that start a server, and ends them after the test."""
    with contextlib.ExitStack() as stack:

        def start(owned: str = "free", stay: str = "stay") -> subprocess.Popen[str]:
            return stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", RUN_IT, str(tmp_path / "data"), owned, stay],
                    env={**os.environ, "PYTHONPATH": str(SOURCES)},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )

        yield start
