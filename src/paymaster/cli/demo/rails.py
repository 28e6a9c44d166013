"""The stages of the demo over WeChat Pay and Alipay. Every stage may be run again.

The first payee at WeChat never accepts, the second only after hours; one payment through Alipay
comes back the day after. All others have their money at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import Any, Final

from paymaster.cli.demo import clocks, linking, payees
from paymaster.cli.demo import story as stages
from paymaster.cli.demo.scene import ALIPAY, BANK, WECHAT, Story, wait_for
from paymaster.kernel.errors import Refusal

LEAST_PAYEES: Final = 3
LATE_HOURS: Final = 6
NEVER, LATE, RETURNED, PROMPT = "never", "late", "returned", "prompt"
ENDED: Final = frozenset({"paid", "returned", "failed", "cancelled"})

_WAITS: Final = "awaiting_payee"
_RETURN_CODE: Final = "PAYEE_CARD_REFUND"
_RETURN_AFTER: Final = timedelta(hours=20)
_OPENING, _BILLS_READY = (10, 0), (10, 30)

Item = dict[str, str]


def parts(plan: list[Item]) -> dict[str, str]:
    """What each worker does, by name."""
    found = {item["worker"]: PROMPT for item in plan}
    for kind, roles in ((WECHAT, (NEVER, LATE)), (ALIPAY, (RETURNED,))):
        payees_there = [item["worker"] for item in plan if item["kind"] == kind]
        found.update(zip(payees_there, roles, strict=False))
    return found


def _at(story: Story, days: int, hour: int, minute: int = 0) -> datetime:
    """A moment so many days after the day of the payouts, at the providers."""
    day = date.fromisoformat(story.state.payout_day) + timedelta(days=days)
    return clocks.beijing(day, hour, minute)


def _days(story: Story) -> list[str]:
    """The days on which money moves at the providers."""
    return [_at(story, days, 12).date().isoformat() for days in (0, 1)]


async def workers_withdraw(story: Story) -> None:
    """Link an account and withdraw to it; every request is sent twice with one key."""
    plan = await stages.plan_withdrawals(story)
    if len(plan) < LEAST_PAYEES * len(story.rails):
        raise Refusal(
            "demo-too-small",
            f"{len(plan)} workers earned 1.00: for {' and '.join(story.rails)} it takes "
            f"{LEAST_PAYEES * len(story.rails)}. Raise the reward.",
        )
    await clocks.begin(story, _at(story, 0, *_OPENING))
    await _foretell(story, plan)
    asked = {one["external_id"] for one in await story.app.all("/v1/withdrawals")}
    if not asked:
        await _arm_faults(story)
    roles = parts(plan)
    for number, item in enumerate(plan, start=1):
        worker, role = item["worker"], roles[item["worker"]]
        accepts = role not in (NEVER, LATE)
        await linking.register(story, worker, item["kind"], accepts=accepts)
        destination = await linking.link(story, worker, item["kind"])
        if worker not in asked:
            await stages.request_twice(story, item, destination)
        story.step(number, len(plan))


async def _foretell(story: Story, plan: list[Item]) -> None:
    """One payment through Alipay is paid, and comes back the day after."""
    for worker, role in parts(plan).items():
        if role == RETURNED:
            fate = {
                "payee": payees.alipay_user(worker),
                "outcome": "return",
                "code": _RETURN_CODE,
                "after_seconds": _RETURN_AFTER.total_seconds(),
                "uses": 1,
            }
            await story.sandbox.post("/_control/oracle", fate)


async def _arm_faults(story: Story) -> None:
    """Each provider takes one order and does not answer, and says everything twice."""
    if WECHAT in story.rails:
        for mishap in (
            {"call": "transfer.create", "kind": "cut_after"},
            {"call": "notice", "kind": "copies", "number": 2, "times": None},
        ):
            await story.sandbox.post("/_control/wechat/mishaps", mishap)
    if ALIPAY in story.rails:
        knobs = {"drop_answers@alipay.fund.trans.uni.transfer": 1, "notice_copies": 2}
        await story.sandbox.post("/_control/alipay/faults", knobs)


async def money_leaves(story: Story) -> None:
    """The rules approve, and each provider pays those who accept at once."""
    await wait_for(lambda: stages.screened(story), "the withdrawals to be screened")
    wanted = {PROMPT: {"paid"}, RETURNED: {"paid", "returned"}}
    waiting = ENDED | {_WAITS}
    await _until(story, {**wanted, LATE: waiting, NEVER: waiting}, "the payments to arrive")


async def _until(story: Story, wanted: Mapping[str, set[str] | frozenset[str]], what: str) -> None:
    """Wait until all withdrawals of some workers are in some states.

    Raises Refusal `demo-refused` for one that failed and should not have.
    """
    plan = story.state.withdrawals or []
    roles = parts(plan)
    concerned = [item["worker"] for item in plan if roles[item["worker"]] in wanted]

    async def there() -> bool:
        found = {one["external_id"]: one for one in await story.app.all("/v1/withdrawals")}
        done = 0
        for worker in concerned:
            one = found.get(worker)
            if one is None:
                continue
            if one["state"] in wanted[roles[worker]]:
                done += 1
            elif one["state"] in ENDED - {"paid"}:
                why = f"{one['id']} of {worker} is {one['state']}: {one['reason']}."
                raise Refusal("demo-refused", why)
        story.step(done, len(concerned))
        return done == len(concerned)

    await wait_for(there, what)


async def hours_pass(story: Story) -> None:
    """One payee accepts late; one never does, and after a day the money is back."""
    await clocks.forward(story, _at(story, 0, _OPENING[0] + LATE_HOURS))
    await _accept(story)
    await _until(story, {LATE: {"paid"}}, "the payment that is accepted late")
    await wait_for(lambda: _is_shown(story), "the payment to be shown to who never accepts")
    await clocks.forward(story, _at(story, 1, *_BILLS_READY))
    await _until(story, {NEVER: {"failed"}}, "the payment that nobody accepts to run out")


async def _of(story: Story, role: str) -> dict[str, Any] | None:
    roles = parts(story.state.withdrawals or [])
    for one in await story.app.all("/v1/withdrawals"):
        if roles.get(one["external_id"]) == role:
            return one
    return None


async def _accept(story: Story) -> None:
    """The payee's app opens WeChat's page with what only the payee is given, and accepts."""
    late = await _of(story, LATE)
    if late is None or late["state"] != _WAITS:
        return
    shown = await story.app.get(f"/v1/withdrawals/{late['id']}/confirmation")
    for one in (await story.sandbox.get("/_control/wechat/waiting"))["waiting"]:
        if one.get("package_info") == shown["package"]:
            act = {"kind": "transfer", "id": one["id"], "act": "confirm"}
            await story.sandbox.post("/_control/wechat/act", act)


async def _is_shown(story: Story) -> bool:
    """Whether the payee who never accepts could: what opens WeChat's page is there."""
    never = await _of(story, NEVER)
    if never is None or never["state"] in ENDED:
        return True
    path = f"/v1/withdrawals/{never['id']}/confirmation"
    return (await story.app.send("GET", path, accept=(409,))).is_success


