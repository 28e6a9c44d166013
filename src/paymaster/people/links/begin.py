"""A way to a provider: bound to the user and to the browser, open for ten minutes, gone once."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode

from paymaster.db import audit
from paymaster.db.tx import CellTx
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import RateLimited, Refusal
from paymaster.kernel.ids import Ref, parse_reference, reference, text_id
from paymaster.people import users
from paymaster.people.factors import proof
from paymaster.people.factors.binding import Purpose, linking
from paymaster.people.factors.proof import Shown
from paymaster.people.links import store
from paymaster.people.links.providers import ALIPAY, LinkProvider
from paymaster.people.links.store import WayRow

LIFE: Final = timedelta(minutes=10)
MOST_OPEN: Final = 10
_REFERENCE: Final = 15
_SECRET_BYTES: Final = 24


@dataclass(frozen=True, slots=True)
class Way:
    """What the browser is given: where to go, and what it keeps to show when it comes back."""

    address: str = field(repr=False)
    nonce: str = field(repr=False)
    expires_at: datetime

    def wire(self) -> dict[str, Any]:
        """For JSON; what the browser keeps goes as a cookie."""
        return {"authorize_url": self.address, "expires_at": rfc3339(self.expires_at)}


def digest(text: str) -> bytes:
    """What is kept of a secret."""
    return hashlib.sha256(text.encode()).digest()


def parse_state(state: str) -> tuple[Ref, str] | None:
    """Where the way of a state is, and its secret; None when it is none of ours by its form."""
    ref = parse_reference(state[:_REFERENCE])
    if ref is None or len(state) != _REFERENCE + 2 * _SECRET_BYTES or not state.isalnum():
        return None
    return ref, state[_REFERENCE:]


async def begin(
    tx: CellTx,
    provider: LinkProvider,
    user_id: int,
    redirect_uri: str,
    *,
    return_to: str | None,
    shown: Shown,
) -> Way:
    """Open a way for a user. `shown` is the proof that a new destination may need; it is used up.

    Raises Refusal `link-return-unknown`, RateLimited `link-too-many`, Unprocessable
    `user-suspended`, `user-closed` or what `proof.require` raises.
    """
    if return_to is not None and return_to not in provider.return_to:
        raise Refusal("link-return-unknown", "Name one of the provider's `return_to` addresses.")
    await users.require_active(tx, user_id)
    if await store.open_ways(tx, user_id) >= MOST_OPEN:
        raise RateLimited(
            "link-too-many", "Too many links are begun and not ended.", retry_after_seconds=60
        )
    payees: Sequence[str] = [linking(provider.provider)]
    step_up = await proof.require(tx, user_id, proof.Act(Purpose.DESTINATION, payees), shown)
    way_id, secret, nonce = tx.id(), secrets.token_hex(_SECRET_BYTES), secrets.token_urlsafe(32)
    row = WayRow(
        id=way_id,
        user_id=user_id,
        provider=provider.provider,
        secret_hash=digest(secret),
        nonce_hash=digest(nonce),
        return_to=return_to,
        state="open",
        code_hash=None,
        lease_until=None,
        slug=None,
        link_id=None,
        expires_at=tx.now + LIFE,
        version=1,
    )
    await store.insert_way(tx, row)
    user = text_id("us", tx.cell, user_id)
    await proof.use(tx, step_up, user)
    await audit.record(tx, [audit.Act("link.begin", user, detail={"provider": row.provider})])
    state = reference(tx.cell, way_id) + secret
    return Way(address(provider, redirect_uri, state), nonce, row.expires_at)


def address(provider: LinkProvider, redirect_uri: str, state: str) -> str:
    """Where the browser goes."""
    base, app_id = provider.setting("authorize_url"), provider.setting("app_id")
    scope = provider.setting("scope")
    if provider.provider == ALIPAY:
        asked = {"app_id": app_id, "scope": scope, "redirect_uri": redirect_uri, "state": state}
        return f"{base}?{urlencode(asked)}"
    asked = {
        "appid": app_id,
        "redirect_uri": redirect_uri,
        "response_type": "code",
        "scope": scope,
        "state": state,
    }
    return f"{base}?{urlencode(asked)}#wechat_redirect"
