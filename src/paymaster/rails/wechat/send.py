"""Send a stored order: the same parameters, signed and encrypted anew at every try.

An answer to an order never says that it was paid; it says that the provider has it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, cast

from paymaster.rails import meaning
from paymaster.rails.base import Outcome, Prepared, RailAccount, Verdict
from paymaster.rails.deps import RailDeps
from paymaster.rails.meaning import Kind
from paymaster.rails.wechat import calls, codes, wire
from paymaster.rails.wechat.authorise import standing
from paymaster.rails.wechat.crypto import Keyring
from paymaster.rails.wechat.settings import Product, merchant
from paymaster.rails.yuan import UnreadableError, from_beijing, some_text, text

BILLS: Final = "/v3/fund-app/mch-transfer/transfer-bills"
BATCHES: Final = "/v3/transfer/batches"
TRANSFERS: Final = "/mmpaymkttransfers/promotion/transfers"
_PATHS: Final[Mapping[Product, str]] = {
    Product.BILLS: BILLS,
    Product.AUTHORISED: f"{BILLS}/transfer",
    Product.BATCHES: BATCHES,
}


async def send(deps: RailDeps, account: RailAccount, prepared: Prepared) -> Sequence[Outcome]:
    """See Rail."""
    order = json.loads(prepared.body)
    kind, params = Product(order["product"]), cast("dict[str, Any]", order["params"])
    key = prepared.keys[0]
    if kind is Product.V2:
        return [await _send_v2(deps, account, key, params)]
    if kind is Product.AUTHORISED:
        params = {**params, "out_authorization_no": await standing(deps, account, order["openid"])}
    who = merchant(deps, account)
    body = wire.canonical(_sealed(params, who.keyring))
    said = await calls.ask(deps, account, "POST", _PATHS[kind], body, who=who)
    if not said.good:
        raise codes.failure(said)
    try:
        if kind is Product.BATCHES:
            return [_batch(said.found, key)]
        found = wire.bill(said.found, account, confirms=kind is Product.BILLS, now=deps.clock.now())
    except UnreadableError as error:
        raise meaning.error(Kind.MALFORMED, f"The answer cannot be read: {error}.") from None
    if found.key != key:
        raise meaning.error(Kind.MALFORMED, "The answer is about another payment.")
    return [taken(found)]


def taken(found: Outcome) -> Outcome:
    """What an answer to an order, or to its cancellation, may say of the end: nothing.

    That is said by a query, or by a notice.
    """
    if found.verdict in {Verdict.PAID, Verdict.REJECTED}:
        return replace(found, verdict=Verdict.ACCEPTED, code=None)
    return found


def _batch(found: Mapping[str, object], key: str) -> Outcome:
    if text(found, "out_batch_no") != key:
        raise UnreadableError("it is about another batch")
    made = from_beijing(some_text(found, "create_time"))
    number = some_text(found, "batch_id")
    return Outcome(key, Verdict.ACCEPTED, provider_id=number, occurred_at=made)


def _sealed(params: Mapping[str, Any], keyring: Keyring) -> dict[str, Any]:
    """The parameters with every name encrypted."""
    found = dict(params)
    if "user_name" in found:
        found["user_name"] = keyring.encrypt(found["user_name"])
    details = cast("Sequence[Mapping[str, Any]]", found.get("transfer_detail_list", ()))
    if details:
        found["transfer_detail_list"] = [_sealed(each, keyring) for each in details]
    return found


async def _send_v2(
    deps: RailDeps, account: RailAccount, key: str, params: Mapping[str, str]
) -> Outcome:
    said = await calls.ask_v2(deps, account, TRANSFERS, params)
    if said.get("return_code") != "SUCCESS":
        raise meaning.error(Kind.UNEXPLAINED, "The provider did not take the message.")
    code = said.get("err_code") or None
    if said.get("result_code") == "FAIL":
        raise codes.failure_v2(code)
    if said.get("result_code") != "SUCCESS" or said.get("partner_trade_no") != key:
        raise meaning.error(Kind.MALFORMED, "The answer is about another payment, or unclear.")
    made = from_beijing(said.get("payment_time"))
    number = said.get("payment_no") or None
    return Outcome(key, Verdict.ACCEPTED, provider_id=number, occurred_at=made)