async def reconcile(story: Story) -> None:
    """The bills of both days are fetched, once they are ready, and every line finds its posting."""
    for day in _days(story):
        await story.sandbox.post("/_control/close-day", {"date": day, "advance": False})
    await clocks.forward(story, _at(story, 3, *_BILLS_READY))
    # Should Alipay's message of it have been lost, the bill tells.
    await _until(story, {RETURNED: {"returned"}}, "the payment that comes back")
    accounts = (BANK, *story.rails)

    async def matched() -> bool:
        for account in accounts:
            for day in _days(story):
                found = await story.operator.get(
                    "/v1/reconciliation/statements", rail_account=account, day=day
                )
                if not found["data"]:
                    return False
        return (await story.operator.get("/v1/reconciliation/summary"))["open_lines"] == 0

    await wait_for(matched, "the bills to be fetched and matched")
    for day in _days(story):
        for account in accounts:
            asked = {"rail_account": account, "day": day}
            await story.operator.post("/v1/reconciliation/runs", asked)


async def close_days(story: Story) -> dict[str, Any]:
    """Prove the books, then close and sign both days."""
    proof: dict[str, Any] = await story.operator.post("/v1/proofs")
    for day in _days(story):
        await story.operator.post(f"/v1/days/{day}/close")
    return proof
