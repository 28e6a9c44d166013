"""Whatever goes wrong at WeChat: no charge or refund is ever said to be what it is not.

Every mishap of the sandbox, at every call, over both APIs. What the provider truly has is read from
its own books.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace

import httpx
import pytest
import pytest_asyncio
from tests.contract.sandboxes import Outside, outside
from tests.contract.wechat_payin import Till

from paymaster.kernel.errors import RailError, RailUnknown
from paymaster.rails.base import Rail
from paymaster.rails.deps import RailDeps
from paymaster.rails.http import new_client
from paymaster.rails.payin import Charge, ChargeVerdict, Checkout, RefundOrder, RefundVerdict
from paymaster.rails.registry import Registry
from paymaster_sandbox.wechat import mishaps

pytestmark = pytest.mark.asyncio(loop_scope="module")

Mishap = tuple[str, dict[str, object]]
IMPATIENT_SECONDS = 0.3
LATE_SECONDS = 1.2

LIES = {"lied_no", "lied_short"}
"""They are told of orders to pay out alone."""

MISHAPS: list[Mishap] = [
    *((kind, {}) for kind in sorted((mishaps.BEFORE | mishaps.AFTER) - {"slow"} - LIES)),
    ("slow", {"seconds": LATE_SECONDS}),
    ("error_after", {"number": 502}),
    ("error_before", {"number": 503}),
    *(
        ("code_before", {"text": code})
        for code in ("PARAM_ERROR", "NO_AUTH", "SIGN_ERROR", "NOT_ENOUGH", "SYSTEMERROR")
    ),
    ("code_after", {"text": "ORDER_CLOSED"}),
    ("code_after", {"text": "ORDER_PAID"}),
    ("code_after", {"text": "USERPAYING", "number": 202}),
    # A page that is not there and not the provider's word for it.
    ("code_before", {"text": "NOT_FOUND", "number": 404}),
]
NAMES = [f"{kind}-{'-'.join(map(str, more.values()))}".rstrip("-") for kind, more in MISHAPS]
HARMLESS = {"reordered", "extra_fields"}
UNSIGNED_IN_V2 = {"unknown_serial", "stale", "signtest"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def found(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Outside]:
    async with outside(tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tills(found: Outside) -> AsyncGenerator[dict[str, Till]]:
    """Tills whose rail gives up soon."""
    limits = httpx.Timeout(IMPATIENT_SECONDS, connect=5.0)

    def make(deps: RailDeps) -> Rail:
        def hurried(identity: str) -> httpx.AsyncClient:
            client = deps.client_with(identity)
            client.timeout = limits
            return client

        return Registry().build("wechat-pay", replace(deps, http=quick, client_with=hurried))

    async with new_client() as quick:
        quick.timeout = limits
        yield {
            name: await Till.open(found, name, at, make) for at, name in enumerate(("v3", "v2"), 1)
        }


@pytest_asyncio.fixture(loop_scope="module", params=["v3", "v2"])
async def till(request: pytest.FixtureRequest, tills: dict[str, Till]) -> Till:
    made = tills[request.param]
    await made.reset()
    return made


def understood(till: Till, mishap: Mishap) -> bool:
    """Whether the answer is as good as any other."""
    return mishap[0] in HARMLESS or (till.version == "v2" and mishap[0] in UNSIGNED_IN_V2)


def was_done(mishap: Mishap) -> bool:
    """Whether the provider has done what it was asked, whatever it said."""
    return mishap[0] in mishaps.AFTER


@pytest.mark.parametrize("mishap", MISHAPS, ids=NAMES)
async def test_an_opening_that_went_wrong_is_unknown_and_repeated(
    till: Till, mishap: Mishap
) -> None:
    kind, more = mishap
    await till.mishap("order.create", kind, **more)
    charge = till.charge()
    first = await _opened(till, charge)
    if understood(till, mishap):
        assert isinstance(first, Checkout)
    else:
        assert type(first) is RailUnknown
    assert till.truth(charge.key) == ("NOTPAY" if was_done(mishap) else None)
    said = await till.rail.find_charge(till.account, charge.key)
    wanted = ChargeVerdict.OPEN if was_done(mishap) else ChargeVerdict.NOT_FOUND
    assert said.verdict is wanted
    again = await till.rail.open_charge(till.account, charge)
    assert again.content
    assert isinstance(first, RailUnknown) or first == again
    assert till.orders(charge.key) == 1


async def _opened(till: Till, charge: Charge) -> Checkout | RailError:
    try:
        return await till.rail.open_charge(till.account, charge)
    except RailError as error:
        return error


STATES: dict[str, ChargeVerdict] = {
    "open": ChargeVerdict.OPEN,
    "paid": ChargeVerdict.PAID,
    "closed": ChargeVerdict.CLOSED,
    "refunded": ChargeVerdict.PAID,
    "absent": ChargeVerdict.NOT_FOUND,
}


async def _in_state(till: Till, state: str) -> str:
    """The number of a charge that is in this state at the provider."""
    if state == "absent":
        return till.key()
    charge = await till.opened(fen=100)
    if state in {"paid", "refunded"}:
        await till.pay(charge.key)
    if state == "refunded":
        await till.rail.refund(till.account, till.back(charge))
    if state == "closed":
        await till.rail.close_charge(till.account, charge.key)
    return charge.key


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("mishap", MISHAPS, ids=NAMES)
async def test_a_look_up_that_went_wrong_says_the_truth_or_nothing(
    till: Till, mishap: Mishap, state: str
) -> None:
    key = await _in_state(till, state)
    kind, more = mishap
    await till.mishap("order.query", kind, **more)
    said = await till.rail.find_charge(till.account, key)
    wanted = STATES[state] if understood(till, mishap) else ChargeVerdict.UNKNOWN
    assert said.verdict is wanted
    assert (await till.rail.find_charge(till.account, key)).verdict is STATES[state]


@pytest.mark.parametrize("state", ["open", "paid", "absent"])
@pytest.mark.parametrize("mishap", MISHAPS, ids=NAMES)
async def test_a_close_that_went_wrong_says_the_truth(
    till: Till, mishap: Mishap, state: str
) -> None:
    key = await _in_state(till, state)
    kind, more = mishap
    await till.mishap("order.close", kind, **more)
    said = await till.rail.close_charge(till.account, key)
    wanted = STATES[state]
    if state == "open" and was_done(mishap):
        wanted = ChargeVerdict.CLOSED
    assert said.verdict is wanted
    if state == "open":
        assert till.truth(key) == ("CLOSED" if was_done(mishap) else "NOTPAY")
        again = await till.rail.close_charge(till.account, key)
        assert again.verdict is ChargeVerdict.CLOSED


@pytest.mark.parametrize("mishap", MISHAPS, ids=NAMES)
async def test_a_close_that_nobody_can_look_at_is_unknown(till: Till, mishap: Mishap) -> None:
    charge = await till.opened()
    kind, more = mishap
    await till.mishap("order.query", kind, **more)
    said = await till.rail.close_charge(till.account, charge.key)
    wanted = ChargeVerdict.CLOSED if understood(till, mishap) else ChargeVerdict.UNKNOWN
    assert said.verdict is wanted


async def _refunded(till: Till, order: RefundOrder) -> RefundVerdict | RailError:
    try:
        return (await till.rail.refund(till.account, order)).verdict
    except RailError as error:
        return error


@pytest.mark.parametrize("mishap", MISHAPS, ids=NAMES)
async def test_money_goes_back_once_whatever_is_answered(till: Till, mishap: Mishap) -> None:
    charge = await till.paid(fen=100)
    before = till.balance()
    order = till.back(charge)
    kind, more = mishap
    await till.mishap("refund.create", kind, **more)
    first = await _refunded(till, order)
    if understood(till, mishap):
        assert first is RefundVerdict.PROCESSING
    else:
        assert type(first) is RailUnknown
    assert till.orders(order.key) == (1 if was_done(mishap) else 0)
    if not was_done(mishap):
        found = await till.rail.find_refund(till.account, order)
        assert found.verdict is RefundVerdict.NOT_FOUND
    await till.rail.refund(till.account, order)
    done = await till.refunded(order)
    assert (done.verdict, done.amount) == (RefundVerdict.DONE, charge.amount)
    assert till.balance() == before - 100 + 1
    assert till.orders(order.key) == 1


@pytest.mark.parametrize("mishap", MISHAPS, ids=NAMES)
async def test_a_refund_is_said_to_be_done_only_when_it_is(till: Till, mishap: Mishap) -> None:
    kind, more = mishap
    charge = await till.paid(fen=100)
    order = till.back(charge)
    await till.rail.refund(till.account, order)
    assert (await till.refunded(order)).verdict is RefundVerdict.DONE
    absent = till.back(charge, 1)
    for asked, truth in ((order, RefundVerdict.DONE), (absent, RefundVerdict.NOT_FOUND)):
        await till.mishap("refund.query", kind, **more)
        said = await till.rail.find_refund(till.account, asked)
        assert said.verdict is (truth if understood(till, mishap) else RefundVerdict.UNKNOWN)


async def test_a_refund_on_its_way_is_not_done(till: Till) -> None:
    await till.outside.control("/wechat/settings", {"refund_seconds": 600})
    charge = await till.paid()
    order = till.back(charge)
    await till.rail.refund(till.account, order)
    said = await till.rail.find_refund(till.account, order)
    assert (said.verdict, said.occurred_at) == (RefundVerdict.PROCESSING, None)


async def test_an_account_that_ran_short_gives_back_later(till: Till) -> None:
    charge = await till.paid(fen=5_000)
    everything = {"mchid": till.mchid, "account": "BASIC", "fen": till.balance(), "take": True}
    await till.outside.control("/wechat/balances", everything)
    order = till.back(charge)
    with pytest.raises(RailUnknown) as caught:
        await till.rail.refund(till.account, order)
    assert caught.value.extra["code"] in {"NOT_ENOUGH", "NOTENOUGH"}
    said = await till.rail.find_refund(till.account, order)
    assert said.verdict is RefundVerdict.NOT_FOUND
    topped = {"mchid": till.mchid, "account": "BASIC", "fen": 10**6}
    await till.outside.control("/wechat/balances", topped)
    await till.rail.refund(till.account, order)
    assert (await till.refunded(order)).verdict is RefundVerdict.DONE
