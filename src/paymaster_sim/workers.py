"""Several processes side by side, each with a server of its own, and some seeds at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from paymaster.kernel.errors import Broken

SEEDS_AT_ONCE = 125
"""After so many a process ends and a fresh one goes on."""


def parts(first: int, count: int, size: int) -> list[tuple[int, int]]:
    """Ranges of at most `size` seeds: `(first, count)`."""
    return [
        (start, min(size, first + count - start)) for start in range(first, first + count, size)
    ]


def many(
    first: int, count: int, workers: int, arguments: Sequence[str]
) -> Iterator[dict[str, object]]:
    """The JSON of each part, as it comes. Raises Broken `simulation-failed`."""
    size = max(1, min(SEEDS_AT_ONCE, -(-count // workers)))
    with ThreadPoolExecutor(workers) as pool:
        running = [
            pool.submit(_run, start, length, arguments)
            for start, length in parts(first, count, size)
        ]
        try:
            for done in as_completed(running):
                yield done.result()
        finally:
            for one in running:
                one.cancel()


def _run(first: int, count: int, arguments: Sequence[str]) -> dict[str, object]:
    command = [sys.executable, "-m", "paymaster", "sim", f"--seed={first}", f"--seeds={count}"]
    ended = subprocess.run(  # noqa: S603 - ourselves
        [*command, *arguments], stdout=subprocess.PIPE, text=True, check=False
    )
    lines = ended.stdout.splitlines()
    if ended.returncode not in {0, 1} or not lines:
        raise Broken("simulation-failed", f"Seeds {first} and on ended with {ended.returncode}.")
    told: dict[str, object] = json.loads(lines[-1])
    return told
