"""What happens to one user's money, as it happens: server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Final, cast

from fastapi import APIRouter, Header, Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from paymaster.api.context import Call, OwnReads, authenticate, bearer_of, deps_of
from paymaster.api.cursors import MAX_CURSOR_CHARACTERS, Cursors
from paymaster.api.door import Door
from paymaster.api.explain import own_user
from paymaster.api.users import UserPath
from paymaster.kernel.clock import monotonic_seconds
from paymaster.kernel.errors import Busy, PaymasterError
from paymaster.kernel.ids import Ref
from paymaster.messages.streams import END, Hub, MakeCursor, Stream, frame
from paymaster.people import oidc_token

router = APIRouter(route_class=Door, tags=["money"])
ROUTE: Final = "stream"
RETRY_MILLISECONDS: Final = 2000
_OURS: Final = frozenset({"reconnect", "token-expired", "restart", "slow", "fault"})
"""Why a stream ends; all else is the code of a refusal."""

LastEvent = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID",
        max_length=MAX_CURSOR_CHARACTERS,
        description="The `id` of the last event that was read: what came after it follows.",
    ),
]
_EVENT: Final[dict[str, Any]] = {
    "type": "object",
    "description": "One event; `data` is JSON.",
    "required": ["event", "data"],
    "properties": {
        "id": {"type": "string", "description": "To be sent as `Last-Event-ID`."},
        "event": {"type": "string", "examples": ["balances", "withdrawal.paid", "reset", "end"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}
_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events, until the client goes, or `end` says why to come again.",
        "content": {"text/event-stream": {"schema": _EVENT}},
    }
}


def cursor_maker(cursors: Cursors) -> MakeCursor:
    """Makes the ids of events: opaque, signed, and good for the one user only."""
    return lambda user, seq: cursors.make(ROUTE, _bound(user), (seq,))


def _bound(user: Ref) -> dict[str, str | int | None]:
    return {"cell": user.cell, "user": user.id}


@router.get("/v1/users/{user}/stream", response_class=StreamingResponse, responses=_ANSWER)
async def stream_of_user(
    call: OwnReads, request: Request, user: UserPath, last: LastEvent = None
) -> StreamingResponse:
    """Events of one user in the order in which they were committed, as `text/event-stream`.

    It begins with `balances`, which comes again after every change. With `Last-Event-ID` it goes on
    after that event, without loss and without repeating; `reset` says that it was too long ago, and
    that everything is to be loaded anew.
    """
    return _streamed(call, request, await call.user(user), last)


@router.get("/v1/me/stream", response_class=StreamingResponse, responses=_ANSWER)
async def stream_of_me(
    call: OwnReads, request: Request, last: LastEvent = None
) -> StreamingResponse:
    """The same for the earner who calls."""
    return _streamed(call, request, own_user(call), last)


def _streamed(call: Call, request: Request, user: Ref, last: str | None) -> StreamingResponse:
    hub = cast("Hub", request.app.state.streams)
    position: int | None = None
    if last:
        position = cast("int", call.cursors.read(ROUTE, _bound(user), last)[0])
    token_seconds = _token_seconds(request)
    stream = hub.join(user, position)
    return _Events(_Body(hub, stream, request, token_seconds))


class _Events(StreamingResponse):
    """The answer; the stream is left however it ends, also when it never began."""

    def __init__(self, body: _Body) -> None:
        super().__init__(
            body.frames(),
            media_type="text/event-stream",
            headers={"X-Accel-Buffering": "no", "Cache-Control": "no-store"},
        )
        self._body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._body.leave()


def _token_seconds(request: Request) -> float | None:
    """How long the caller's token is good for; None for a key or a session."""
    if "authorization" not in request.headers:
        return None
    text = bearer_of(request)
    if not oidc_token.looks_like(text):
        return None
    expires = oidc_token.read(text).claims.get("exp")
    now = deps_of(request).clock.now().timestamp()
    return float(expires) - now if isinstance(expires, int | float) else None


class _Body:
    """The bytes of one stream."""

    def __init__(
        self, hub: Hub, stream: Stream, request: Request, token_seconds: float | None
    ) -> None:
        self._hub = hub
        self._stream = stream
        self._request = request
        now, settings = monotonic_seconds(), hub.settings
        self._ends = now + settings.life_seconds
        self._expires = None if token_seconds is None else now + token_seconds
        self._recheck = now + settings.recheck_seconds
        self._why = "gone"

    async def frames(self) -> AsyncIterator[bytes]:
        """Events as they come; a comment after silence; why it ended."""
        stream, settings = self._stream, self._hub.settings
        yield f"retry: {RETRY_MILLISECONDS}\n\n".encode()
        while True:
            told = await stream.take(self._pause(settings.heartbeat_seconds))
            # Of now: while `_over` asks, more may come, which is sent after the heartbeat.
            position = stream.position
            reason = await self._over()
            if told or reason is None:
                yield told or self._heartbeat(position)
            if reason is not None:
                self._why = reason if reason in _OURS else "refused"
                yield frame(END, {"reason": reason})
                return

    def leave(self) -> None:
        """It has ended, by us or by the client."""
        self._hub.leave(self._stream, self._stream.ended or self._why)

    def _pause(self, heartbeat: float) -> float:
        moments = [self._ends, self._recheck]
        if self._expires is not None:
            moments.append(self._expires)
        return min(heartbeat, min(moments) - monotonic_seconds())

    def _heartbeat(self, position: int | None) -> bytes:
        """A comment, with how far the client has read though nothing was there for it."""
        if position is None:
            return b": \n\n"
        made = cursor_maker(Cursors(deps_of(self._request).secrets.hmac))
        return f": \nid: {made(self._stream.user, position)}\n\n".encode()

    async def _over(self) -> str | None:
        """Why it ends now, if it does."""
        now = monotonic_seconds()
        if self._stream.ended is not None:
            return self._stream.ended
        if self._expires is not None and now >= self._expires:
            return "token-expired"
        if now >= self._ends:
            return "reconnect"
        if now >= self._recheck:
            self._recheck = now + self._hub.settings.recheck_seconds
            try:
                await authenticate(self._request)
            except Busy:
                return None
            except PaymasterError as error:
                return error.slug
        return None
