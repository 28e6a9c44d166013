"""A store over a network as a copy in memory, kept fresh in the background.

Sealing asks for keys inside transactions, where no network call is allowed; so `get` never leaves
this process. A version that is new, or gone, in the store is so here after the next refresh,
without a restart. While the store does not answer, the last good copy serves for a bounded time:
beyond it a key that was withdrawn might still be in use, and `get` refuses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from paymaster.kernel.clock import monotonic_seconds
from paymaster.kernel.errors import Broken, Busy, PaymasterError
from paymaster.observe import Metrics, get_logger
from paymaster.secrets.port import SecretVersion, checked_name

log = get_logger("paymaster.secrets")
_LOOK_SECONDS = 0.5
_LEAST_SECONDS_BETWEEN = 2.0


class EntryRefused(Broken):
    """The store refused one secret, not us: `secret-store-refused`."""


class Source(Protocol):
    """A store over a network, as it is asked by a `WarmStore`."""

    kind: str

    async def names(self) -> Sequence[str] | None:
        """The names it has; None when it does not let us list them.

        Raises Busy `secret-store-down`, Broken `secret-store-refused`.
        """
        ...

    async def versions(
        self, name: str, known: Mapping[str, SecretVersion]
    ) -> Sequence[SecretVersion]:
        """All versions in use, newest first; empty when the name or all of its versions are gone.

        `known` are those of the last time, by id: the value of a version never changes, so it is
        not fetched again. Raises what `names` raises, Broken `secret-malformed`, EntryRefused when
        the store knows us and keeps this one from us.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


@dataclass(frozen=True, slots=True)
class Kept:
    """How a copy is kept: refreshed so often, used for so long without an answer (seconds)."""

    refresh_seconds: float
    stale_seconds: float


class WarmStore:
    """A `SecretStore` over a `Source`. Before the first `refresh` it has nothing and says so."""

    def __init__(
        self,
        source: Source,
        kept: Kept,
        *,
        names: Iterable[str] = (),
        seconds: Callable[[], float] = monotonic_seconds,
    ) -> None:
        self._source = source
        self._kept = kept
        self._seconds = seconds
        self._needed = frozenset(names)
        self._wanted = set(names)
        self._copy: dict[str, Sequence[SecretVersion] | PaymasterError] = {}
        self._fresh_at: float | None = None
        self._asked = False

    @property
    def kind(self) -> str:
        """Which store it is."""
        return self._source.kind

    def age_seconds(self) -> float:
        """How long ago the store answered; infinite when it never did."""
        return float("inf") if self._fresh_at is None else self._seconds() - self._fresh_at

    def get(self, name: str) -> Sequence[SecretVersion]:
        """See SecretStore. A name asked for the first time is fetched with the next refresh."""
        checked_name(name)
        if self.age_seconds() > self._kept.stale_seconds:
            raise Busy(
                "secret-store-down",
                f"The secret store {self.kind} has not answered for longer than"
                " `secrets.stale_seconds`; its keys are not used any more.",
                retry_after_seconds=10,
            )
        if name not in self._wanted:
            self._wanted.add(name)
            self._asked = name not in self._copy
        found = self._copy.get(name, ())
        if isinstance(found, PaymasterError):
            raise found
        return found

    async def refresh(self) -> None:
        """Make the copy anew. Raises Busy `secret-store-down`, Broken `secret-store-refused`.

        A value that cannot be used is no fault of the others, nor is one that was never ours to
        read: a listing shows them too. Who asks for it is told.
        """
        self._asked = False
        listed = await self._source.names()
        fresh: dict[str, Sequence[SecretVersion] | PaymasterError] = {}
        for name in sorted(self._wanted if listed is None else listed):
            before = self._copy.get(name, ())
            known = {} if isinstance(before, PaymasterError) else {v.id: v for v in before}
            try:
                fresh[name] = await self._source.versions(name, known)
            except EntryRefused as error:
                if known or name in self._needed:
                    raise
                fresh[name] = error
            except PaymasterError as error:
                if error.slug != "secret-malformed":
                    raise
                fresh[name] = error
        self._tell_changes(fresh)
        self._copy, self._fresh_at = fresh, self._seconds()

    def _tell_changes(self, fresh: Mapping[str, Sequence[SecretVersion] | PaymasterError]) -> None:
        """Ids only. Nothing at the start: then everything is new."""
        if self._fresh_at is None:
            return
        for name in sorted(fresh.keys() | self._copy.keys()):
            before, after = _ids(self._copy.get(name, ())), _ids(fresh.get(name, ()))
            if before != after:
                log.info(
                    "secret_changed", store=self.kind, secret_name=name, versions=",".join(after)
                )

    def show(self, metrics: Metrics) -> None:
        """Put it on `/metrics`, once it is warm."""
        metrics.secret_store_age_seconds.labels(self.kind).set_function(self.age_seconds)
        metrics.secret_store_up.labels(self.kind).set(1)

    async def keep(self, metrics: Metrics) -> None:
        """Refresh until cancelled."""
        kind, tried_at = self.kind, self._seconds()
        while True:
            await asyncio.sleep(min(_LOOK_SECONDS, self._kept.refresh_seconds))
            waited = self._seconds() - tried_at
            soon = self._asked and waited >= _LEAST_SECONDS_BETWEEN
            if waited < self._kept.refresh_seconds and not soon:
                continue
            await tried(self.refresh, kind, metrics, self.age_seconds)
            tried_at = self._seconds()

    async def close(self) -> None:
        """Let go of connections."""
        await self._source.close()


async def tried(
    refresh: Callable[[], Awaitable[None]],
    kind: str,
    metrics: Metrics,
    age_seconds: Callable[[], float],
) -> None:
    """One refresh in the background: a store that is down is loud, and stops nothing here."""
    try:
        await refresh()
        metrics.secret_store_up.labels(kind).set(1)
    except PaymasterError as error:
        metrics.secret_store_up.labels(kind).set(0)
        log.error(  # noqa: TRY400 - the slug says it; a traceback may hold what was sent
            "secret_store_down",
            store=kind,
            slug=error.slug,
            detail=error.detail,
            age_seconds=round(age_seconds(), 1),
        )
    except Exception as error:  # noqa: BLE001 - it must outlive any fault of one refresh
        metrics.secret_store_up.labels(kind).set(0)
        log.error("secret_store_failed", store=kind, error=type(error).__name__)  # noqa: TRY400


def _ids(found: Sequence[SecretVersion] | PaymasterError) -> list[str]:
    return ["unusable"] if isinstance(found, PaymasterError) else [v.id for v in found]
