"""A client certificate that the provider does not accept: said clearly; its rail stops, no other.

APIv2 of WeChat Pay over real mutual TLS: a certificate that the handshake ends by, and somebody
else's, which the provider answers with its own error.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from tests.contract.sandboxes import Outside, outside
from tests.contract.wechat_world import WeChatHarness
from tests.payouts import Payouts, approved, new_payee, new_sealer, payout_world
from tests.scripted_rails import AskableRail
from tests.tls import certificate
from tests.withdrawals import BANK, CAMPAIGN, Earner, assert_proven
from tests.world import PostgresServer, owner_rows

from paymaster.db.tx import CellTx
from paymaster.dispatch.failures import find
from paymaster.kernel.money import Money
from paymaster.ledger import recipes
from paymaster.ledger.entry import Entry
from paymaster.ledger.post import post
from paymaster.people import destinations
from paymaster.people.users import Upsert, put

PAYMENTS = 8


@dataclass
class Place:
    """An account of the old product, and one of another rail beside it."""

    payouts: Payouts
    harness: WeChatHarness
    found: Outside

    async def payee(self, number: int) -> Earner:
        details = dict(self.harness.add_user(number).details)

        async def work(tx: CellTx) -> Earner:
            user_id, fund_id, reward_id = tx.ids(3)
            (made,) = await put(tx, self.payouts.sealer, [user_id], [Upsert(f"user-{number}")])
            assert made.slug is None
            view = await destinations.add(
                tx, self.payouts.sealer, user_id, "wechat", "CNY", details, cooling=timedelta(0)
            )
            money, nothing = Money.parse("100.00", "CNY"), Money.zero("CNY")
            reward = recipes.reward(
                CAMPAIGN, user_id, money, vests=False, owes=False, commission=nothing
            )
            entries = [
                Entry(fund_id, "fund", "x", recipes.fund(BANK, CAMPAIGN, money)),
                Entry(reward_id, "reward", "x", reward),
            ]
            assert all(each.done for each in await post(tx, entries))
            return Earner(user_id, view.ref.id, 1, "CNY")

        return await self.payouts.world.run(work)


@pytest.fixture
async def place(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Place]:
    async with (
        outside(tmp_path) as found,
        payout_world(postgres, AskableRail("bank")) as payouts,
    ):
        harness = await WeChatHarness.open(found, "transfers-v2", 3)
        payouts.sealer = new_sealer()
        harness.clock = payouts.world.clock  # numbers are of its time; APIv2 signs no time
        payouts.rails["wechat-pay"] = harness.make_rail()
        await payouts.add_account(
            "wx", "wechat-pay", currency="CNY", settings=dict(harness.account.settings),
            secrets=dict(harness.account.secrets),
        )  # fmt: skip
        yield Place(payouts, harness, found)
        await assert_proven(payouts.world)


async def stranger(place: Place, _folder: Path) -> str:
    other = await WeChatHarness.open(place.found, "transfers-v2", 8)
    return other.kept["identity"]


async def unsigned(_place: Place, folder: Path) -> str:
    return "".join(Path(part).read_text() for part in certificate(folder, "127.0.0.1"))  # noqa: ASYNC240 - a test's file


@pytest.mark.parametrize(
    ("whose", "code"), [(stranger, "CA_ERROR"), (unsigned, "certificate-refused")]
)
async def test_it_is_named_and_stops_one_rail(
    place: Place, tmp_path: Path, whose: Callable[[Place, Path], Awaitable[str]], code: str
) -> None:
    payouts, sound = place.payouts, place.harness.kept["identity"]
    folder = tmp_path / "wrong"
    folder.mkdir()
    place.harness.kept["identity"] = await whose(place, folder)
    wrong = [
        await approved(payouts, await place.payee(number), "1.00") for number in range(PAYMENTS)
    ]
    right = await approved(payouts, await new_payee(payouts, 900), "1.00")
    dispatcher = payouts.dispatcher()
    await payouts.run(dispatcher)
    now = payouts.world.clock.now()
    assert not dispatcher.lanes[payouts.accounts["wx"].id].healthy(now), "its breaker is open"
    assert dispatcher.lanes[payouts.accounts["bank"].id].healthy(now)
    assert (await payouts.states(right))[1] != ["unknown"], "the other rail goes on"
    codes = owner_rows(
        payouts.world,
        "SELECT DISTINCT a.code FROM attempt a WHERE a.rail_account_id = %s AND a.code IS NOT NULL",
        payouts.accounts["wx"].id,
    )
    assert codes == [(code,)]
    known = find(code)
    assert (known.category.value, known.fix.value) == ("ours", "check-setup")
    assert "certificate" in known.operator.en
    place.harness.kept["identity"] = sound
    for _ in range(60):
        payouts.world.clock.advance(timedelta(minutes=5))
        await payouts.run(dispatcher)
    states = [(await payouts.states(one))[0] for one in wrong]
    assert states == ["paid"] * PAYMENTS, "with the right one everything is paid"
    books = await place.found.control("/wechat/books")
    references = books["references"]
    assert isinstance(references, dict)
    assert sorted(references.values()) == [1] * PAYMENTS
    await dispatcher.stop()
