"""OAuth: the page on which a user says yes, codes that work once, tokens that run out.

The page is served to browsers; with `person` in its address that person agrees at once, which is
how a test says yes. Faults come with status 200 and an `errcode`, as the provider has them.
"""

from __future__ import annotations

import hmac
import json
from html import escape
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode, urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from paymaster_sandbox.chassis import journal
from paymaster_sandbox.chassis.clock import SECOND
from paymaster_sandbox.wechat import parties
from paymaster_sandbox.wechat.transfers import DAY

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from paymaster_sandbox.chassis.base import Chassis
    from paymaster_sandbox.chassis.store import Row, Tx
    from paymaster_sandbox.wechat.parties import User

SCHEMA = """
CREATE TABLE IF NOT EXISTS wechat_code (
    code TEXT PRIMARY KEY, appid TEXT NOT NULL, openid TEXT NOT NULL, scope TEXT NOT NULL,
    made INTEGER NOT NULL, used INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS wechat_token (
    refresh TEXT PRIMARY KEY, access TEXT NOT NULL UNIQUE, appid TEXT NOT NULL,
    openid TEXT NOT NULL, scope TEXT NOT NULL, made INTEGER NOT NULL, until INTEGER NOT NULL,
    revoked INTEGER NOT NULL
) WITHOUT ROWID;
"""

_SCOPES: Final = ("snsapi_base", "snsapi_userinfo", "snsapi_login")
_SCHEMES: Final = ("http", "https")
_CODE_LASTS: Final = 300 * SECOND
_ACCESS_LASTS: Final = 7200 * SECOND
_REFRESH_LASTS: Final = 30 * DAY


