"""Who calls, in which environment, under which trace id; and what a route may ask of a request."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, TypeVar, cast

from fastapi import Depends, Header, Request
from starlette.requests import HTTPConnection

from paymaster.api.cursors import Cursors
from paymaster.api.hot import Hot, Look, Seen
from paymaster.compose import Deps
from paymaster.db.cells import Environment
from paymaster.db.pool import CellDb
from paymaster.db.tx import Actor, CellRead, CellTx, ControlRead, ControlTx
from paymaster.kernel.errors import NotFound, Refusal, Unauthenticated
from paymaster.kernel.ids import Ref, parse_text_id, text_id
from paymaster.people import users
from paymaster.people.credentials import Credential
from paymaster.people.users import require_ref

T = TypeVar("T")

HEADERS = "paymaster.headers"
"""Under which the outermost middleware leaves what it has read of the headers in the scope."""


@dataclass(frozen=True, slots=True)
class Call:
    """One authenticated request. Every look-up goes through it, so none leaves the environment."""

    deps: Deps
    hot: Hot
    credential: Credential
    environment: Environment
    trace_id: str
    origin: str | None

    @property
    def actor(self) -> Actor:
        """The key, and the address it came from."""
        return Actor(self.credential.actor, self.origin)

    @property
    def treasury(self) -> CellDb:
        """The environment's treasury cell."""
        return self.deps.dbs.treasury(self.environment.id)

    @property
    def cells(self) -> list[CellDb]:
        """All cells of the environment."""
        dbs = self.deps.dbs
        return [dbs.cell(cell.number) for cell in dbs.cells(self.environment.id)]

    @property
    def cursors(self) -> Cursors:
        """Makes and reads page cursors."""
        return Cursors(self.deps.secrets.hmac)

    def cell(self, number: int) -> CellDb:
        """A cell of this environment. Raises NotFound for any other, whether it exists or not."""
        if all(cell.number != number for cell in self.deps.dbs.cells(self.environment.id)):
            raise NotFound("not-found", "There is nothing of this id.")
        return self.deps.dbs.cell(number)

    def ref(self, prefix: str, text: str) -> Ref:
        """A text id of this environment. Raises NotFound."""
        found = parse_text_id(prefix, text)
        self.cell(found.cell)
        return found

    def control_id(self, prefix: str, text: str) -> int:
        """The number of a row of the directory, whose text carries the treasury cell."""
        found = self.ref(prefix, text)
        if found.cell != self.treasury.number:
            raise NotFound("not-found", "There is nothing of this id.")
        return found.id

    def name(self, text: str) -> str:
        """The app's own id of something, out of a path. Raises NotFound when it can be none."""
        return _storable(text)

    def control_text(self, prefix: str, number: int) -> str:
        """The text id of a row of the directory."""
        return text_id(prefix, self.treasury.number, number)

    async def user(self, name: str) -> Ref:
        """A user by our id (`us_...`) or by the app's own. Raises NotFound `user-unknown`."""
        found = await users.find(self.deps.dbs, self.environment.id, _storable(name))
        if found is None and name.startswith("us_"):
            found = self.ref("us", name)
            number = found.id
            if number not in await self.cell(found.cell).read(
                lambda tx: users.statuses(tx, [number])
            ):
                found = None
        return require_ref(found)

    async def write(self, cell: CellDb, work: Callable[[CellTx], Awaitable[T]]) -> T:
        """A transaction in a cell, by this caller."""
        return await cell.run(self.actor, self.trace_id, work)

    async def control(self, work: Callable[[ControlTx], Awaitable[T]]) -> T:
        """A transaction in the directory, by this caller."""
        return await self.deps.dbs.control.run(self.actor, self.trace_id, work)

    async def look(self, work: Callable[[ControlRead], Awaitable[T]]) -> T:
        """A snapshot of the directory."""
        return await self.deps.dbs.control.read(work)

    async def everywhere(self, work: Callable[[CellRead], Awaitable[T]]) -> list[T]:
        """The same read in every cell of the environment, one after the other."""
        return [await cell.read(work) for cell in self.cells]


def _storable(name: str) -> str:
    """A name to look up. Raises NotFound for one that can be nobody's."""
    if not 1 <= len(name) <= 128 or not name.isprintable():
        raise NotFound("not-found", "There is nothing of this name.")
    return name


def deps_of(request: HTTPConnection) -> Deps:
    """The application's parts."""
    return cast("Deps", request.app.state.deps)


def hot_of(request: HTTPConnection) -> Hot:
    """What merges the reads and writes of this process."""
    return cast("Hot", request.app.state.hot)


def trace_of(request: HTTPConnection) -> str:
    """The trace id that the outermost middleware gave the request."""
    return cast("str", request.state.trace_id)


def headers_of(request: HTTPConnection) -> Mapping[bytes, bytes]:
    """The headers by name, in lower case; `request.headers` reads all of them for each name."""
    known: dict[bytes, bytes] | None = request.scope.get(HEADERS)
    return dict(request.scope["headers"]) if known is None else known


async def authenticate(request: Request) -> Call:
    """Read and verify the key of a request. Raises Unauthenticated `unauthenticated`.

    Nothing is cached: a key that is revoked is refused by the next request.
    """
    key = key_of(request)
    return admitted(request, await hot_of(request).look(Look(key)))


def key_of(request: HTTPConnection) -> str:
    """The API key that came with a request. Raises Unauthenticated `unauthenticated`."""
    given = headers_of(request).get(b"authorization", b"").decode("latin-1")
    scheme, _, key = given.partition(" ")
    if scheme.lower() != "bearer" or not key:
        raise Unauthenticated("unauthenticated", "Send `Authorization: Bearer <API key>`.")
    return key.strip()


def admitted(request: HTTPConnection, seen: Seen) -> Call:
    """The call of a request whose key was verified."""
    deps = deps_of(request)
    request.state.actor = seen.credential.actor
    return Call(
        deps,
        hot_of(request),
        seen.credential,
        deps.dbs.environment(seen.credential.environment_id),
        trace_of(request),
        request.client.host if request.client else None,
    )


def scope(name: str) -> Callable[[Request], Awaitable[Call]]:
    """The dependency of a route: a valid key that has this scope. `Door` checks it."""

    async def check(request: Request) -> Call:
        return cast("Call", request.state.call)

    check.__paymaster_scope__ = name  # type: ignore[attr-defined]
    return check


Users = Annotated[Call, Depends(scope("users"))]
Reads = Annotated[Call, Depends(scope("read"))]
Campaigns = Annotated[Call, Depends(scope("campaigns"))]
Events = Annotated[Call, Depends(scope("events:write"))]
Withdrawals = Annotated[Call, Depends(scope("withdrawals"))]
Operates = Annotated[Call, Depends(scope("operate"))]


_VISIBLE = re.compile(r"[!-~]{1,128}\Z", re.ASCII)


def usable_key(text: str) -> bool:
    """Whether a text can be a caller's key."""
    return _VISIBLE.match(text) is not None


async def required_key(
    idempotency_key: Annotated[
        str | None,
        Header(description="1 to 128 visible ASCII characters; the same for every retry."),
    ] = None,
) -> str:
    """The caller's key. Raises Refusal `idempotency-key-missing` or `idempotency-key-malformed`."""
    if idempotency_key is None:
        raise Refusal("idempotency-key-missing", "Send an Idempotency-Key header.")
    if not usable_key(idempotency_key):
        raise Refusal("idempotency-key-malformed", "Use 1 to 128 visible ASCII characters.")
    return idempotency_key


Key = Annotated[str, Depends(required_key)]
