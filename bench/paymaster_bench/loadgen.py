"""Compiles and runs the load generator; without a C compiler there is none."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from paymaster.kernel.errors import Broken
from paymaster_bench.measure import now_seconds

COMPILERS = ("cc", "gcc", "clang")


@dataclass(frozen=True, slots=True)
class Aim:
    """Where requests go, as whom, with which bodies (a file, one a line)."""

    port: int
    path: str
    token: str
    bodies: Path
    host: str = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Shot:
    """What came back. Times in milliseconds, from when each request was due."""

    sent: int
    answered: int
    broken: int
    seconds: float
    p50_ms: float
    p99_ms: float
    statuses: dict[int, int]
    samples: list[tuple[int, int, str]]
    """Request number, status and body of every 64th answer."""

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answered / self.seconds if self.seconds else 0.0


def compile_into(folder: Path) -> Path | None:
    """The program; None where there is no compiler, or no epoll (it is Linux's)."""
    compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        return None
    source = resources.files("paymaster_bench").joinpath("loadgen.c")
    program = folder / "loadgen"
    with resources.as_file(source) as file:
        done = subprocess.run(
            [compiler, "-O2", "-o", str(program), str(file)],
            capture_output=True,
            text=True,
            check=False,
        )
    return program if done.returncode == 0 else None


async def shoot(
    program: Path | None,
    aim: Aim,
    *,
    connections: int,
    seconds: float,
    rate: float,
    run: int,
    first: int,
) -> Shot:
    """Send for so long: as fast as answers come (rate 0), or so many a second.

    Keys of different runs differ; bodies are taken from line `first` on.
    """
    if program is None:
        raise Broken("bench-loadgen", "There is no load generator.")
    samples = program.with_name("samples.txt")
    process = await asyncio.create_subprocess_exec(
        str(program), aim.host, str(aim.port), str(connections), str(seconds), str(rate),
        aim.path, aim.token, f"run{run}", str(first), str(aim.bodies), str(samples),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    if process.returncode != 0:
        raise Broken("bench-loadgen", f"The load generator ended with {process.returncode}.")
    told = json.loads(out)
    return Shot(
        told["sent"],
        told["answered"],
        told["broken"],
        told["seconds"],
        told["p50_us"] / 1000,
        told["p99_us"] / 1000,
        {int(status): count for status, count in told["statuses"].items()},
        [_sample(line) for line in samples.read_text(encoding="utf-8").splitlines()],
    )


async def shoot_in_python(
    _program: Path | None,
    aim: Aim,
    *,
    connections: int,
    seconds: float,
    rate: float,
    run: int,
    first: int,
) -> Shot:
    """The closed loop where no generator can be compiled: throughput only, no quantiles.

    The client takes a good part of the cores, so compare nothing but two figures got this way.
    """
    if rate:
        raise Broken("bench-loadgen", "Arrivals on a schedule need the load generator.")
    bodies = aim.bodies.read_bytes().splitlines()
    numbers, statuses = itertools.count(first), Counter[int]()
    samples: list[tuple[int, int, str]] = []
    begun = now_seconds()

    async def caller() -> None:
        reader, writer = await asyncio.open_connection(aim.host, aim.port)
        while now_seconds() < begun + seconds:
            number = next(numbers)
            writer.write(_request(aim, f"run{run}-{number}", bodies[number % len(bodies)]))
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = int(head.partition("content-length:")[2].partition("\r")[0])
            body = await reader.readexactly(length)
            statuses[int(head.split(" ", 2)[1])] += 1
            if number % 64 == 0:
                samples.append((number, int(head.split(" ", 2)[1]), body.decode()))
        writer.close()

    await asyncio.gather(*(caller() for _ in range(connections)))
    done = sum(statuses.values())
    took = now_seconds() - begun
    return Shot(done, done, 0, took, 0.0, 0.0, dict(statuses), samples)


def _request(aim: Aim, key: str, body: bytes) -> bytes:
    head = (
        f"POST {aim.path} HTTP/1.1\r\nHost: {aim.host}\r\nAuthorization: Bearer {aim.token}\r\n"
        f"Content-Type: application/json\r\nIdempotency-Key: {key}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _sample(line: str) -> tuple[int, int, str]:
    number, status, body = line.split(" ", 2)
    return int(number), int(status), body
