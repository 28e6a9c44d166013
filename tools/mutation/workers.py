"""A copy of the project to put faults into, and the two processes that test it there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

COPIED = ("src", "tests", "docs", "tools", "bench", "deploy", "pyproject.toml", "README.md")
_SHARED = "PAYMASTER_DATA"


class Answer(NamedTuple):
    """What a run of tests came to (passed, failed, slow, unfit), and which test failed."""

    outcome: str
    test: str
    seconds: float


class Limits(NamedTuple):
    """How long tests may take, on the clock and in the processor."""

    wall: float
    cpu: float


class Worker:
    """One copy; used by one thread at a time."""

    def __init__(self, project: Path, folder: Path) -> None:
        self._project, self.folder = project, folder
        self._changed = 1
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._log: IO[str] | None = None
        folder.mkdir(parents=True)
        for name in COPIED:
            source = project / name
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "node_modules")
                shutil.copytree(source, folder / name, ignore=ignored)
            elif source.exists():
                shutil.copy2(source, folder / name)

    def start(self, files: list[str]) -> None:
        """Import and collect; takes as long as a run of the tests takes to begin.

        Raises:
            RuntimeError: a test does not pass without a fault.
        """
        self._log = (self.folder.parent / "log").open("w")
        told = self._started("warm", files)
        self._started("cold", [json.dumps(told)])

    def _started(self, kind: str, arguments: list[str]) -> dict[str, Any]:
        paths = (self.folder / name for name in ("src", "bench", "."))
        self._processes[kind] = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tools.mutation.warm", kind, *arguments],
            cwd=self.folder,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(str(path.resolve()) for path in paths),
                "PYTHONHASHSEED": "0",
                _SHARED: os.environ.get(_SHARED, str(self._project.parent / "shared" / "data")),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,
        )
        told = self._line(kind)
        if told["failed"]:
            raise RuntimeError(f"{told['failed']} does not pass without a fault")
        return told

    def _line(self, kind: str) -> dict[str, Any]:
        answers = self._processes[kind].stdout
        line = answers.readline() if answers is not None else ""
        if not line:
            raise RuntimeError(f"the {kind} process ended: see {self.folder.parent / 'log'}")
        told: dict[str, Any] = json.loads(line)
        return told

    def put(self, module: str, text: str) -> None:
        """Another text into a file, of another time: what was compiled before is not used."""
        file = self.folder / module
        self._changed += 1
        file.write_text(text, encoding="utf-8")
        os.utime(file, (self._changed, self._changed))

    def restore(self, module: str) -> None:
        """The file as it is in the project."""
        shutil.copy2(self._project / module, self.folder / module)

    def ask(
        self,
        kind: Literal["warm", "cold"],
        tests: list[str],
        limits: Limits,
        fault: dict[str, str] | None = None,
    ) -> Answer:
        """Run tests until one fails."""
        asked = {"tests": tests, "fault": fault, "wall": limits.wall, "cpu": limits.cpu}
        questions = self._processes[kind].stdin
        if questions is None:
            raise RuntimeError("the process was not started to be asked")
        print(json.dumps(asked), file=questions, flush=True)
        told = self._line(kind)
        return Answer(told["outcome"], told["test"], told["seconds"])

    def stop(self) -> None:
        """End both processes; the server ends with the warm one."""
        for process in self._processes.values():
            if process.stdin is not None:
                process.stdin.close()
        for process in self._processes.values():
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
        if self._log is not None:
            self._log.close()
