"""Who calls, in which environment, under which trace id; and what a route may ask of a request."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, TypeVar, cast

from fastapi import Depends, Header, Request
from starlette.requests import HTTPConnection

from paymaster.api.callers import Callers
from paymaster.api.cursors import Cursors
from paymaster.api.hot import Hot, Look, Seen
from paymaster.api.staff_session import by_cookie
from paymaster.api.staff_trace import reason_of
from paymaster.compose import Deps
from paymaster.db import environment_clock
from paymaster.db.cells import Environment
from paymaster.db.pool import CellDb
from paymaster.db.tx import Actor, CellRead, CellTx, ControlRead, ControlTx
from paymaster.kernel.clock import Clock
from paymaster.kernel.errors import NotFound, Refusal, Unauthenticated
from paymaster.kernel.ids import Ref, parse_text_id, text_id
from paymaster.people import oidc_token, users
from paymaster.people.principal import Principal
from paymaster.people.users import require_ref

T = TypeVar("T")

HEADERS = "paymaster.headers"
"""Under which the outermost middleware leaves what it has read of the headers in the scope."""


@dataclass(frozen=True, slots=True)
class Call:
    """One authenticated request. Every look-up goes through it, so none leaves the environment."""

    deps: Deps
    hot: Hot
    principal: Principal
    environment: Environment
    trace_id: str
    origin: str | None
    reason: str | None = None

    @property
    def actor(self) -> Actor:
        """The caller, the address it came from, and why, where the route takes no reason."""
        return Actor(self.principal.actor, self.origin, self.environment.id, self.reason)

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
    def clock(self) -> Clock:
        """The environment's clock."""
        return self.deps.dbs.clock_of(self.environment.id)

    async def now(self) -> datetime:
        """The time in this environment, also where another process put its clock forward."""
        if self.environment.mode == "test":
            await self.treasury.read(environment_clock.ahead)
        return self.clock.now()

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

    @property
    def mine(self) -> int | None:
        """The id of the earner who calls, in his cell; None for everybody else."""
        user = self.principal.user
        return None if user is None else user.id

    async def user(self, name: str) -> Ref:
        """A user by our id (`us_...`) or by the app's own. Raises NotFound `user-unknown`.

        An earner finds himself only, also as `me`; all others are unknown to him, whether they
        exist or not.
        """
        own = self.principal.user
        if own is not None:
            if name in ("me", text_id("us", own.cell, own.id)):
                return own
            found = await users.find(self.deps.dbs, self.environment.id, _storable(name))
            return require_ref(found if found == own else None)
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
    """Find out who sent a request. Raises Unauthenticated `unauthenticated`, and what looks raise.

    Nothing is cached: a key that is revoked is refused by the next request.
    """
    if b"authorization" not in headers_of(request):
        person = await by_cookie(request)
        if person is not None:
            return call_of(request, person)
    text = bearer_of(request)
    if not oidc_token.looks_like(text):
        return admitted(request, await hot_of(request).look(Look(text)))
    callers = cast("Callers", request.app.state.callers)
    principal = await callers.of_token(text, origin_of(request), trace_of(request))
    return call_of(request, principal)


def bearer_of(request: HTTPConnection) -> str:
    """What came in `Authorization: Bearer`. Raises Unauthenticated `unauthenticated`."""
    given = headers_of(request).get(b"authorization", b"").decode("latin-1")
    scheme, _, text = given.partition(" ")
    if scheme.lower() != "bearer" or not text.strip():
        raise Unauthenticated("unauthenticated", "Send `Authorization: Bearer <API key or token>`.")
    return text.strip()


def key_of(request: HTTPConnection) -> str:
    """The API key that came with a request. Raises Unauthenticated `unauthenticated`."""
    text = bearer_of(request)
    if oidc_token.looks_like(text):
        raise Unauthenticated("unauthenticated", "This is a token, not an API key.")
    return text


def origin_of(request: HTTPConnection) -> str | None:
    """The address that a request came from."""
    return request.client.host if request.client else None


def admitted(request: Request, seen: Seen) -> Call:
    """The call of a request whose key was verified."""
    return call_of(request, seen.principal)


def call_of(request: Request, principal: Principal) -> Call:
    """The call of a request whose caller is known."""
    deps = deps_of(request)
    request.state.actor = principal.actor
    return Call(
        deps,
        hot_of(request),
        principal,
        deps.dbs.environment(principal.environment_id),
        trace_of(request),
        origin_of(request),
        reason_of(request) if principal.kind == "staff" else None,
    )


def scope(name: str, *, own: bool = False) -> Callable[[Request], Awaitable[Call]]:
    """The dependency of a route: a caller who has this scope. `Door` checks it.

    `own` admits earners as well, to what is theirs: the route finds out by `Call.user` or
    `Call.mine`.
    """

    async def check(request: Request) -> Call:
        return cast("Call", request.state.call)

    check.__paymaster_scope__ = name  # type: ignore[attr-defined]
    check.__paymaster_own__ = own  # type: ignore[attr-defined]
    return check


Users = Annotated[Call, Depends(scope("users"))]
Reads = Annotated[Call, Depends(scope("read"))]
Campaigns = Annotated[Call, Depends(scope("campaigns"))]
Events = Annotated[Call, Depends(scope("events:write"))]
Withdrawals = Annotated[Call, Depends(scope("withdrawals"))]
Operates = Annotated[Call, Depends(scope("operate"))]
Risk = Annotated[Call, Depends(scope("risk"))]
Holds = Annotated[Call, Depends(scope("holds:read"))]
Staff = Annotated[Call, Depends(scope("staff"))]
OwnUsers = Annotated[Call, Depends(scope("users", own=True))]
OwnReads = Annotated[Call, Depends(scope("read", own=True))]
OwnEvents = Annotated[Call, Depends(scope("events:write", own=True))]
OwnWithdrawals = Annotated[Call, Depends(scope("withdrawals", own=True))]


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
