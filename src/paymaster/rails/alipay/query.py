"""Ask what became of a number. Only a signed answer is one."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from paymaster.kernel.errors import RailError
from paymaster.rails.alipay import calls, codes, wire
from paymaster.rails.alipay.prepare import canonical
from paymaster.rails.alipay.settings import PRODUCT, SCENE
from paymaster.rails.base import Outcome, RailAccount, Verdict
from paymaster.rails.deps import RailDeps
from paymaster.rails.yuan import UnreadableError, older_than

REMEMBERS: Final = timedelta(days=7)
"""How long a "not found" may be believed: the provider does not say how long it remembers."""


async def query(deps: RailDeps, account: RailAccount, key: str) -> Outcome:
    """See Queries."""
    content = canonical({"out_biz_no": key, "product_code": PRODUCT, "biz_scene": SCENE})
    try:
        said = await calls.ask(deps, account, calls.QUERY, content)
        if said.done:
            found = wire.transfer(said.found)
            if found.key == key:
                return found
            return Outcome(key, Verdict.UNKNOWN, detail="the answer is about another payment")
    except (RailError, UnreadableError) as error:
        return Outcome(key, Verdict.UNKNOWN, detail=str(error))
    if said.genuine and said.code in codes.NOT_FOUND:
        if older_than(key, REMEMBERS, deps.clock.now()):
            return Outcome(key, Verdict.UNKNOWN, detail="too old to be found for sure")
        return Outcome(key, Verdict.NOT_FOUND, code=said.code)
    code = said.code or str(said.status)
    return Outcome(key, Verdict.UNKNOWN, code=code, detail="the look-up was refused")
