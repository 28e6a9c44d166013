"""The stages of the demo, in the order in which the money goes. Every stage may be run again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any
from urllib.parse import quote

from paymaster.cli.demo import payees
from paymaster.cli.demo.answers import Answer, gold_of
from paymaster.cli.demo.scene import BANK, CAMPAIGN, SPONSOR, TASK, WALLET, Story, wait_for
from paymaster.kernel.errors import Refusal
from paymaster.kernel.money import Money

BATCH, AT_ONCE = 500, 4
THRESHOLD_MAJOR = 1
MOST_MAJOR = 1999
"""From 2,000 yuan on WeChat Pay wants the payee's name, which a linked account does not bring."""
RETURN_CODE = "AC04"
IBAN, SANDBOX_WALLET = "iban", "sandbox-wallet"


async def offer_work(story: Story) -> None:
    """A sponsor, a campaign, a task with gold answers that never leave the server."""
    await story.app.put(f"/v1/sponsors/{SPONSOR}", {"name": "Demo Sponsor"})
    await story.app.put(
        f"/v1/campaigns/{CAMPAIGN}",
        {
            "sponsor": SPONSOR,
            "name": "Label the items",
            "currency": story.currency,
            "starts_at": "2025-01-01T00:00:00Z",
            "when_exhausted": "wait",
            "vesting_seconds": 0,
        },
    )
    await story.app.put(
        f"/v1/campaigns/{CAMPAIGN}/tasks/{TASK}",
        {
            "type": "labelling",
            "title": "Answer like the experts",
            "reward": story.wire(story.reward),
            "verification": {"kind": "gold", "item": "item", "answer": "response"},
            "starts_at": "2025-01-01T00:00:00Z",
        },
    )
    gold = list(gold_of(story.answers).items())
    for start in range(0, len(gold), BATCH):
        await story.app.put(
            f"/v1/campaigns/{CAMPAIGN}/tasks/{TASK}/gold",
            {"items": dict(gold[start : start + BATCH])},
        )
        story.step(min(start + BATCH, len(gold)), len(gold))


async def sponsor_pays(story: Story) -> None:
    """The sponsor's transfer reaches the bank; the statement of that day funds the budget."""
    campaign = await story.app.get(f"/v1/campaigns/{CAMPAIGN}")
    amount = Money(story.reward.minor * max(len(story.answers), 1), story.currency)
    await story.sandbox.post(
        "/_control/incoming",
        {
            "id": "sponsor-payment-1",
            "iban": payees.german_iban(payees.OUR_IBAN_NUMBER),
            **story.wire(amount),
            "remittance": campaign["funding_reference"],
            "debtor_name": "Demo Sponsor",
        },
    )
    await story.sandbox.post(
        "/_control/close-day", {"date": story.state.funding_day, "advance": True}
    )

    async def funded() -> bool:
        found = await story.app.get(f"/v1/campaigns/{CAMPAIGN}")
        return bool(found["budget"]["funded"]["amount"] == amount.text())

    await wait_for(funded, "the sponsor's payment on the bank statement")


async def workers_answer(story: Story) -> None:
    """The whole log twice: in order, then shuffled and partly concurrent. Nothing may change."""
    await _register(story)
    batches = _batches(story.answers)
    total = 2 * len(batches)
    for number, batch in enumerate(batches, start=1):
        await _send(story, batch)
        story.step(number, total)
    shuffled = list(story.answers)
    Random(story.seed).shuffle(shuffled)  # noqa: S311 - play money
    again = _batches(shuffled)
    for start in range(0, len(again), AT_ONCE):
        await asyncio.gather(*(_send(story, batch) for batch in again[start : start + AT_ONCE]))
        story.step(len(batches) + min(start + AT_ONCE, len(again)), total)

    async def settled() -> bool:
        found = await story.app.get(f"/v1/campaigns/{CAMPAIGN}")
        return bool(found["counters"]["awaiting_funds"] == 0)

    await wait_for(settled, "the last reward to find its budget")


