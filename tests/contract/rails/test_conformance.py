"""Both rails conform, against the sandboxes over their real wires."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.contract.conformance import CHECKS, applies
from tests.contract.sandboxes import BankHarness, Outside, SandboxHarness, WalletHarness, outside

pytestmark = pytest.mark.asyncio(loop_scope="module")

RAILS = ("sandbox-wallet", "iso20022", "iso20022-unique", "iso20022 version 03")
DOES_NOT_APPLY = {
    (rail, name)
    for rail in RAILS[1:]
    for name in (
        "failure-is-unknown",
        "look-up-is-about-the-key",
        "webhook-is-read",
        "forged-webhook-is-refused",
        "stale-webhook-is-refused",
    )
}
"""A bank that takes files answers no questions and sends no notifications."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def found(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Outside]:
    path: Path = tmp_path_factory.mktemp("world")
    async with outside(path) as world:
        yield world


def harness_of(rail: str, found: Outside) -> SandboxHarness:
    if rail == "sandbox-wallet":
        return WalletHarness(found)
    name, _, version = rail.partition(" version ")
    return BankHarness(found, rail=name, version=version or "09")


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("rail", RAILS)
async def test_the_rail_conforms(rail: str, name: str, found: Outside) -> None:
    harness = harness_of(rail, found)
    await harness.reset()
    if not applies(name, harness):
        assert (rail, name) in DOES_NOT_APPLY
        return
    await CHECKS[name](harness)
