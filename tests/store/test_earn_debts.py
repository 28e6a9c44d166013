"""What users owe: since when and for what, given up by whom, owed again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import psycopg
import pytest
from tests.clawing import DAY, Clawing, clawing_world, usd
from tests.world import PostgresServer

from paymaster.db.tx import CellRead
from paymaster.earn import debt, proof
from paymaster.kernel.errors import NotFound, Unprocessable


@pytest.fixture
async def claw(postgres: PostgresServer) -> AsyncIterator[Clawing]:
    async with clawing_world(postgres) as made:
        yield made


async def owing(claw: Clawing, minor: int, user: str = "u1", campaign: str = "camp") -> int:
    """Make a user owe; the reward that was taken back."""
    reward_id = await claw.earn(user, campaign, usd(minor).text())
    await claw.pay(minor, user)
    await claw.reverse(reward_id)
    return reward_id


async def test_debts_are_listed_with_their_age(claw: Clawing):
    assert await claw.world.read(lambda tx: debt.listing(tx, None, 10)) == []
    first = await owing(claw, 100)
    await claw.pass_days(10)
    await claw.earn(reward_="0.40")
    await owing(claw, 500, "u2")
    before = claw.world.clock.now()
    claw.world.clock.advance(timedelta(days=3))
    found = await claw.world.read(lambda tx: debt.listing(tx, None, 10))
    shown = [one.wire(1, claw.world.clock.now()) for one in found]
    ages = [(one["owed"]["amount"], one["age_days"]) for one in shown]
    assert ages == [("0.60", 13), ("5.00", 3)]
    assert found[1].since == before
    [part] = found[0].origins
    assert (part.row.reward_id, part.amount) == (first, usd(60))
    after = (found[0].user_id, "USD")
    assert await claw.world.read(lambda tx: debt.listing(tx, after, 10)) == [found[1]]
    assert await claw.world.read(lambda tx: debt.of_user(tx, claw.user("u3"))) == []


async def test_the_oldest_part_is_paid_back_first(claw: Clawing):
    old, middle = await claw.earn(reward_="0.50"), await claw.earn(reward_="0.30")
    new = await claw.earn(reward_="0.40")
    await claw.pay(120)
    for reward_id in (old, middle, new):
        claw.world.clock.advance(timedelta(days=1))
        await claw.reverse(reward_id)
    await claw.earn(reward_="0.60")
    [found] = await claw.world.read(lambda tx: debt.of_user(tx, claw.user()))
    assert [(one.row.reward_id, one.amount.minor) for one in found.origins] == [
        (new, 40),
        (middle, 20),
    ]
    await claw.prove()


async def test_the_house_bears_what_no_policy_lays_on_a_sponsor(claw: Clawing):
    await owing(claw, 100)
    made = await claw.write_off(60)
    assert await claw.balance() == {"debt": 40}
    assert (await claw.house(), await claw.budget()) == (-60, 100_000)
    assert made.wire(1)["borne_by"] == [
        {
            "campaign": None,
            "amount": {"amount": "0.60", "currency": "USD"},
            "from_budget": {"amount": "0.00", "currency": "USD"},
        }
    ]
    await claw.prove()
    await claw.write_off(40)
    assert await claw.balance() == {}
    await claw.earn(reward_="0.10")
    assert await claw.balance() == {"available": 10}
    await claw.prove()


async def test_a_sponsor_bears_it_where_the_policy_says_so(claw: Clawing):
    await claw.put(loss="sponsor")
    await owing(claw, 100)
    assert await claw.budget() == 100_000
    made = await claw.write_off(100)
    assert await claw.budget() == 99_900
    assert await claw.house() == 0
    [part] = made.wire(1)["borne_by"]
    assert part["from_budget"] == {"amount": "1.00", "currency": "USD"}
    await claw.prove()


async def test_a_sponsor_without_money_leaves_the_rest_to_the_house(claw: Clawing):
    await claw.offer("poor", "1.00")
    await claw.put("campaign:poor", loss="sponsor")
    await owing(claw, 100, campaign="poor")
    await claw.earn("u2", "poor", "0.70")
    await claw.write_off(100)
    assert (await claw.budget("poor"), await claw.house()) == (0, -70)
    await claw.prove()


async def test_several_bear_their_parts_the_oldest_first(claw: Clawing):
    await claw.offer("theirs")
    await claw.put("campaign:theirs", loss="sponsor")
    await owing(claw, 50)
    claw.world.clock.advance(timedelta(days=1))
    reward_id = await claw.earn(campaign="theirs", reward_="1.50")
    await claw.pay(100)
    await claw.reverse(reward_id)
    made = await claw.write_off(80)
    assert [(row.campaign_id, row.amount) for row in made.rows] == [
        (claw.campaigns["theirs"], 80)
    ]  # the first 50 were paid back by the second reward
    again = await claw.write_off(20)
    assert again.rows[0].id > made.rows[0].id
    listed = await claw.world.read(lambda tx: debt.written_off(tx, claw.user()))
    assert [one.amount for one in listed] == [usd(20), usd(80)]
    await claw.prove()


async def test_each_part_is_borne_by_its_own(claw: Clawing):
    await claw.offer("theirs")
    await claw.put("campaign:theirs", loss="sponsor")
    ours, theirs = await claw.earn(reward_="0.50"), await claw.earn(campaign="theirs")
    await claw.pay(150)
    for reward_id in (ours, theirs):
        claw.world.clock.advance(timedelta(days=1))
        await claw.reverse(reward_id)
    made = await claw.write_off(70)
    assert [(row.campaign_id, row.amount) for row in made.rows] == [
        (None, 50),
        (claw.campaigns["theirs"], 20),
    ]
    assert (await claw.house(), await claw.budget("theirs")) == (-50, 100_000 - 20)
    await claw.prove()
    await claw.undo(made)
    assert (await claw.house(), await claw.budget("theirs")) == (0, 100_000)
    assert await claw.balance() == {"debt": 150}
    await claw.prove()


async def test_what_was_given_up_is_owed_again_and_paid_from_what_is_there(claw: Clawing):
    await claw.put(loss="sponsor")
    await owing(claw, 100)
    await claw.put(based_on=1, reserve={"ppm": 100_000, "seconds": 9 * DAY}, loss="sponsor")
    made = await claw.write_off(90)
    await claw.earn(reward_="0.50")  # 10 pays back the rest, of the 40 left 5 are kept aside
    assert await claw.balance() == {"available": 35, "reserve": 5}
    budget = await claw.budget()
    done = await claw.undo(made)
    assert done.undone
    assert await claw.balance() == {"debt": 50}
    assert await claw.budget() == budget + 90
    await claw.prove()
    assert (await claw.undo(made)).undone
    assert await claw.balance() == {"debt": 50}
    await claw.write_off(50)
    await claw.prove()


async def test_what_cannot_be_given_up(claw: Clawing):
    await owing(claw, 50)
    for minor, slug in ((51, "debt-smaller"), (0, "amount-not-positive")):
        with pytest.raises(Unprocessable, match=slug):
            await claw.write_off(minor)
    with pytest.raises(Unprocessable, match="debt-smaller"):
        await claw.write_off(1, "u2")
    with pytest.raises(NotFound, match="write-off-unknown"):
        await claw.world.run(lambda tx: debt.undo(tx, 5, "x"))


DAMAGE: dict[str, str] = {
    "UPDATE reserve SET remaining = remaining - 1 WHERE remaining > 1": "earn-reserve",
    "UPDATE reserve SET amount = amount - 1, remaining = remaining - 1"
    " WHERE remaining > 1": "earn-reserve-entries",
    "UPDATE reserve SET released = 0 WHERE released > 0": "earn-reserve-entries",
    "UPDATE reward_reversal SET owed = owed - 1, from_reserve = from_reserve + 1"
    " WHERE owed > 0": "earn-reversals",
    "DELETE FROM reward_reversal WHERE reference IS NULL": "earn-taken",
    "UPDATE reward SET taken = taken - 1 WHERE taken > 1": "earn-taken",
    "DELETE FROM reward_reversal WHERE reference IS NOT NULL": "earn-spent",
    "UPDATE entry SET digest = 'x' WHERE kind = 'reverse'": "earn-reward-entries",
    "UPDATE write_off SET amount = amount + 1": "earn-write-offs",
    "UPDATE write_off SET state = 'undone', undone_at = now() WHERE state = 'written_off'":
        "earn-write-offs",
    "DELETE FROM entry WHERE kind = 'write_off_undone'": "earn-write-offs",
    "UPDATE chargeback_day SET reversed = reversed + 1": "earn-chargebacks",
    "UPDATE chargeback_day SET rewards = rewards + 1": "earn-chargebacks",
    "UPDATE account SET balance = 5 WHERE kind = 'reserve' AND balance = 0": "earn-owing",
}  # fmt: skip


async def test_the_proof_names_what_was_altered(claw: Clawing):
    chargeback = {"above_ppm": 900_000, "window_days": 9}
    await claw.put(reserve={"ppm": 100_000, "seconds": 5 * DAY}, chargeback=chargeback)
    await claw.earn("u2")
    await claw.pass_days(5)
    await claw.earn("u2")
    reward_id = await claw.earn()
    await claw.pay(80)
    await claw.reverse(reward_id, 50, "part")
    await claw.reverse(reward_id)
    await claw.undo(await claw.write_off(10))
    await claw.write_off(20)
    await claw.prove()
    async with await psycopg.AsyncConnection.connect(claw.world.owner_dsn) as owner:
        for damage, check in DAMAGE.items():
            await owner.execute("SET LOCAL search_path TO cell_1")
            done = await owner.execute(damage.encode())
            assert done.rowcount > 0, damage
            tx = CellRead(owner, claw.world.clock.now(), 1, "Europe/Berlin")
            found = await proof.prove(tx)
            await owner.rollback()
            assert check in {one.check for one in found}, (damage, found)
