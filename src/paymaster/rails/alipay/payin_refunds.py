"""Give money back to a payer, in parts or whole; each refund has a number of ours.

The answer to a refund names neither that number nor its amount. So it says that the provider has
it, and the look-up, which names both, says that it is done.
"""

from __future__ import annotations

from typing import Final

from paymaster.kernel.errors import RailError
from paymaster.rails import meaning
from paymaster.rails.alipay import calls, payin_codes, payin_wire
from paymaster.rails.alipay.prepare import canonical
from paymaster.rails.base import RailAccount
from paymaster.rails.deps import RailDeps
from paymaster.rails.meaning import Kind
from paymaster.rails.payin import RefundOrder, RefundOutcome, RefundVerdict
from paymaster.rails.yuan import UnreadableError, plain, some_text, text

_REASON: Final = 256


async def send(deps: RailDeps, account: RailAccount, order: RefundOrder) -> RefundOutcome:
    """See TakesPayments. `fund_change` is N when it was done before, and while it is under way."""
    content = {
        "out_trade_no": order.charge_key,
        "out_request_no": order.key,
        "refund_amount": order.amount.text(),
        "refund_reason": plain(order.reason, _REASON) or order.key,
    }
    said = await calls.ask(deps, account, calls.REFUND, canonical(content))
    if not said.done:
        raise payin_codes.failure(said)
    try:
        about = text(said.found, "out_trade_no")
        trade = some_text(said.found, "trade_no")
    except UnreadableError as error:
        raise meaning.error(Kind.MALFORMED, f"The answer cannot be read: {error}.") from None
    if about != order.charge_key:
        raise meaning.error(Kind.MALFORMED, "The answer is about another charge.")
    return RefundOutcome(order.key, RefundVerdict.PROCESSING, provider_id=trade)


async def find(deps: RailDeps, account: RailAccount, order: RefundOrder) -> RefundOutcome:
    """See TakesPayments."""
    content = {"out_trade_no": order.charge_key, "out_request_no": order.key}
    try:
        said = await calls.ask(deps, account, calls.REFUND_QUERY, canonical(content))
        if said.done:
            return _judged(payin_wire.refund(said.found, order.key), order, said)
    except (RailError, UnreadableError) as error:
        return RefundOutcome.unknown(order.key, str(error))
    return RefundOutcome.unknown(order.key, "the look-up was refused", payin_codes.code_of(said))


def _judged(found: RefundOutcome, order: RefundOrder, said: calls.Said) -> RefundOutcome:
    """What was found, if it is about this charge and its amount. Raises UnreadableError.

    An answer that knows of no refund need not name the trade.
    """
    about = some_text(said.found, "out_trade_no")
    unnamed = about is None and found.verdict is RefundVerdict.NOT_FOUND
    if about != order.charge_key and not unnamed:
        return RefundOutcome.unknown(order.key, "it is about another charge")
    total = payin_wire.amount(said.found, "total_amount")
    if total not in {None, order.charged}:
        return RefundOutcome.unknown(order.key, "the charge has another amount")
    if found.verdict is RefundVerdict.DONE and found.amount != order.amount:
        return RefundOutcome.unknown(order.key, "the refund has another amount")
    return found
