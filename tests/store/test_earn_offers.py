"""Sponsors, campaigns, tasks and gold in the directory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from tests.earning import ENVIRONMENT, LONG_AGO, Earning, earning_world
from tests.world import PostgresServer, owner_rows

from paymaster.earn import campaign, task
from paymaster.earn.campaign import PutCampaign
from paymaster.earn.machine import OfferState
from paymaster.kernel.errors import NotFound, Refusal, Unprocessable
from paymaster.kernel.money import Money

ONCE = {"kind": "count", "event": "done"}


@pytest.fixture
async def earning(postgres: PostgresServer) -> AsyncIterator[Earning]:
    async with earning_world(postgres) as made:
        yield made


async def test_a_campaign_may_be_put_again(earning: Earning):
    first = await earning.put_campaign(targeting={"countries": ["DE", "FR"], "minimum_age": 18})
    again = await earning.put_campaign(targeting={"countries": ["DE", "FR"], "minimum_age": 18})
    assert first == again
    assert first.version == 1
    changed = await earning.put_campaign(name="A new name")
    assert (changed.id, changed.version, changed.name) == (first.id, 2, "A new name")
    found = await earning.control(lambda tx: campaign.get(tx, ENVIRONMENT, "camp"))
    assert found == changed
    assert [row[0] for row in owner_rows(
        earning.world, "SELECT action FROM control.audit ORDER BY commit_id, ordinal"
    )] == ["sponsor.put", "campaign.created", "campaign.changed"]  # fmt: skip


async def test_a_payment_finds_its_campaign(earning: Earning):
    one, two = await earning.put_campaign(), await earning.put_campaign("other")
    assert one.funding_reference != two.funding_reference
    assert one.funding_reference.startswith("CP")
    assert len(one.funding_reference) == 15
    for view in (one, two):
        found = await earning.control(
            lambda tx, ref=view.funding_reference: campaign.by_funding_reference(
                tx, ENVIRONMENT, ref
            )
        )
        assert found == view
    assert await earning.control(
        lambda tx: campaign.by_funding_reference(tx, 2, one.funding_reference)
    ) is None  # fmt: skip
    listed = await earning.control(lambda tx: campaign.funding_references(tx, ENVIRONMENT))
    assert sorted(listed) == sorted(
        (view.funding_reference, view.number, "USD") for view in (one, two)
    )


CAMPAIGN_FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"currency": "XXX"}, "currency-unknown"),
    ({"sponsor": "nobody"}, "sponsor-unknown"),
    ({"name": ""}, "campaign-invalid"),
    ({"ends_at": LONG_AGO}, "campaign-invalid"),
    ({"starts_at": LONG_AGO.replace(tzinfo=None)}, "campaign-invalid"),
    ({"when_exhausted": "panic"}, "campaign-invalid"),
    ({"vesting_seconds": -1}, "campaign-invalid"),
    ({"targeting": {"zodiac": "lion"}}, "campaign-invalid"),
]
TASK_FAULTS: list[dict[str, Any]] = [
    {"type": "poem"},
    {"reward": "0.00"},
    {"reward": "-1.00"},
    {"user_cap": 0},
    {"verification": {"kind": "count", "event": "x", "count": 0}},
    {"requirements": {"minimum_age": 1000}},
    {"expires_at": LONG_AGO},
    {"name": "a\nb"},
]


async def test_what_has_faults_is_refused(earning: Earning):
    for changes, slug in CAMPAIGN_FAULTS:
        with pytest.raises(Refusal, match=slug):
            await earning.put_campaign(**changes)
    await earning.put_campaign()
    for changes in TASK_FAULTS:
        with pytest.raises(Unprocessable, match="task-invalid"):
            await earning.put_task(**{"verification": ONCE, **changes})


async def test_what_money_hangs_on_stays_as_it_was(earning: Earning):
    await earning.put_campaign()
    refused: list[dict[str, Any]] = [
        {"currency": "EUR"},
        {"starts_at": LONG_AGO + timedelta(days=1)},
    ]
    for changes in refused:
        with pytest.raises(Unprocessable, match="campaign-immutable"):
            await earning.put_campaign(**changes)
    await earning.put_task(ONCE)
    with pytest.raises(Unprocessable, match="task-immutable"):
        await earning.put_task({"kind": "gold"})
    with pytest.raises(Unprocessable, match="task-immutable"):
        await earning.put_task(ONCE, type="survey")


async def test_what_has_ended_stays_ended(earning: Earning):
    for state in (OfferState.PAUSED, OfferState.ACTIVE, OfferState.ENDED):
        assert (await earning.put_campaign(state=state)).state == state
    with pytest.raises(Unprocessable, match="campaign-ended"):
        await earning.put_campaign()
    await earning.put_task(ONCE)
    await earning.put_task(ONCE, state=OfferState.ENDED)
    with pytest.raises(Unprocessable, match="task-ended"):
        await earning.put_task(ONCE)


async def test_a_task_may_be_put_again(earning: Earning):
    await earning.put_campaign()
    first = await earning.put_task(ONCE, requirements={"languages": ["de"]}, user_cap=3)
    again = await earning.put_task(ONCE, requirements={"languages": ["de"]}, user_cap=3)
    assert first == again
    dearer = await earning.put_task(ONCE, reward="0.03")
    assert (dearer.id, dearer.version, dearer.reward.text()) == (first.id, 2, "0.03")
    assert await earning.control(lambda tx: task.get(tx, ENVIRONMENT, first.id)) == dearer
    assert dearer.wire()["reward"] == {"amount": "0.03", "currency": "USD"}
    for name in ("tk_000000000000000", "tk_", first.id.replace("tk_", "cp_")):
        with pytest.raises(NotFound, match="task-unknown"):
            await earning.control(lambda tx, n=name: task.get(tx, ENVIRONMENT, n))
    with pytest.raises(NotFound, match="task-unknown"):
        await earning.control(lambda tx: task.get(tx, 2, first.id))


async def test_a_reward_has_the_decimals_and_currency_of_its_campaign(earning: Earning):
    await earning.put_campaign()
    with pytest.raises(Refusal, match="amount-precision"):
        await earning.put_task(ONCE, reward="0.021")
    wanted = task.PutTask("t", "custom", "T", Money(1, "EUR"), ONCE, LONG_AGO)
    with pytest.raises(Unprocessable, match="currency-mismatch"):
        await earning.control(lambda tx: task.put_task(tx, ENVIRONMENT, "camp", wanted))
    with pytest.raises(NotFound, match="campaign-unknown"):
        await earning.control(lambda tx: task.put_task(tx, ENVIRONMENT, "none", wanted))


async def test_gold_is_put_in_parts_and_corrected(earning: Earning):
    await earning.put_campaign()
    made = await earning.put_task({"kind": "gold"})

    async def put(answers: dict[str, str], name: str = made.id) -> int:
        return await earning.control(lambda tx: task.put_gold(tx, ENVIRONMENT, name, answers))

    assert await put({"a": "1", "b": "2"}) == 2
    assert await put({"b": "2", "c": "3"}) == 1
    assert await put({"b": "4"}) == 1
    rows = owner_rows(earning.world, "SELECT item, answer FROM control.gold ORDER BY item")
    assert rows == [("a", "1"), ("b", "4"), ("c", "3")]
    with pytest.raises(Unprocessable, match="gold-invalid"):
        await put({"x" * 257: "1", "y": ""})
    counted = await earning.put_task(ONCE, "counted")
    with pytest.raises(Unprocessable, match="task-without-gold"):
        await put({"a": "1"}, counted.id)
    with pytest.raises(Refusal, match="batch-too-large"):
        await put({str(number): "1" for number in range(10_001)})


async def test_lists_are_paged_and_complete(earning: Earning):
    for number in range(5):
        await earning.put_campaign(f"camp-{number}")
        await earning.put_task(ONCE, f"task-{number}", parent="camp-0")
    seen: list[str] = []
    after = 0
    while page := await earning.control(
        lambda tx, a=after: campaign.listing(tx, ENVIRONMENT, a, 2)
    ):
        seen += [view.external_id for view in page]
        after = page[-1].number
    assert seen == [f"camp-{number}" for number in range(5)]
    tasks = await earning.control(lambda tx: task.listing(tx, ENVIRONMENT, "camp-0", 0, 50))
    assert [view.external_id for view in tasks] == [f"task-{number}" for number in range(5)]
    [sponsor] = await earning.control(lambda tx: campaign.sponsors(tx, ENVIRONMENT, 1))
    assert sponsor.wire()["name"] == "Acme"
    assert (await earning.control(
        lambda tx: campaign.get_sponsor(tx, ENVIRONMENT, 1, "acme")
    )) == sponsor  # fmt: skip
    with pytest.raises(NotFound, match="sponsor-unknown"):
        await earning.control(lambda tx: campaign.get_sponsor(tx, ENVIRONMENT, 1, "none"))
    with pytest.raises(Unprocessable, match="sponsor-invalid"):
        await earning.control(lambda tx: campaign.put_sponsor(tx, ENVIRONMENT, 1, "", ""))


async def test_a_campaign_is_of_its_environment(earning: Earning):
    view = await earning.put_campaign()
    with pytest.raises(NotFound, match="campaign-unknown"):
        await earning.control(lambda tx: campaign.get(tx, 2, "camp"))
    assert await earning.control(lambda tx: campaign.by_id(tx, 2, [view.number])) == {}
    wanted = PutCampaign("camp", "acme", "x", "USD", LONG_AGO)
    with pytest.raises(Unprocessable, match="sponsor-unknown"):
        await earning.control(lambda tx: campaign.put_campaign(tx, 2, 1, wanted))
