"""Notices arrive signed; twice, late, out of order, forged or not at all when told so."""

from datetime import UTC, datetime

from tests.contract.sandbox.support import PSP, Client, Heard, Receiver, eventually, wallet

from paymaster_sandbox import World

ADA = wallet(1)


def fresh(heard: Heard) -> bool:
    age = datetime.now(UTC).timestamp() - int(heard.headers["sandpay-timestamp"])
    return -2 < age < 30


async def test_copies_carry_the_same_event_and_bytes(
    client: Client, receiver: Receiver, world: World
) -> None:
    await client.control("faults", webhook_copies=2)
    await client.pay("k1", "R1", ADA)
    await eventually(lambda: len(receiver.heard) == 2)
    first, second = receiver.heard
    assert first.body == second.body
    assert first.headers["sandpay-id"] == second.headers["sandpay-id"]
    assert all(heard.genuine(world.webhook_secret) and fresh(heard) for heard in receiver.heard)


async def test_late_notices_wait_for_virtual_time(client: Client, receiver: Receiver) -> None:
    await client.control("faults", webhook_late=1, late_seconds=3600)
    await client.pay("k1", "LATE", ADA)
    await client.settled()
    await client.pay("k2", "PROMPT", ADA)
    await eventually(lambda: receiver.heard)
    assert [heard.event["data"]["reference"] for heard in receiver.heard] == ["PROMPT"]
    await client.control("clock", advance_seconds=3601)
    await eventually(lambda: len(receiver.heard) == 2)
    assert receiver.heard[1].event["data"]["reference"] == "LATE"
    assert fresh(receiver.heard[1])


async def test_a_receiver_that_was_down_hears_later(client: Client, receiver: Receiver) -> None:
    await receiver.down()
    await client.pay("k1", "R1", ADA)

    async def tried_twice() -> bool:
        answer = await client.http.get("/_control/events", params={"kind": "webhook.sent"})
        return len(answer.json()["events"]) >= 2

    await eventually(tried_twice)
    await receiver.up()
    await client.control("clock", advance_seconds=60)
    heard = (await eventually(lambda: receiver.heard))[0]
    assert heard.event["data"]["reference"] == "R1"
    assert fresh(heard)


async def test_an_error_answer_is_tried_again_and_then_no_more(
    client: Client, receiver: Receiver, world: World
) -> None:
    receiver.status = 500
    await client.pay("k1", "R1", ADA)
    await eventually(lambda: receiver.heard)
    receiver.status = 200
    await eventually(lambda: len(receiver.heard) == 2)
    assert receiver.heard[0].body == receiver.heard[1].body
    assert receiver.heard[1].genuine(world.webhook_secret)
    await client.control("clock", advance_seconds=100_000)

    async def nothing_left() -> bool:
        return (await client.books())["notices_pending"] == 0

    await eventually(nothing_left)
    assert len(receiver.heard) == 2


async def test_lost_and_forged_notices(client: Client, receiver: Receiver, world: World) -> None:
    await client.control("faults", webhook_lose=1)
    await client.pay("k1", "LOST", ADA)
    await client.settled()
    await client.control("faults", webhook_forge=1)
    await client.pay("k2", "FORGED", ADA)
    await eventually(lambda: len(receiver.heard) == 2)
    assert {heard.event["data"]["reference"] for heard in receiver.heard} == {"FORGED"}
    by_truth = {heard.genuine(world.webhook_secret): heard.event for heard in receiver.heard}
    assert by_truth[True]["type"] == "payout.paid"
    assert by_truth[False]["type"] == "payout.failed"
    assert (await client.get("/v1/payouts", reference="LOST")).json()["data"][0]["status"] == "paid"


async def test_shuffled_notices_come_out_of_order(client: Client, receiver: Receiver) -> None:
    await client.control("faults", webhook_shuffle=True)
    sent = [f"R{number:02}" for number in range(12)]
    for number, reference in enumerate(sent):
        await client.pay(f"k{number}", reference, ADA)
    await eventually(lambda: len(receiver.heard) == len(sent))
    arrived = [heard.event["data"]["reference"] for heard in receiver.heard]
    assert sorted(arrived) == sent
    assert arrived != sent


async def test_a_new_address_takes_over_what_is_pending(client: Client, receiver: Receiver) -> None:
    other = Receiver()
    await receiver.down()
    await client.pay("k1", "R1", ADA)
    await client.settled()
    await other.up()
    await client.control(
        "wallet-merchant", currency="EUR", iban=PSP, opening_balance="0.00",
        webhook_url=other.url,
    )  # fmt: skip
    await client.control("clock", advance_seconds=60)
    await eventually(lambda: other.heard)
    await other.down()
