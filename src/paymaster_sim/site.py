"""What simulated processes are built from, and how one is opened and closed."""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from paymaster.compose import Deps
from paymaster.db.cells import Databases
from paymaster.kernel.clock import Clock
from paymaster.observe import Metrics
from paymaster.rails.base import Rail
from paymaster.rails.deps import RailDeps
from paymaster.rails.http import new_client
from paymaster.rails.registry import Registry
from paymaster.secrets.generated import LOCAL_KEYS
from paymaster.secrets.opening import Secrets, open_secrets
from paymaster.settings import Settings
from paymaster.settings.load import PREFIX
from paymaster_sim.merchants import Safe
from paymaster_sim.outside import Wire

LEASE_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Site:
    """What all runs of this machine share: settings, keys made for the occasion, the wire."""

    settings: Settings
    secrets: Secrets
    metrics: Metrics
    wire: Wire
    http: httpx.AsyncClient
    safe: Safe

    def deps(self, dbs: Databases, clock: Clock, secret: Callable[[str], str]) -> Deps:
        """What a process works with."""
        rail_deps = RailDeps(http=self.http, secret=secret, clock=clock)
        registry = Registry()
        rails: Mapping[str, Rail] = {
            name: registry.build(name, rail_deps) for name in registry.names()
        }
        return Deps(self.settings, clock, dbs, self.secrets, rails, self.http, self.metrics)


def make(folder: Path) -> Site:
    """Settings as they come, but for what would wait in real time; fresh keys."""
    given: dict[str, Any] = {
        "database": {"data_dir": folder},
        "roles": {"lease_seconds": LEASE_SECONDS, "seal_interval_seconds": 0.05, "seal_share": 1.0},
        "limits": {"destination_cooling_seconds": 0},
        "secrets": {"stores": ["environment"]},
    }
    with _unset():
        settings = Settings(**given)
    keys = {
        f"PAYMASTER_SECRET__{name.upper().replace('-', '_')}": "base64:"
        + base64.b64encode(secrets.token_bytes(32)).decode()
        for name in LOCAL_KEYS
    }
    wire = Wire()
    safe = Safe(folder / "providers")
    return Site(settings, open_secrets(settings, keys), Metrics(), wire, new_client(wire), safe)


@contextmanager
def _unset() -> Generator[None]:
    """Settings of an installation that happen to be in the environment do not count here."""
    ours = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
    for name in ours:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(ours)
