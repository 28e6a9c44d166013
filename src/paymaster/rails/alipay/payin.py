"""Ask a payer for money, look whether it came, close what nobody paid.

    alipay-qr     `alipay.trade.precreate`: what it answers is shown as a QR code
    alipay-page   `alipay.trade.page.pay`: an address that we sign and a browser opens

A trade does not exist for the provider before somebody scans the code or opens the page. Until then
a look-up and a closing say that there is none, and it can be paid all the same until it expires. So
"not found" is the end only once the charge's time is over: the provider is told that time with the
trade, and lets nobody pay later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Final

from paymaster.kernel.errors import Problem, RailError, Unprocessable
from paymaster.rails import meaning
from paymaster.rails.alipay import calls, payin_codes, payin_wire
from paymaster.rails.alipay.prepare import canonical
from paymaster.rails.alipay.settings import offered, takes_payments
from paymaster.rails.base import RailAccount
from paymaster.rails.deps import RailDeps, setting
from paymaster.rails.meaning import Kind
from paymaster.rails.payin import Charge, ChargeOutcome, ChargeVerdict, Checkout, Method, Shows
from paymaster.rails.yuan import CNY, UnreadableError, beijing, older_than, plain, text

_PREFIX: Final = "alipay-"
PAGE, QR = f"{_PREFIX}page", f"{_PREFIX}qr"
METHODS: Final[Mapping[str, Method]] = MappingProxyType(
    {PAGE: Method(PAGE, Shows.PAGE), QR: Method(QR, Shows.QR)}
)
REMEMBERS: Final = timedelta(days=30)
"""How long "not found" may be believed: longer than a trade can stay open, and shorter than the
provider keeps one."""
NOTICES: Final = "/payins"
"""What our address for messages about charges has after the account's `notify_url`."""

_QR_LASTS: Final = timedelta(hours=2)
_ADDRESS_LASTS: Final = timedelta(minutes=15)
"""An address is signed with its time; one that is much older is refused."""
_SHORTEST, _LONGEST = timedelta(minutes=1), timedelta(days=15)
_MOST_FEN: Final = 100_000_000_00
_SUBJECT: Final = 256
_NOT_IN_SUBJECT: Final = str.maketrans("/=&", "   ")
_MOST_BACK_TO: Final = 256
_PRODUCT: Final = "FAST_INSTANT_TRADE_PAY"


def methods(account: RailAccount) -> Mapping[str, Method]:
    """See TakesPayments."""
    if not takes_payments(account):
        return {}
    wanted = {f"{_PREFIX}{name}" for name in offered(account)}
    return {name: method for name, method in METHODS.items() if name in wanted}


def check(account: RailAccount, charge: Charge) -> None:
    """See TakesPayments."""
    problems: list[Problem] = []
    if charge.method not in methods(account):
        problems.append(Problem("/method", f"{account.name} does not take {charge.method!r}."))
    if charge.amount.currency != CNY or account.currency != CNY:
        problems.append(Problem("/amount", f"Alipay takes CNY, not {charge.amount.currency}."))
    elif not 0 < charge.amount.minor <= _MOST_FEN:
        problems.append(Problem("/amount", "Alipay takes from 0.01 to 100,000,000.00 CNY."))
    if not _SHORTEST <= charge.expires_at - charge.created_at <= _LONGEST:
        problems.append(Problem("/expires_at", "A charge is open from one minute to 15 days."))
    back_to = charge.back_to
    if back_to is not None and (
        not back_to.startswith(("https://", "http://")) or len(back_to) > _MOST_BACK_TO
    ):
        problems.append(
            Problem("/back_to", f"Write an address, at most {_MOST_BACK_TO} characters.")
        )
    if problems:
        raise Unprocessable(
            "charge-refused", "Alipay cannot be asked for this payment.", problems=problems
        )


async def open_charge(deps: RailDeps, account: RailAccount, charge: Charge) -> Checkout:
    """See TakesPayments."""
    if charge.method not in methods(account):
        raise meaning.error(Kind.ACCOUNT, f"{account.name} does not take {charge.method!r}.")
    common = {"notify_url": setting(account, "notify_url").rstrip("/") + NOTICES}
    now = deps.clock.now()
    if charge.method == PAGE:
        if charge.back_to is not None:
            common["return_url"] = charge.back_to
        content = canonical({**_content(charge), "product_code": _PRODUCT})
        address = calls.page_address(deps, account, calls.PAGE_PAY, content, common)
        return Checkout(Shows.PAGE, min(charge.expires_at, now + _ADDRESS_LASTS), address)
    said = await calls.ask(deps, account, calls.PRECREATE, canonical(_content(charge)), common)
    if not said.done:
        raise payin_codes.failure(said)
    try:
        code, key = text(said.found, "qr_code"), text(said.found, "out_trade_no")
    except UnreadableError as error:
        raise meaning.error(Kind.MALFORMED, f"The answer cannot be read: {error}.") from None
    if key != charge.key:
        raise meaning.error(Kind.MALFORMED, "The answer is about another charge.")
    return Checkout(Shows.QR, min(charge.expires_at, now + _QR_LASTS), code)


async def find(deps: RailDeps, account: RailAccount, key: str) -> ChargeOutcome:
    """See TakesPayments."""
    content = canonical({"out_trade_no": key})
    try:
        said = await calls.ask(deps, account, calls.TRADE_QUERY, content)
        if said.done:
            found = payin_wire.charge(said.found)
            return (
                found
                if found.key == key
                else ChargeOutcome.unknown(key, "it is about another charge")
            )
    except (RailError, UnreadableError) as error:
        return ChargeOutcome.unknown(key, str(error))
    return _absent(deps, key, said) or ChargeOutcome.unknown(
        key, "the look-up was refused", payin_codes.code_of(said)
    )


async def close(deps: RailDeps, account: RailAccount, key: str) -> ChargeOutcome:
    """See TakesPayments. What is not waiting for its payer any more is looked up."""
    try:
        said = await calls.ask(deps, account, calls.TRADE_CLOSE, canonical({"out_trade_no": key}))
        if said.done:
            if text(said.found, "out_trade_no") != key:
                return ChargeOutcome.unknown(key, "it is about another charge")
            return ChargeOutcome(key, ChargeVerdict.CLOSED)
    except (RailError, UnreadableError) as error:
        return ChargeOutcome.unknown(key, str(error))
    code = payin_codes.code_of(said)
    if said.genuine and code in payin_codes.NOT_WAITING:
        return replace(await find(deps, account, key), detail=f"closing was refused: {code}")
    return _absent(deps, key, said) or ChargeOutcome.unknown(key, "the closing was refused", code)


def _content(charge: Charge) -> dict[str, Any]:
    """The same at every try: a trade is known by its number and must not change."""
    words = plain(charge.description.translate(_NOT_IN_SUBJECT), _SUBJECT)
    return {
        "out_trade_no": charge.key,
        "total_amount": charge.amount.text(),
        "subject": words or charge.key,
        "time_expire": beijing(charge.expires_at),
    }


def _absent(deps: RailDeps, key: str, said: calls.Said) -> ChargeOutcome | None:
    """That the provider signed that it knows no such trade; None if it did not."""
    code = payin_codes.code_of(said)
    if not said.genuine or code not in payin_codes.NOT_FOUND:
        return None
    if older_than(key, REMEMBERS, deps.clock.now()):
        return ChargeOutcome.unknown(key, "too old to be found for sure", code)
    return ChargeOutcome(key, ChargeVerdict.NOT_FOUND, code=code)