async def _register(story: Story) -> None:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(worker: str) -> None:
        async with gate:
            await story.app.put(f"/v1/users/{quote(worker, safe='')}", {})

    await asyncio.gather(*map(one, story.workers))


def _batches(answers: Sequence[Answer]) -> list[Sequence[Answer]]:
    return [answers[start : start + BATCH] for start in range(0, len(answers), BATCH)]


async def _send(story: Story, batch: Sequence[Answer]) -> None:
    events = [
        {
            "event_id": answer.event_id,
            "user": answer.worker,
            "campaign": CAMPAIGN,
            "task": TASK,
            "type": "answer",
            "occurred_at": f"{story.state.payout_day}T00:00:00Z",
            "payload": {"item": answer.item, "response": answer.response},
        }
        for answer in batch
    ]
    answer = (
        await story.app.send("POST", "/v1/events", {"events": events}, params={"source": "demo"})
    ).json()
    if answer["rejected"]:
        raise Refusal("demo-refused", f"An answer was rejected: {answer['rejected'][0]}")


async def plan_withdrawals(story: Story) -> list[dict[str, str]]:
    """Who has at least 1.00 and where it goes; decided once and remembered."""
    if story.state.withdrawals is not None:
        return story.state.withdrawals
    threshold = story.major(THRESHOLD_MAJOR)
    kinds = story.rails or (IBAN, SANDBOX_WALLET)
    plan: list[dict[str, str]] = []
    workers = story.workers
    for number, worker in enumerate(workers, start=1):
        balances = await story.app.get(f"/v1/users/{quote(worker, safe='')}/balances")
        for balance in balances["data"]:
            amount = Money.parse(balance["available"]["amount"], story.currency)
            if balance["available"]["currency"] == story.currency and amount >= threshold:
                kind = kinds[len(plan) % len(kinds)]
                asked = min(amount, story.major(MOST_MAJOR)) if story.rails else amount
                plan.append({"worker": worker, "amount": asked.text(), "kind": kind})
        story.step(number, len(workers))
    story.state.withdrawals = plan
    story.state.float_amount = _sum(story, plan, SANDBOX_WALLET).text()
    story.save(story.state)
    return plan


def _sum(story: Story, plan: list[dict[str, str]], kind: str) -> Money:
    total = Money.zero(story.currency)
    for item in plan:
        if item["kind"] == kind:
            total += Money.parse(item["amount"], story.currency)
    return total


async def fund_wallet(story: Story) -> None:
    """Move float from the bank to the wallet provider, by a payment of our own."""
    amount = Money.parse(story.state.float_amount or "0", story.currency)
    if not amount:
        return
    transfer = await story.operator.post(
        "/v1/transfers",
        {"from": BANK, "to": WALLET, "amount": story.wire(amount), "reason": "float for the day"},
        key="demo-float",
    )
    await story.operator.post(f"/v1/rail-accounts/{BANK}/close-window", {"reason": "demo"})

    async def arrived() -> bool:
        """The bank has executed it: a payout before that would find no float."""
        found = await story.operator.get(f"/v1/transfers/{transfer['id']}")
        wallets = (await story.sandbox.get("/_control/books"))["wallet"]
        there = wallets.get(story.currency, {}).get("topup_minor", 0)
        waits = found["state"] in ("requested", "queued", "sending", "unknown")
        return not waits and bool(there >= amount.minor)

    await wait_for(arrived, "the float to reach the wallet provider")


async def workers_withdraw(story: Story) -> None:
    """Add a destination and withdraw everything; every request is sent twice with one key."""
    plan = await plan_withdrawals(story)
    await _arm_faults(story, plan)
    await fund_wallet(story)
    for number, item in enumerate(plan, start=1):
        await _withdraw(story, item)
        story.step(number, len(plan))


async def _arm_faults(story: Story, plan: list[dict[str, str]]) -> None:
    """Two bank payments will come back, and the wallet provider misbehaves once."""
    for item in [item for item in plan if item["kind"] == "iban"][:2]:
        await story.sandbox.post(
            "/_control/oracle",
            {
                "payee": payees.iban(item["worker"]),
                "outcome": "return",
                "code": RETURN_CODE,
                "uses": 1,
            },
        )
    await story.sandbox.post(
        "/_control/faults",
        {
            "name": "demo",
            "drop_answers": 1,
            "webhook_copies": 2,
            "webhook_late": 1,
            "late_seconds": 2,
        },
    )


