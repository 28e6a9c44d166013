"""What came out: from Paymaster's API, held against the sandboxes' own books."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from paymaster.cli.demo import payees
from paymaster.cli.demo.scene import CAMPAIGN, WECHAT, Story
from paymaster.kernel.clock import parse_rfc3339
from paymaster.kernel.money import Money

NOT_ACCEPTED = "OVERDUE_CLOSE"
"""What WeChat says of a payment that nobody accepted in time."""

LATE = timedelta(hours=1)
"""Who took longer than this to accept was late."""


async def summarise(story: Story, proof: dict[str, Any]) -> dict[str, Any]:
    """The summary object; amounts in minor units."""
    campaign = await story.app.get(f"/v1/campaigns/{CAMPAIGN}")
    withdrawals = await story.app.all("/v1/withdrawals")
    paid = [w for w in withdrawals if w["state"] == "paid"]
    returned = [w for w in withdrawals if w["state"] == "returned"]
    books = await story.sandbox.get("/_control/books")
    reconciliation = await story.operator.get("/v1/reconciliation/summary")
    counters, budget = campaign["counters"], campaign["budget"]
    more = await _by_rail(story, withdrawals, books) if story.rails else {}
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
        **more,
    }


async def _by_rail(
    story: Story, withdrawals: list[dict[str, Any]], books: dict[str, Any]
) -> dict[str, Any]:
    """Each rail by itself, ours beside what the provider's own books have of the same payees."""
    late = [
        await _waited(story, one)
        for one in withdrawals
        if one["destination_kind"] == WECHAT and one["state"] == "paid"
    ]
    lists = {
        rail: [one for one in withdrawals if one["destination_kind"] == rail]
        for rail in story.rails
    }
    return {
        "by_rail": {rail: _rail(rail, found, books) for rail, found in lists.items()},
        "expired_returned": sum(map(_expired, withdrawals)),
        "confirmed_late": sum(waited >= LATE for waited in late),
    }


def _rail(rail: str, found: list[dict[str, Any]], books: dict[str, Any]) -> dict[str, int]:
    account = payees.openid if rail == WECHAT else payees.alipay_user
    theirs = [books["payees"].get(account(one["external_id"]), {}) for one in found]

    def count(name: str, chosen: list[dict[str, Any]]) -> dict[str, int]:
        return {name: len(chosen), f"{name}_minor": sum(minor(one["amount"]) for one in chosen)}

    return {
        **count("withdrawals", found),
        **count("paid", [one for one in found if one["state"] == "paid"]),
        **count("returned", [one for one in found if one["state"] == "returned"]),
        **count("expired", list(filter(_expired, found))),
        "sandbox_paid_minor": sum(
            one["paid_minor"] - one["returned_minor"] for one in theirs if one
        ),
    }


def _expired(one: dict[str, Any]) -> bool:
    return one["state"] == "failed" and one["reason"] == NOT_ACCEPTED


async def _waited(story: Story, one: dict[str, Any]) -> timedelta:
    """How long a payment waited for its payee, by the environment's clock."""
    moves = (await story.operator.get(f"/v1/withdrawals/{one['id']}"))["moves"]
    asked, paid = (
        max((parse_rfc3339(move["at"]) for move in moves if move["to"] == state), default=None)
        for state in ("awaiting_payee", "paid")
    )
    return paid - asked if asked and paid else timedelta(0)


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
    """Whether the day ended as it must: nothing open, nothing paid twice, the books proven.

    With `by_rail` each rail by itself is as its provider says, one payment expired where there
    is WeChat, and one was accepted late.
    """
    rails = summary.get("by_rail", {})
    expected = int(WECHAT in rails)
    return (
        summary["prove"] == "ok"
        and summary["open_breaks"] == 0
        and summary["duplicates_paid"] == 0
        and summary["paid"] + summary["returned"] + summary.get("expired_returned", 0)
        == summary["withdrawals"]
        and summary["paid_minor"] == summary["sandbox_paid_minor"]
        and summary["owed_minor"] == summary["rewarded_minor"] - summary["paid_minor"]
        and summary["sponsor_spent_minor"] == summary["rewarded_minor"]
        and all(one["paid_minor"] == one["sandbox_paid_minor"] for one in rails.values())
        and summary.get("expired_returned", 0) == expected
        and summary.get("confirmed_late", 0) == expected
        and sum(one["withdrawals"] for one in rails.values()) in (0, summary["withdrawals"])
    )
