"""WeChat Pay with every product, Alipay over both interfaces: they conform, over the real wire."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio
from tests.contract.alipay_world import AlipayHarness
from tests.contract.conformance import CHECKS, applies
from tests.contract.sandboxes import SandboxHarness, outside
from tests.contract.wechat_world import PRODUCTS, WeChatHarness

ALIPAY = ("v3", "gateway")
NO_RETURNS = {"returns-are-reported", "statement-equals-payments"}
"""WeChat Pay takes no money back from a payee: what comes back was never with one. What its bills
say is in test_wechat_bills."""

FORMS = {"forged-webhook-is-refused", "stale-webhook-is-refused"}
"""Alipay's signature is in the form, not in a header, and its tries of a day have one time; see
test_alipay_rail."""

SILENT = {"webhook-is-read", "forged-webhook-is-refused", "stale-webhook-is-refused"}
"""The old transfers of APIv2 are told of by nobody: they are asked about."""

CASES = [
    *(
        (product, name)
        for product in PRODUCTS
        for name in CHECKS
        if name not in NO_RETURNS | (SILENT if product == "transfers-v2" else set())
    ),
    *((mode, name) for mode in ALIPAY for name in CHECKS if name not in FORMS),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def harnesses(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncGenerator[dict[str, SandboxHarness]]:
    """Each in a world of its own: some checks go on to the next day."""
    async with AsyncExitStack() as worlds:
        made: dict[str, SandboxHarness] = {}
        for number, kind in enumerate(dict(CASES), 1):
            found = await worlds.enter_async_context(outside(tmp_path_factory.mktemp("world")))
            opening = AlipayHarness.open if kind in ALIPAY else WeChatHarness.open
            made[kind] = await opening(found, kind, number)
        yield made


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("kind", "name"), CASES)
async def test_the_rail_conforms(
    kind: str, name: str, harnesses: dict[str, SandboxHarness]
) -> None:
    harness = harnesses[kind]
    await harness.reset()
    assert applies(name, harness)
    await CHECKS[name](harness)
