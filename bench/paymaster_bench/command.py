"""The command: picks the rows, runs them on one server, shows and writes the report."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from paymaster.kernel.clock import WallClock, rfc3339
from paymaster.kernel.errors import Refusal
from paymaster.roles.process import web_loop
from paymaster.secrets.environment import PREFIX as SECRETS_PREFIX
from paymaster.settings.load import FILE_VARIABLE
from paymaster.settings.load import PREFIX as SETTINGS_PREFIX
from paymaster_bench.bench import FULL, QUICK, Bench, Size
from paymaster_bench.machine import describe, fdatasync_us, pinned
from paymaster_bench.report import Findings, Report
from paymaster_bench.rows.catalogue import FAMILIES, names
from paymaster_bench.server import open_server

NOTES = (
    """One run on one machine: repetitions differ by 10 to 20 %, by more when other work runs.
    Compare ratios, not figures of two machines.""",
    """Client and server share the cores named above; a server of its own would leave more to
    both.""",
    """The disk decides what fsync costs (`fdatasync_us`: while nothing else ran). A virtual disk
    that answers early makes one transaction per call look better than it is, and group commit
    less so.""",
    """The tables are minutes old, except in `growth`: no vacuum debt, no bloat, no replica, no
    backup running.""",
    """Amounts, accounts and arrivals are made up (Zipf, exponent 0.99); your traffic differs.""",
    """Throughput in a closed loop says nothing about waiting times under a load that does not
    wait; rows of p99 say which of the two they were measured with.""",
)
"""What the figures do not show."""


_WIDE = 140
"""Columns of a table that goes to a file or a pipe."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for; `-` as a path is standard output."""

    only: Sequence[str] = ()
    quick: bool = False
    json_path: str | None = None
    markdown_path: str | None = None
    cores: int = 2
    dsn: str | None = None
    size: Size | None = None


def main(options: Options) -> int:
    """Run; 0 when every check held.

    Raises Refusal `bench-row-unknown`, and `file-unwritable` before anything is measured.
    """
    unknown = sorted(set(options.only) - set(names()))
    if unknown:
        raise Refusal(
            "bench-row-unknown",
            f"There is no row {', '.join(unknown)}; there are {', '.join(names())}.",
        )
    for path in (options.json_path, options.markdown_path):
        _check_writable(path)
    try:
        with without_installation():
            report = _run(options)
    finally:
        gc.unfreeze()
    to_stdout = "-" in (options.json_path, options.markdown_path)
    console = Console(stderr=to_stdout)
    if not console.is_terminal:
        console = Console(stderr=to_stdout, width=_WIDE)
    console.print(report.table())
    for line in report.lines():
        console.print(line, markup=False, highlight=False)
    _write(options.json_path, report.json() + "\n")
    _write(options.markdown_path, report.markdown())
    return 0 if report.ok else 1


@contextmanager
def without_installation() -> Generator[None]:
    """No setting and no secret of an installation, for this process and all that it starts.

    Environment variables go before what a program asks for: without this, rows would run on the
    database and under the keys that the operator's shell names.
    """
    hidden = {name: os.environ[name] for name in os.environ if _names_installation(name)}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def _names_installation(variable: str) -> bool:
    upper = variable.upper()
    return upper.startswith((SETTINGS_PREFIX, SECRETS_PREFIX)) or upper == FILE_VARIABLE


def _run(options: Options) -> Report:
    progress = Console(stderr=True)
    with (
        pinned(options.cores) as cores,
        tempfile.TemporaryDirectory(prefix="paymaster-bench-") as folder,
        open_server(options.dsn) as server,
    ):
        size = options.size or (QUICK if options.quick else FULL)
        bench = Bench(server, size, lambda text: progress.print(f"[dim]{text}[/]"), Path(folder))
        disk = fdatasync_us(Path(folder))
        at = rfc3339(WallClock().now())
        findings: list[Findings] = []
        for family in FAMILIES:
            wanted = frozenset(family.rows) & frozenset(options.only or family.rows)
            if wanted:
                with asyncio.Runner(loop_factory=web_loop if family.web else None) as runner:
                    found = runner.run(family.run(bench, wanted))
                found.judge()
                findings.append(found)
        machine = describe(server.owner_dsn(), cores, server.kind, disk)
        notes = [" ".join(note.split()) for note in NOTES]
        return Report(machine, at, size.quick, findings, notes)


def _write(path: str | None, text: str) -> None:
    if path == "-":
        sys.stdout.write(text)
    elif path is not None:
        try:
            Path(path).write_text(text, encoding="utf-8")
        except OSError as error:
            raise _unwritable(path, error) from error


def _check_writable(path: str | None) -> None:
    """A report that cannot be written is said now, not after an hour; leaves no file behind."""
    if path is None or path == "-":
        return
    file = Path(path)
    try:
        new = not file.exists()
        with file.open("a"):
            pass
        if new:
            file.unlink()
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: str, error: OSError) -> Refusal:
    return Refusal("file-unwritable", f"{path!r} cannot be written: {error.strerror}.")
