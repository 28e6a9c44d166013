"""Ask what became of a number. Only a signed answer, or in APIv2 the provider's own, is one."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Final
from urllib.parse import quote

from paymaster.kernel.errors import RailError
from paymaster.rails.base import Outcome, RailAccount, Verdict
from paymaster.rails.deps import RailDeps, setting
from paymaster.rails.wechat import calls, codes, wire
from paymaster.rails.wechat.calls import Said
from paymaster.rails.wechat.send import BATCHES, BILLS
from paymaster.rails.wechat.settings import Product, product
from paymaster.rails.yuan import UnreadableError, older_than

GET_TRANSFER: Final = "/mmpaymkttransfers/gettransferinfo"

REMEMBERS: Final = timedelta(days=28)
"""How long a "not found" may be believed: the provider shows thirty days."""

REMEMBERS_V2: Final = timedelta(hours=24)
"""For APIv2 no longer than the same number may be sent again: later only a found one proves."""


async def query(deps: RailDeps, account: RailAccount, key: str) -> Outcome:
    """See Queries."""
    try:
        kind = product(account)
        if kind is Product.V2:
            found, window = await _old(deps, account, key), REMEMBERS_V2
        elif kind is Product.BATCHES:
            found, window = await _batch(deps, account, key), REMEMBERS
        else:
            confirms = kind is Product.BILLS
            found, window = await _bill(deps, account, key, confirms=confirms), REMEMBERS
    except (RailError, UnreadableError) as error:
        return Outcome(key, Verdict.UNKNOWN, detail=str(error))
    if found.verdict is Verdict.NOT_FOUND and older_than(key, window, deps.clock.now()):
        return replace(found, verdict=Verdict.UNKNOWN, detail="too old to be found for sure")
    return found


async def _bill(deps: RailDeps, account: RailAccount, key: str, *, confirms: bool) -> Outcome:
    said = await calls.ask(deps, account, "GET", f"{BILLS}/out-bill-no/{quote(key)}")
    if not said.good:
        return _no_answer(said, key)
    found = wire.bill(said.found, account, confirms=confirms, now=deps.clock.now())
    return found if found.key == key else _about_another(key)


async def _batch(deps: RailDeps, account: RailAccount, key: str) -> Outcome:
    path = f"{BATCHES}/out-batch-no/{quote(key)}"
    said = await calls.ask(deps, account, "GET", f"{path}?need_query_detail=false")
    if not said.good:
        return _no_answer(said, key)
    open_still = wire.batch(said.found, key)
    if open_still is not None:
        return open_still
    said = await calls.ask(deps, account, "GET", f"{path}/details/out-detail-no/{quote(key)}")
    if said.good:
        return wire.detail(said.found, key)
    # The batch is there: that its detail is not yet proves nothing.
    return replace(_no_answer(said, key), verdict=Verdict.UNKNOWN)


async def _old(deps: RailDeps, account: RailAccount, key: str) -> Outcome:
    fields = {
        "mch_id": setting(account, "mchid"),
        "appid": setting(account, "appid"),
        "partner_trade_no": key,
    }
    said = await calls.ask_v2(deps, account, GET_TRANSFER, fields)
    if said.get("return_code") != "SUCCESS":
        return Outcome(key, Verdict.UNKNOWN, detail="the message was not taken")
    if said.get("result_code") == "SUCCESS":
        return wire.old(said, key)
    code = said.get("err_code") or None
    verdict = Verdict.NOT_FOUND if code in codes.NOT_FOUND else Verdict.UNKNOWN
    return Outcome(key, verdict, code=code)


def _no_answer(said: Said, key: str) -> Outcome:
    if said.genuine and said.status == 404 and said.code in codes.NOT_FOUND:
        return Outcome(key, Verdict.NOT_FOUND, code=said.code)
    code = said.code or str(said.status)
    return Outcome(key, Verdict.UNKNOWN, code=code, detail="the look-up was refused")


def _about_another(key: str) -> Outcome:
    return Outcome(key, Verdict.UNKNOWN, detail="the answer is about another payment")
