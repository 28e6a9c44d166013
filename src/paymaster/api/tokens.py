"""Tokens of our own: for an earner's device, and for servers that speak OAuth 2.0.

`POST /oauth/token` is RFC 6749, section 4.4; it speaks the words of that document, errors included.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from paymaster.api.context import Users, deps_of, headers_of, hot_of
from paymaster.api.door import Door
from paymaster.api.guesses import KeyGuesses
from paymaster.api.hot import Look
from paymaster.api.limiter import Limits
from paymaster.api.models import Reply
from paymaster.api.shapes_callers import AccessTokenOut, TokenErrorOut, UserTokenOut
from paymaster.api.users import UserPath
from paymaster.kernel.errors import Forbidden, Unauthenticated
from paymaster.kernel.ids import text_id
from paymaster.people import credentials, tokens, users
from paymaster.people.credentials import Credential

router = APIRouter(tags=["tokens"])
TOKEN = "/oauth/token"  # noqa: S105 - an address
GRANT = "client_credentials"
MAX_FORM_BYTES, MAX_FIELDS = 8192, 10
_FORM = "application/x-www-form-urlencoded"
_NAMES = frozenset({"grant_type", "scope", "client_id", "client_secret"})

of_users = APIRouter(route_class=Door, tags=["tokens"])


@of_users.post("/v1/users/{user}/tokens", status_code=201, response_model=UserTokenOut)
async def mint_user_token(call: Users, user: UserPath) -> Reply:
    """A token for an earner, good for 15 minutes: whoever holds it is this user.

    With it the earner does no more than the key may: to withdraw it needs `withdrawals`, too.

    It ends at once when the user is suspended or closed, or the key that minted it is revoked.
    """
    if call.principal.kind != "server":
        raise Forbidden("server-needed", "Tokens of users are minted by a server's key only.")
    prefix = call.principal.actor.removeprefix("key:")
    ref = await call.user(user)
    await call.cell(ref.cell).read(lambda tx: users.require_active(tx, ref.id))
    signer, scopes = call.deps.secrets.ed25519, call.principal.scopes
    made = tokens.mint_user(signer, call.environment, ref, prefix, scopes, call.deps.clock.now())
    return Reply(made.wire(text_id("us", ref.cell, ref.id)), 201)


class _TokenError(Exception):
    """An error in the form of RFC 6749, section 5.2."""

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(error)
        self.body = {"error": error, "error_description": description}
        self.status = status
        self.headers: dict[str, str] = {}


_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            _FORM: {
                "schema": {
                    "type": "object",
                    "properties": {
                        "grant_type": {"type": "string", "const": GRANT},
                        "scope": {"type": "string", "description": "Words between spaces."},
                        "client_id": {"type": "string", "description": "The key's prefix."},
                        "client_secret": {
                            "type": "string",
                            "description": "What stands behind the prefix and its underscore.",
                        },
                    },
                    "required": ["grant_type"],
                    "additionalProperties": False,
                }
            }
        },
    }
}


@router.post(
    TOKEN,
    response_model=AccessTokenOut,
    openapi_extra=_BODY,
    responses={
        400: {"model": TokenErrorOut, "description": "RFC 6749, section 5.2."},
        401: {"model": TokenErrorOut, "description": "`invalid_client`."},
    },
)
async def give_access_token(request: Request) -> Response:
    """A token in place of an API key: with its scopes or some of them, for 15 minutes.

    The client authenticates by HTTP Basic, or by `client_id` and `client_secret` in the body. The
    token ends with the key: revoked or expired, at once.
    """
    try:
        return _answer(await _granted(request), 200)
    except _TokenError as error:
        return _answer(error.body, error.status, error.headers)


async def _granted(request: Request) -> dict[str, Any]:
    fields = await _form(request)
    prefix, secret = _client(request, fields)
    if fields.get("grant_type") is None:
        raise _TokenError("invalid_request", "Send grant_type=client_credentials.")
    if fields["grant_type"] != GRANT:
        raise _TokenError("unsupported_grant_type", "The grant here is client_credentials.")
    credential = await _authenticated(request, prefix, secret)
    asked = frozenset(fields.get("scope", "").split()) or credential.scopes
    if not asked <= credential.scopes:
        raise _TokenError("invalid_scope", "The key lacks one of these scopes.")
    deps = deps_of(request)
    now = deps.clock.now()
    made = tokens.mint_access(
        deps.secrets.ed25519, deps.dbs.environment(credential.environment_id), prefix, asked, now
    )
    return {
        "access_token": made.token,
        "token_type": "Bearer",
        "expires_in": int(tokens.LIFETIME.total_seconds()),
        "scope": " ".join(sorted(asked)),
    }


async def _form(request: Request) -> dict[str, str]:
    """The fields of the body, each at most once. Those without a value count as missing."""
    media_type = headers_of(request).get(b"content-type", b"").partition(b";")[0].strip().lower()
    if media_type != _FORM.encode() or request.scope["query_string"]:
        raise _TokenError("invalid_request", f"Send the fields as {_FORM} in the body.")
    body = await request.body()
    try:
        if len(body) > MAX_FORM_BYTES:
            raise ValueError("too long")
        text = body.decode("ascii")
        pairs = parse_qsl(
            text,
            keep_blank_values=True,
            strict_parsing=bool(text),
            errors="strict",
            max_num_fields=MAX_FIELDS,
        )
    except ValueError:
        raise _TokenError("invalid_request", "The body is no form that can be read.") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise _TokenError("invalid_request", "A field occurs twice.")
    unknown = "client_assertion" in fields or not _NAMES.issuperset(fields)
    if unknown:
        raise _TokenError("invalid_request", f"Fields are: {', '.join(sorted(_NAMES))}.")
    return {name: value for name, value in fields.items() if value}


def _client(request: Request, fields: dict[str, str]) -> tuple[str, str]:
    """Prefix and secret: of one place, not of two (RFC 6749, section 2.3)."""
    given = headers_of(request).get(b"authorization")
    if given is None:
        return fields.get("client_id", ""), fields.get("client_secret", "")
    if "client_secret" in fields:
        raise _TokenError("invalid_request", "Authenticate in one way only.")
    scheme, _, encoded = given.decode("latin-1").partition(" ")
    try:
        if scheme.lower() != "basic":
            raise ValueError(scheme)
        name, colon, secret = (
            base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
        )
    except (ValueError, binascii.Error):
        raise _invalid_client() from None
    prefix = unquote_plus(name)
    if not colon or fields.get("client_id", prefix) != prefix:
        raise _invalid_client()
    return prefix, unquote_plus(secret)


async def _authenticated(request: Request, prefix: str, secret: str) -> Credential:
    """The key of a client. Wrong secrets are counted as those of API calls are."""
    guesses: KeyGuesses = request.app.state.guesses
    address: str = request.state.address
    guesses.check(prefix, address)
    try:
        seen = await hot_of(request).look(Look(f"{prefix}_{secret}"))
    except Unauthenticated as error:
        if error.slug == "credential-invalid":
            guesses.failed(prefix if credentials.is_prefix(prefix) else "", address)
        raise _invalid_client() from None
    request.state.actor = seen.credential.actor
    limits: Limits = request.app.state.limits
    await limits.admit(request.scope["state"], seen.credential.principal)
    return seen.credential


def _invalid_client() -> _TokenError:
    error = _TokenError("invalid_client", "No such client, or another secret.", 401)
    error.headers["WWW-Authenticate"] = 'Basic realm="paymaster"'
    return error


def _answer(body: dict[str, Any], status: int, headers: dict[str, str] | None = None) -> Response:
    more = {"Cache-Control": "no-store", "Pragma": "no-cache", **(headers or {})}
    return Response(msgspec.json.encode(body), status, more, "application/json")
