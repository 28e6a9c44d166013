"""What came out: from Paymaster's API, held against the sandboxes' own books."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

from paymaster.cli.demo.scene import CAMPAIGN, Story
from paymaster.kernel.money import Money


async def summarise(story: Story, proof: dict[str, Any]) -> dict[str, Any]:
    """The summary object; amounts in minor units."""
    campaign = await story.app.get(f"/v1/campaigns/{CAMPAIGN}")
    withdrawals = await story.app.all("/v1/withdrawals")
    paid = [w for w in withdrawals if w["state"] == "paid"]
    returned = [w for w in withdrawals if w["state"] == "returned"]
    books = await story.sandbox.get("/_control/books")
    reconciliation = await story.operator.get("/v1/reconciliation/summary")
    counters, budget = campaign["counters"], campaign["budget"]
    return {
        "answers": counters["events"],
        "workers": counters["users"],
        "rewarded": counters["rewards"],
        "rewarded_minor": minor(counters["rewarded"]),
        "withdrawals": len(withdrawals),
        "paid": len(paid),
        "paid_minor": sum(minor(w["amount"]) for w in paid),
        "returned": len(returned),
        "returned_minor": sum(minor(w["amount"]) for w in returned),
        "sponsor_spent_minor": minor(budget["spent"]),
        "open_breaks": reconciliation["open_breaks"],
        "duplicates_paid": len(books["duplicates"]),
        "prove": _proof(proof),
        "owed_minor": await _owed(story),
        "sandbox_paid_minor": books["paid_minor"].get(story.currency, 0),
    }


def minor(amount: dict[str, str]) -> int:
    """Minor units of an amount as the API writes it."""
    return Money.parse(amount["amount"], amount["currency"]).minor


def _proof(proof: dict[str, Any]) -> Any:
    if proof["ok"]:
        return "ok"
    return [difference for cell in proof["cells"] for difference in cell["differences"]]


async def _owed(story: Story) -> int:
    """What all users still have, whatever its state."""
    gate = asyncio.Semaphore(4)

    async def one(worker: str) -> int:
        async with gate:
            found = await story.app.get(f"/v1/users/{quote(worker, safe='')}/balances")
        return sum(
            minor(balance["available"])
            + minor(balance["vesting"]["total"])
            + sum(minor(held["amount"]) for held in balance["held"])
            - minor(balance["debt"])
            for balance in found["data"]
        )

    return sum(await asyncio.gather(*map(one, story.workers)))


def closes_clean(summary: dict[str, Any]) -> bool:
    """Whether the day ended as it must: nothing open, nothing paid twice, the books proven."""
    return (
        summary["prove"] == "ok"
        and summary["open_breaks"] == 0
        and summary["duplicates_paid"] == 0
        and summary["paid"] + summary["returned"] == summary["withdrawals"]
        and summary["paid_minor"] == summary["sandbox_paid_minor"]
        and summary["owed_minor"] == summary["rewarded_minor"] - summary["paid_minor"]
        and summary["sponsor_spent_minor"] == summary["rewarded_minor"]
    )
