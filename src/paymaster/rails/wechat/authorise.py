"""A payee's standing consent, for the product in which transfers need no further act.

The consent is asked for once, accepted by the payee in WeChat, and holds until somebody closes it.
Our number of it follows from app, payee, scene and how many were closed before, so asking again is
asking for the same, and after a closed one for the next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from paymaster.rails import meaning
from paymaster.rails.base import Confirmation, RailAccount
from paymaster.rails.consent import ConsentState
from paymaster.rails.deps import RailDeps, setting
from paymaster.rails.meaning import Kind
from paymaster.rails.wechat import calls, codes, wire
from paymaster.rails.wechat.calls import Said
from paymaster.rails.yuan import UnreadableError, from_beijing, members, plain, some_text, text

PATH: Final = "/v3/fund-app/mch-transfer/user-confirm-authorization"
REFUSED: Final[Mapping[str, str]] = {"code": "AUTHORIZATION_NOT_IN_EFFECT"}
MOST_CLOSED: Final = 20
_LONGEST_NAME: Final = 32


@dataclass(frozen=True, slots=True)
class Authorisation:
    """What is known of a consent. `why_closed` is the provider's code."""

    number: str
    consent: ConsentState
    provider_id: str | None = None
    why_closed: str | None = None
    confirmation: Confirmation | None = field(default=None, repr=False)


_STATES: Final[Mapping[str, ConsentState]] = {
    "WAIT_USER_CONFIRM": ConsentState.WAITING,
    "TAKING_EFFECT": ConsentState.IN_EFFECT,
    "CLOSED": ConsentState.CLOSED,
}


def authorization_no(account: RailAccount, openid: str, closed_before: int) -> str:
    """Our number of a payee's consent."""
    parts = (setting(account, "appid"), openid, setting(account, "scene_id"), str(closed_before))
    return "A" + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:31].upper()


async def authorise(
    deps: RailDeps, account: RailAccount, openid: str, display_name: str
) -> Authorisation:
    """Ask for the consent, or for the same again. `display_name` is how WeChat shows the payee.

    Raises what `send` raises; no money moves in any case.
    """
    found = await authorisation(deps, account, openid)
    if found.consent not in {ConsentState.NONE, ConsentState.WAITING}:
        return found
    body: dict[str, Any] = {
        "out_authorization_no": found.number,
        "appid": setting(account, "appid"),
        "openid": openid,
        "transfer_scene_id": setting(account, "scene_id"),
        "user_display_name": plain(display_name, _LONGEST_NAME),
        "authorization_notify_url": setting(account, "notify_url"),
    }
    if perception := account.settings.get("perception", "").strip():
        body["user_recv_perception"] = perception
    said = await calls.ask(deps, account, "POST", PATH, wire.canonical(body))
    if said.genuine and 400 <= said.status < 500 and said.code not in {None, *codes.LATER}:
        # No money is in question, so its no is one. Another name under a number is refused so.
        extra = {"code": said.code or str(said.status)}
        raise meaning.error(Kind.REFUSED, "The provider refused to ask for it.", extra)
    return _read(account, said, found.number, openid, deps.clock.now())


async def authorisation(deps: RailDeps, account: RailAccount, openid: str) -> Authorisation:
    """The consent that stands or is asked for; NONE with the number of the next. As `authorise`."""
    number = authorization_no(account, openid, 0)
    for closed_before in range(1, MOST_CLOSED + 1):
        said = await calls.ask(deps, account, "GET", f"{PATH}/out-authorization-no/{number}")
        if said.genuine and said.status == 404 and said.code in codes.NOT_FOUND:
            return Authorisation(number, ConsentState.NONE)
        found = _read(account, said, number, openid, deps.clock.now())
        if found.consent is not ConsentState.CLOSED:
            return found
        number = authorization_no(account, openid, closed_before)
    raise meaning.error(Kind.REFUSED, "Too many consents of this payee were closed.", REFUSED)


async def close(deps: RailDeps, account: RailAccount, openid: str) -> Authorisation:
    """End it: the payee has unlinked. Raises as `authorise`."""
    found = await authorisation(deps, account, openid)
    if found.consent in {ConsentState.NONE, ConsentState.CLOSED}:
        return found
    target = f"{PATH}/out-authorization-no/{found.number}"
    await calls.ask(deps, account, "POST", f"{target}/close")
    said = await calls.ask(deps, account, "GET", target)
    return _read(account, said, found.number, openid, deps.clock.now())


async def standing(deps: RailDeps, account: RailAccount, openid: str) -> str:
    """The number under which may be paid. Raises RailRefused `provider-refused` without one."""
    found = await authorisation(deps, account, openid)
    if found.consent is ConsentState.UNKNOWN:
        raise meaning.error(Kind.MALFORMED, "The state of the payee's consent is not known.")
    if found.consent is not ConsentState.IN_EFFECT:
        raise meaning.error(Kind.REFUSED, "The payee has not agreed to transfers.", REFUSED)
    return found.number


def _read(
    account: RailAccount, said: Said, number: str, openid: str, now: datetime
) -> Authorisation:
    if not said.good:
        raise codes.failure(said)
    try:
        return _described(account, said.found, number, openid, now)
    except UnreadableError as error:
        raise meaning.error(Kind.MALFORMED, f"The answer cannot be read: {error}.") from None


def _described(
    account: RailAccount, found: Mapping[str, object], number: str, openid: str, now: datetime
) -> Authorisation:
    if text(found, "out_authorization_no") != number or some_text(found, "openid") not in {
        None,
        openid,
    }:
        raise UnreadableError("it is about another consent")
    consent = _STATES.get(text(found, "state"), ConsentState.UNKNOWN)
    package = some_text(found, "package_info")
    shown: Confirmation | None = None
    if consent is ConsentState.WAITING and package is not None:
        made = from_beijing(some_text(found, "create_time")) or now
        public = {"mchId": setting(account, "mchid"), "appId": setting(account, "appid")}
        shown = Confirmation(package, made + wire.ACCEPTANCE, public)
    ended = found.get("close_info")
    why = some_text(members(ended, "close_info"), "close_reason") if ended is not None else None
    provider_id = some_text(found, "authorization_id")
    return Authorisation(number, consent, provider_id, why, shown)