async def _withdraw(story: Story, item: dict[str, str]) -> None:
    worker, user = item["worker"], quote(item["worker"], safe="")
    details = (
        {"iban": payees.iban(worker), "holder": worker}
        if item["kind"] == "iban"
        else {"wallet": payees.wallet(worker)}
    )
    path = f"/v1/users/{user}/destinations"
    known = [one for one in await story.app.all(path) if one["kind"] == item["kind"]]
    if known and known[0]["state"] == "closed":
        return
    body = {"kind": item["kind"], "currency": story.currency, "details": details}
    destination = known[0] if known else await story.app.post(path, body)
    await request_twice(story, item, destination["id"])


async def request_twice(story: Story, item: dict[str, str], destination: str) -> dict[str, Any]:
    """Ask for a withdrawal two times at once with one key: there is one, and one answer."""
    worker = item["worker"]
    request = {
        "user": worker,
        "destination": destination,
        "amount": {"amount": item["amount"], "currency": story.currency},
    }
    answers = await asyncio.gather(
        *(
            story.app.send(
                "POST",
                "/v1/withdrawals",
                request,
                headers={"Idempotency-Key": f"demo-withdraw-{worker}"},
            )
            for _ in range(2)
        )
    )
    if answers[0].content != answers[1].content:
        raise Refusal("demo-refused", "One Idempotency-Key got two different answers.")
    return answers[0].json()


async def screened(story: Story) -> bool:
    """Whether no withdrawal waits for the rules; what they leave to a person is approved."""
    found = await story.app.all("/v1/withdrawals")
    waiting = [w for w in found if w["state"] in ("requested", "screening", "approved")]
    for one in found:
        if one["state"] == "in_review":
            path = f"/v1/withdrawals/{one['id']}/approve"
            await story.operator.post(path, {"reason": "looked at by the demo's operator"})
    return not waiting and all(w["state"] != "in_review" for w in found)


async def money_leaves(story: Story) -> None:
    """The rules approve, the bank's file leaves at its window, the wallet payouts one by one."""
    total = len(story.state.withdrawals or [])
    await wait_for(lambda: screened(story), "the withdrawals to be screened")
    await story.operator.post(f"/v1/rail-accounts/{BANK}/close-window", {"reason": "demo"})

    async def sent() -> bool:
        found = await story.app.all("/v1/withdrawals")
        done = [w for w in found if w["state"] in ("sent", "paid", "failed", "returned")]
        story.step(len(done), total)
        return len(done) == len(found)

    await wait_for(sent, "the payments to leave")


async def reconcile(story: Story) -> None:
    """The day ends: both statements are read and every line finds its posting."""
    day = story.state.payout_day

    async def booked() -> bool:
        return bool((await story.sandbox.get("/_control/books"))["pending"] == 0)

    await wait_for(booked, "the providers to finish their day")
    await story.sandbox.post("/_control/close-day", {"date": day, "advance": False})

    async def matched() -> bool:
        for account in (BANK, WALLET):
            found = await story.operator.get(
                "/v1/reconciliation/statements", rail_account=account, day=day
            )
            if not found["data"]:
                return False
        summary = await story.operator.get("/v1/reconciliation/summary")
        withdrawals = await story.app.all("/v1/withdrawals")
        ended = all(w["state"] in ("paid", "returned", "failed") for w in withdrawals)
        return ended and summary["open_lines"] == 0

    await wait_for(matched, "the statements to be matched")
    for account in (BANK, WALLET):
        await story.operator.post("/v1/reconciliation/runs", {"rail_account": account, "day": day})


async def close_day(story: Story) -> dict[str, Any]:
    """Prove the books, then close and sign the day."""
    proof: dict[str, Any] = await story.operator.post("/v1/proofs")
    await story.operator.post(f"/v1/days/{story.state.payout_day}/close")
    return proof