class OAuthError(Exception):
    """A refusal with an errcode."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Linking:
    """The pages and the calls."""

    def __init__(self, chassis: Chassis) -> None:
        self._chassis = chassis

    def routes(self) -> list[Route]:
        """The paths."""

        def call(path: str, handler: Callable[[Tx, Request], dict[str, object]]) -> Route:
            return Route(path, self._answering(path, handler), methods=["GET"])

        return [
            Route("/connect/oauth2/authorize", self._authorize, methods=["GET"]),
            Route("/connect/qrconnect", self._authorize, methods=["GET"]),
            call("/sns/oauth2/access_token", self._exchange),
            call("/sns/oauth2/refresh_token", self._refresh),
            call("/sns/auth", self._check),
            call("/sns/userinfo", self._profile),
        ]

    def revoke(self, tx: Tx, person: str) -> int:
        """The person changes the password: every token of theirs is void. How many were."""
        return tx.run(
            "UPDATE wechat_token SET revoked = 1 WHERE openid IN"
            " (SELECT openid FROM wechat_user WHERE person = ?)",
            person,
        )

    async def _authorize(self, request: Request) -> Response:
        given = request.query_params
        appid, target = given.get("appid", ""), given.get("redirect_uri", "")
        parts = urlsplit(target)
        with self._chassis.tx() as tx:
            known = tx.one("SELECT 1 FROM wechat_app WHERE appid = ?", appid)
            users = [user for user in parties.users(tx) if user.appid == appid]
        if known is None or given.get("response_type") != "code":
            return HTMLResponse("<p>appid or response_type is wrong</p>", 400)
        if given.get("scope") not in _SCOPES or parts.scheme not in _SCHEMES or not parts.netloc:
            return HTMLResponse("<p>scope or redirect_uri is wrong</p>", 400)
        person = given.get("person")
        if person is None:
            return HTMLResponse(_page(request, users))
        separator = "&" if parts.query else "?"
        chosen = next((user for user in users if user.person == person), None)
        answer = {"state": given.get("state", "")}
        if chosen is not None:
            with self._chassis.tx() as tx:
                answer = {"code": self._new_code(tx, chosen, given["scope"]), **answer}
        return RedirectResponse(f"{target}{separator}{urlencode(answer)}", 302)

    def _new_code(self, tx: Tx, user: User, scope: str) -> str:
        code = self._chassis.seed.id(tx, "0")
        tx.run(
            "INSERT INTO wechat_code (code, appid, openid, scope, made, used)"
            " VALUES (?, ?, ?, ?, ?, 0)",
            code, user.appid, user.openid, scope, tx.now,
        )  # fmt: skip
        journal.note(tx, "wechat.linked", openid=user.openid, scope=scope)
        return code

    def _answering(
        self, path: str, handler: Callable[[Tx, Request], dict[str, object]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            try:
                with self._chassis.tx() as tx:
                    content = handler(tx, request)
                    journal.note(tx, f"wechat{path.replace('/', '.')}")
            except OAuthError as error:
                with self._chassis.tx() as tx:
                    request_id = self._chassis.seed.id(tx, "rid")
                    journal.note(tx, f"wechat{path.replace('/', '.')}", errcode=error.code)
                message = f"{error.message}, rid: {request_id}"
                content = {"errcode": error.code, "errmsg": message}
            body = json.dumps(content, ensure_ascii=False)
            return Response(body, 200, media_type="text/plain")

        return endpoint

    def _exchange(self, tx: Tx, request: Request) -> dict[str, object]:
        given = request.query_params
        _check_app(tx, given.get("appid", ""), given.get("secret", ""))
        if given.get("grant_type") != "authorization_code":
            raise OAuthError(40002, "invalid grant_type")
        code = given.get("code", "")
        if not code:
            raise OAuthError(41008, "missing code")
        row = tx.one(
            "SELECT openid, scope, made, used FROM wechat_code WHERE code = ? AND appid = ?",
            code, given["appid"],
        )  # fmt: skip
        if row is None:
            raise OAuthError(40029, "invalid code")
        if not tx.run("UPDATE wechat_code SET used = 1 WHERE code = ? AND used = 0", code):
            raise OAuthError(40163, "code been used")
        if tx.now - row[2] > _CODE_LASTS:
            raise OAuthError(42003, "code expired")
        refresh = self._chassis.seed.id(tx, "r")
        tx.run(
            "INSERT INTO wechat_token (refresh, access, appid, openid, scope, made, until, revoked)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, 0)",
            refresh, self._chassis.seed.id(tx, "t"), given["appid"], row[0], row[1], tx.now,
            tx.now + _ACCESS_LASTS,
        )  # fmt: skip
        found = self._tokens(tx, refresh)
        user = parties.user(tx, row[0])
        assert user is not None
        if user.snapshot:
            found["is_snapshotuser"] = 1
        if row[1] != "snsapi_base":
            found["unionid"] = user.unionid
        return found

    def _refresh(self, tx: Tx, request: Request) -> dict[str, object]:
        given = request.query_params
        if given.get("grant_type") != "refresh_token":
            raise OAuthError(40002, "invalid grant_type")
        row = tx.one(
            "SELECT made, revoked, until FROM wechat_token WHERE refresh = ? AND appid = ?",
            given.get("refresh_token", ""), given.get("appid", ""),
        )  # fmt: skip
        if row is None:
            raise OAuthError(40030, "invalid refresh_token")
        if row[1]:
            raise OAuthError(42007, "access_token and refresh_token exception")
        if tx.now - row[0] > _REFRESH_LASTS:
            raise OAuthError(42002, "refresh_token expired")
        refresh = given["refresh_token"]
        if tx.now > row[2]:
            fresh = self._chassis.seed.id(tx, "t")
            tx.run("UPDATE wechat_token SET access = ? WHERE refresh = ?", fresh, refresh)
        tx.run(
            "UPDATE wechat_token SET until = ? WHERE refresh = ?", tx.now + _ACCESS_LASTS, refresh
        )
        return self._tokens(tx, refresh)

    def _check(self, tx: Tx, request: Request) -> dict[str, object]:
        _valid(tx, request)
        return {"errcode": 0, "errmsg": "ok"}

    def _profile(self, tx: Tx, request: Request) -> dict[str, object]:
        row = _valid(tx, request)
        if row[1] == "snsapi_base":
            raise OAuthError(48001, "api unauthorized")
        user = parties.user(tx, row[0])
        assert user is not None
        return {
            "openid": user.openid, "nickname": user.person, "sex": 0, "province": "", "city": "",
            "country": "", "headimgurl": "", "privilege": [], "unionid": user.unionid,
        }  # fmt: skip

    def _tokens(self, tx: Tx, refresh: str) -> dict[str, object]:
        row = tx.one("SELECT access, openid, scope FROM wechat_token WHERE refresh = ?", refresh)
        assert row is not None
        return {
            "access_token": row[0],
            "expires_in": _ACCESS_LASTS // SECOND,
            "refresh_token": refresh,
            "openid": row[1],
            "scope": row[2],
        }


def _check_app(tx: Tx, appid: str, secret: str) -> None:
    row = tx.one("SELECT secret FROM wechat_secret WHERE appid = ?", appid)
    if row is None:
        raise OAuthError(40013, "invalid appid")
    if not hmac.compare_digest(str(row[0]).encode(), secret.encode()):
        raise OAuthError(40125, "invalid appsecret")


def _valid(tx: Tx, request: Request) -> Row:
    """The openid and the scope of a token that holds. Raises OAuthError."""
    given = request.query_params
    row = tx.one(
        "SELECT openid, scope, until, revoked FROM wechat_token WHERE access = ?",
        given.get("access_token", ""),
    )
    if row is None:
        raise OAuthError(40001, "invalid credential, access_token is invalid or not latest")
    if row[3]:
        raise OAuthError(42007, "access_token and refresh_token exception")
    if tx.now > row[2]:
        raise OAuthError(42001, "access_token expired")
    if row[0] != given.get("openid", ""):
        raise OAuthError(40003, "invalid openid")
    return row


def _page(request: Request, users: list[User]) -> str:
    """Who is asking, and everybody who might say yes."""
    hidden = "".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
        for name, value in request.query_params.multi_items()
    )
    buttons = "".join(
        f'<button name="person" value="{escape(user.person)}">{escape(user.person)}</button>'
        for user in users
    )
    return (
        '<!doctype html><meta charset="utf-8"><title>WeChat (sandbox)</title>'
        "<h1>WeChat (sandbox)</h1><p>Who agrees?</p>"
        f'<form method="get">{hidden}{buttons}<button name="person" value="">Nobody</button></form>'
    )
