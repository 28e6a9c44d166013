"""What the stages of the demo share: who speaks to whom, what was planned, and waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paymaster.cli.demo.answers import Answer
from paymaster.cli.demo.client import Client
from paymaster.cli.demo.state import State
from paymaster.cli.demo.world import Addresses
from paymaster.kernel.clock import monotonic_seconds
from paymaster.kernel.errors import Refusal
from paymaster.kernel.money import Money

BANK, WALLET = "bank", "wallet"
WECHAT, ALIPAY = "wechat", "alipay"
RAILS = (WECHAT, ALIPAY)
"""What `--rails` may name: each is the name of a rail account, of a kind of destination and of a
provider to link with."""
CAMPAIGN, TASK, SPONSOR = "labels", "answer-items", "sponsor"
WAIT_SECONDS = 300.0
"""Longer than a lease and a provider's lag together: a lost answer is resolved within it."""


@dataclass(slots=True)
class Story:
    """What the stages share. `step` tells a person how far a stage is: done, of.

    `rails` are those of `RAILS` that pay; without one bank and wallet do. `secrets` is the folder
    of Paymaster's own secret store.
    """

    app: Client
    operator: Client
    sandbox: Client
    addresses: Addresses
    state: State
    save: Callable[[State], None]
    answers: Sequence[Answer]
    reward: Money
    seed: int
    rails: Sequence[str]
    secrets: Path
    step: Callable[[int, int], None]

    @property
    def currency(self) -> str:
        """The one currency of the demo."""
        return self.reward.currency

    @property
    def workers(self) -> list[str]:
        """Sorted: destinations alternate in this order."""
        return sorted({answer.worker for answer in self.answers})

    def major(self, units: int) -> Money:
        """Whole units of the currency."""
        return Money.parse(str(units), self.currency)

    def wire(self, money: Money) -> dict[str, str]:
        """An amount as the API writes it."""
        return {"amount": money.text(), "currency": money.currency}


async def wait_for(ready: Callable[[], Any], what: str) -> None:
    """Ask until it is so. Raises Refusal `demo-stuck` after five minutes."""
    deadline = monotonic_seconds() + WAIT_SECONDS
    while monotonic_seconds() < deadline:
        if await ready():
            return
        await asyncio.sleep(0.2)
    raise Refusal("demo-stuck", f"Waited {WAIT_SECONDS:.0f} s for {what}.")
