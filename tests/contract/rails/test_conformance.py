"""Both rails conform, against the sandboxes over their real wires; broken ones are caught."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.contract.broken_rails import BROKEN, BrokenRail
from tests.contract.conformance import CHECKS, applies
from tests.contract.sandboxes import BankHarness, Outside, SandboxHarness, WalletHarness, outside

DOES_NOT_APPLY = {
    ("iso20022", "failure-is-unknown"),
    ("iso20022", "look-up-is-about-the-key"),
    ("iso20022", "webhook-is-read"),
    ("iso20022", "forged-webhook-is-refused"),
    ("iso20022", "stale-webhook-is-refused"),
}
"""A bank that takes files answers no questions and sends no notifications."""

VARIANTS = ("iso20022-unique", "iso20022 version 03")
TELLING = (
    "pays-every-item",
    "same-bytes-again-pay-once",
    "lost-answer-is-unknown",
    "refusal-is-definite",
)
"""Checks in which a variant of the bank rail can differ from the rail itself."""

CASES = [
    *((rail, name) for rail in ("sandbox-wallet", "iso20022") for name in CHECKS),
    *((rail, name) for rail in VARIANTS for name in TELLING),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def found(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Outside]:
    path: Path = tmp_path_factory.mktemp("world")
    async with outside(path) as world:
        yield world


@pytest.fixture(scope="module")
def harnesses(found: Outside) -> dict[str, SandboxHarness]:
    return {rail: harness_of(rail, found) for rail in dict(CASES)}


def harness_of(rail: str, found: Outside) -> SandboxHarness:
    if rail == "sandbox-wallet":
        return WalletHarness(found)
    name, _, version = rail.partition(" version ")
    return BankHarness(found, rail=name, version=version or "09")


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("rail", "name"), CASES)
async def test_the_rail_conforms(
    rail: str, name: str, harnesses: dict[str, SandboxHarness]
) -> None:
    harness = harnesses[rail]
    await harness.reset()
    if not applies(name, harness):
        assert (rail, name) in DOES_NOT_APPLY
        return
    await CHECKS[name](harness)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("defect", BROKEN, ids=lambda defect: defect.name)
async def test_a_broken_rail_is_caught(
    defect: BrokenRail, harnesses: dict[str, SandboxHarness]
) -> None:
    """The check that is named fails on this rail, as it does not on the sound one (above)."""
    sound = harnesses[defect.rail]
    await sound.reset()
    kind = WalletHarness if defect.rail == "sandbox-wallet" else BankHarness
    harness = kind(sound.outside, defect.make)
    harness.seen = set(sound.seen)
    assert applies(defect.caught_by, harness)
    with pytest.raises(AssertionError) as caught:
        await CHECKS[defect.caught_by](harness)
    assert str(caught.value)


def test_every_check_catches_something() -> None:
    assert {defect.caught_by for defect in BROKEN} == set(CHECKS)
