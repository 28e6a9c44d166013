"""A process that has imported what tests need, with a server running, and forks for each mutant.

Started by `workers`, in a copy of the project, in one of two ways:

- `warm` has collected all tests: a fault inside functions is swapped in (`swap`) and the tests run.
- `cold` has imported only what the project and its tests import from elsewhere. A fault in a table
  is in the file before the project is imported. Tests use the server of the warm one.

It reads one question in a line, and answers in a line.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import psycopg
import pytest
from psycopg import sql
from tools.mutation.contexts import unhurried
from tools.mutation.swap import Functions, Unfit

PYTEST = ("-p", "no:xdist", "-p", "no:cacheprovider", "-q", "-m", "not long", "-o", "timeout=0")
"""Without a limit for each test: a machine that is busy with mutants is slow."""

ELSEWHERE = (
    "asyncssh", "cryptography.x509", "fastapi", "fpdf", "httpx", "hypothesis",
    "hypothesis.stateful", "jinja2", "jwt", "lxml.etree", "msgspec", "prometheus_client", "psycopg",
    "psycopg_pool", "psycopg.types.json", "pydantic_settings", "pyotp", "rich.table", "structlog",
    "typer", "uvicorn", "uvloop", "webauthn",
)  # fmt: skip
"""What takes long to import, and is not ours."""

CELLS = (1, 2, 3)
"""Worlds of so many cells are copied from databases that are made once."""

NAMED = "the_database"
_UNFIT, _FAILED = 3, 1


class Shared:
    """The server of the warm process, as the fixture `postgres` gives it."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        self.app_role = told["app_role"]
        self._owner, self._app = told["owner"], told["app"]

    def owner_dsn(self, database: str) -> str:
        """A URL for who owns the schema."""
        return self._owner.replace(NAMED, database)

    def app_dsn(self, database: str) -> str:
        """A URL for the application's role."""
        return self._app.replace(NAMED, database)

    def create_database(self, name: str, *, template: str = "template0") -> None:
        """By copying files, as the server's own does."""
        made, role = sql.Identifier(name), sql.Identifier(self.app_role)
        with psycopg.connect(self.owner_dsn("postgres"), autocommit=True) as connection:
            copied = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY")
            connection.execute(copied.format(made, sql.Identifier(template)))
            connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(made))
            connection.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(made, role))

    def drop_database(self, name: str) -> None:
        """Whoever is connected."""
        with psycopg.connect(self.owner_dsn("postgres"), autocommit=True) as connection:
            dropped = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
            connection.execute(dropped.format(sql.Identifier(name)))

    def databases(self) -> set[str]:
        """All there are."""
        with psycopg.connect(self.owner_dsn("postgres"), autocommit=True) as connection:
            rows = connection.execute("SELECT datname FROM pg_database").fetchall()
        return {str(name) for (name,) in rows}


class Asker(NamedTuple):
    """Who asks; pytest takes the usual places for itself."""

    questions: TextIO
    answers: TextIO

    def tell(self, answer: dict[str, Any]) -> None:
        """In one line."""
        print(json.dumps(answer), file=self.answers, flush=True)


def serve(asker: Asker, work: Callable[[dict[str, Any], int], int], shared: Shared) -> None:
    """Answer questions until there are no more, each in a fork."""
    kept = shared.databases()
    for line in asker.questions:
        asker.tell(_forked(json.loads(line), work))
        for name in shared.databases() - kept:
            shared.drop_database(name)


def _forked(asked: dict[str, Any], work: Callable[[dict[str, Any], int], int]) -> dict[str, Any]:
    reading, writing = os.pipe()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        os.setsid()
        os.close(reading)
        most = int(asked["cpu"])
        resource.setrlimit(resource.RLIMIT_CPU, (most, most + 5))
        status = 70
        try:
            status = work(asked, writing)
        finally:
            os._exit(status)
    os.close(writing)
    status = _ended(child, began + asked["wall"])
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    with os.fdopen(reading) as told:
        test = told.read()
    took = round(time.monotonic() - began, 2)
    return {"outcome": _outcome(status), "test": test, "seconds": took}


def _ended(child: int, until: float) -> int | None:
    """The status of a child; none when it had to be ended."""
    pause = 0.005
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        time.sleep(pause)
        pause = min(2 * pause, 0.1)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _outcome(status: int | None) -> str:
    if status is None or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        return "slow"
    code = os.waitstatus_to_exitcode(status)
    return {0: "passed", _UNFIT: "unfit"}.get(code, "failed")


def _world() -> Any:
    """The module that makes worlds, and the databases they are copied from: the copy's."""
    return importlib.import_module("tests.world")


