"""APIv2 for pay-in: our messages, and their answers once the digest has proven them."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from paymaster.rails import meaning
from paymaster.rails.base import RailAccount
from paymaster.rails.deps import RailDeps, secret, setting
from paymaster.rails.meaning import Kind
from paymaster.rails.wechat import calls, payin_codes, v2
from paymaster.rails.wechat.payin_settings import digest_method


async def ask(
    deps: RailDeps,
    account: RailAccount,
    path: str,
    fields: Mapping[str, str],
    *,
    certified: bool = False,
) -> Mapping[str, str]:
    """What the provider answered; its `result_code` is SUCCESS or FAIL.

    Raises what `calls.ask_v2` raises, and RailUnknown for an answer that proves nothing: without
    the digest, with a wrong one, or about another merchant.
    """
    method, key = digest_method(account), secret(deps, account, "apiv2_key").strip()
    ours = {"appid": setting(account, "appid"), "mch_id": setting(account, "mchid")}
    whole = {**fields, **ours, "sign_type": method}
    said = await calls.ask_v2(deps, account, path, whole, method=method, certified=certified)
    if said.get("return_code") != "SUCCESS":
        extra = {"code": "FAIL"}
        raise meaning.error(Kind.UNEXPLAINED, "The provider did not take the message.", extra)
    if not genuine(said, key, method):
        raise meaning.error(Kind.MALFORMED, "The answer is not signed by the provider.")
    named = {name: said[name] for name in ours if name in said}
    if said.get("result_code") == "SUCCESS" and named != ours:
        raise meaning.error(Kind.MALFORMED, "The answer is about another merchant or app.")
    return said


async def done(
    deps: RailDeps,
    account: RailAccount,
    path: str,
    fields: Mapping[str, str],
    *,
    certified: bool = False,
) -> Mapping[str, str]:
    """As `ask`, for what has to succeed. Raises RailUnknown with the provider's code as well."""
    said = await ask(deps, account, path, fields, certified=certified)
    if said.get("result_code") != "SUCCESS":
        raise payin_codes.failure_old(said.get("err_code") or None)
    return said


def genuine(fields: Mapping[str, str], key: str, method: str) -> bool:
    """Whether the `sign` is the digest of these fields under our key."""
    right = v2.digest(fields, key, method)
    return hmac.compare_digest(right.encode(), fields.get("sign", "").encode())
