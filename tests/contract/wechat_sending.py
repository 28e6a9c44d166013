"""What the tests of the WeChat rail share: send, and wait for the end."""

from __future__ import annotations

from tests.contract.checking import patiently
from tests.contract.wechat_world import WeChatHarness

from paymaster.kernel.errors import RailError
from paymaster.rails.base import Instruction, Prepared, Verdict
from paymaster.rails.wechat.rail import WeChatPayRail


def order(harness: WeChatHarness, item: Instruction) -> tuple[WeChatPayRail, Prepared]:
    rail = harness.make_rail()
    assert isinstance(rail, WeChatPayRail)
    return rail, rail.prepare(harness.account, item.key, [item], harness.now())


async def proven(harness: WeChatHarness) -> RailError | Verdict:
    """What the next order's answer means."""
    (item,) = harness.instructions(1)
    rail, prepared = order(harness, item)
    try:
        (said,) = await rail.send(harness.account, prepared)
    except RailError as error:
        return error
    return said.verdict


async def settled(harness: WeChatHarness, rail: WeChatPayRail, item: Instruction) -> Verdict:
    """What the provider says in the end."""
    ends = {Verdict.PAID, Verdict.REJECTED}
    last: list[Verdict] = []

    async def ended() -> bool:
        last.append((await rail.query(harness.account, item.key)).verdict)
        return last[-1] in ends

    await patiently(ended, "it does not end")
    return last[-1]