class _Between:
    """What comes after the last test: nothing of a file or folder is kept for it."""

    def __init__(self, session: pytest.Session) -> None:
        self._session = session

    def listchain(self) -> list[pytest.Session]:
        """Only the session goes on."""
        return [self._session]


class Warm:
    """The plugin that takes over when all tests are collected."""

    def __init__(self, asker: Asker, folder: Path) -> None:
        self._asker, self._folder = asker, folder
        self._failed = ""
        self._server: Any = None
        self._items: dict[str, pytest.Item] = {}

    def pytest_configure(self) -> None:
        """Before tests are collected."""
        unhurried()

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, Any, Any]:
        """Take note of the server."""
        made: Any = yield
        if fixturedef.argname == "postgres":
            self._server = made
        return made

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take note of the first test that fails."""
        if report.failed and not self._failed:
            self._failed = report.nodeid

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Instead of running the tests, wait to be asked."""
        self._items = {item.nodeid: item for item in session.items}
        for needed in ("postgres", "sim_server"):
            self._run(self._first(session, needed))
        server, world = self._server, _world()
        for cells in CELLS:
            world._template(server, cells, world.legal_moves())  # noqa: SLF001 - before it is asked
        told = {
            "app_role": server.app_role,
            "owner": server.owner_dsn(NAMED),
            "app": server.app_dsn(NAMED),
            "templates": [[*key, name] for key, name in world._templates.items()],  # noqa: SLF001
            "failed": self._failed,
            "tests": len(self._items),
        }
        self._asker.tell(told)
        functions = Functions(str(self._folder / "src"))
        gc.collect()
        gc.freeze()
        sys.dont_write_bytecode = True

        def work(asked: dict[str, Any], writing: int) -> int:
            return self._asked(functions, asked, writing)

        serve(self._asker, work, Shared(told))
        return True

    def _first(self, session: pytest.Session, fixture: str) -> list[pytest.Item]:
        """A test that makes a fixture be there."""
        found = (one for one in session.items if fixture in getattr(one, "fixturenames", ()))
        return list(islice(found, 1))

    def _run(self, items: list[pytest.Item]) -> None:
        """Run tests; what only they needed is gone afterwards, what the session needs is not."""
        for place, item in enumerate(items):
            between = _Between(item.session)
            following = items[place + 1] if place + 1 < len(items) else between
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self._failed:
                session: Any = item.session
                session._setupstate.teardown_exact(between)  # noqa: SLF001 - as pytest itself does
                return

    def _asked(self, functions: Functions, asked: dict[str, Any], writing: int) -> int:
        fault = asked["fault"]
        if fault is not None:
            try:
                functions.swap(fault["file"], fault["sound"], fault["faulty"])
            except Unfit:
                return _UNFIT
        self._failed = ""
        try:
            self._run([self._items[name] for name in asked["tests"]])
        finally:
            os.write(writing, self._failed.encode())
        return _FAILED if self._failed else 0


class Cold:
    """The plugin that gives tests the server of the warm process."""

    def __init__(self, told: dict[str, Any]) -> None:
        self._shared, self._templates = Shared(told), told["templates"]
        self.failed = ""

    def pytest_configure(self) -> None:
        """Before tests are collected."""
        unhurried()

    @pytest.hookimpl(tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Shared | None:
        """The server is there already, and so are the databases to copy from."""
        if fixturedef.argname != "postgres":
            return None
        made: dict[tuple[str, int, int], str] = _world()._templates  # noqa: SLF001
        made.update({(dsn, cells, legal): name for dsn, cells, legal, name in self._templates})
        known: Any = fixturedef
        known.cached_result = (self._shared, known.cache_key(request), None)
        return self._shared

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take note of the first test that fails."""
        if report.failed and not self.failed:
            self.failed = report.nodeid


def _cold(asker: Asker, told: dict[str, Any], folder: Path) -> None:
    pytest.main([*PYTEST, "--collect-only", str(folder / "tools")])
    for name in ELSEWHERE:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    sys.dont_write_bytecode = True
    asker.tell({"failed": ""})

    def work(asked: dict[str, Any], writing: int) -> int:
        plugin = Cold(told)
        status = 70
        try:
            status = int(pytest.main([*PYTEST, "-x", *asked["tests"]], plugins=[plugin]))
        finally:
            os.write(writing, plugin.failed.encode())
        return _FAILED if status else 0

    serve(asker, work, Shared(told))


def main() -> None:
    """`warm FILES...`, or `cold` with what the warm one told."""
    asker = Asker(os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w"))
    os.dup2(2, 1)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    folder = Path.cwd()
    with asker.questions, asker.answers:
        if sys.argv[1] == "cold":
            _cold(asker, json.loads(sys.argv[2]), folder)
        else:
            pytest.main([*PYTEST, *sys.argv[2:]], plugins=[Warm(asker, folder)])


if __name__ == "__main__":
    main()
