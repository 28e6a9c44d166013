"""What answers about keys, tokens and issuers look like, for the OpenAPI document."""

from __future__ import annotations

from typing import Literal

from paymaster.api.shapes import DayText, Shape, Time


class KeyOut(Shape):
    """An API key without its secret. `owner` is the person it belongs to, `pe_...`."""

    prefix: str
    name: str
    scopes: list[str]
    owner: str | None
    created_at: Time
    expires_at: Time | None
    revoked_at: Time | None
    last_used_on: DayText | None


class IssuedKeyOut(KeyOut):
    """A new key. `key` is shown this once."""

    key: str


class IssuerOut(Shape):
    """An issuer whose tokens log earners in."""

    id: str
    url: str
    audiences: list[str]
    algorithms: list[str]
    subject_claim: str
    user_prefix: str
    enabled: bool
    created_at: Time


class UserTokenOut(Shape):
    """A token of an earner, to be handed to the app on his device."""

    user: str
    token: str
    expires_at: Time


class AccessTokenOut(Shape):
    """RFC 6749, section 5.1."""

    access_token: str
    token_type: Literal["Bearer"]
    expires_in: int
    scope: str


class TokenErrorOut(Shape):
    """RFC 6749, section 5.2."""

    error: str
    error_description: str
