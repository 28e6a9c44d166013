"""One sick rail delays no other (Dub #3449): real clock, real HTTP, the sandbox's wallet beside it.

The sick rail stays sick until the end of each test. That every payment of the healthy one has left
by then is the proof: had one waited for the other, it would wait still.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
from tests.contract.test_dispatch_sandbox import Both, both, wallets
from tests.payouts import approved, new_payee
from tests.scripted_rails import AskableRail
from tests.world import ACTOR

from paymaster.dispatch import accounts
from paymaster.kernel.errors import NeverSent, RailError, RailRefused, RailUnknown
from paymaster.rails.base import Outcome, Verdict

__all__ = ["both"]

HEALTHY, SICK = 30, 20
PATIENCE_SECONDS = 60.0


def hangs(rail: AskableRail) -> None:
    rail.gate = asyncio.Event()


def fails(make: Callable[[], RailError | Exception]) -> Callable[[AskableRail], None]:
    def cause(rail: AskableRail) -> None:
        rail.before = [make() for _ in range(10_000)]
        rail.silent = 10_000

    return cause


def poisons_prepare(rail: AskableRail) -> None:
    rail.poison = {100}


def cannot_be_written(rail: AskableRail) -> None:
    rail.unwritable = {100}


def answers_nonsense(rail: AskableRail) -> None:
    class Nonsense(dict[str, Outcome]):
        def get(self, key: str, default: object = None) -> Outcome:
            return Outcome(f"not {key}", Verdict.PAID)

    rail.fates = Nonsense()
    rail.silent = 10_000


def breaks_when_asked(rail: AskableRail) -> None:
    async def query(*_: object) -> Outcome:
        raise KeyError("a fault in the rail")

    rail.before = [RailUnknown("provider-silent", "No answer.") for _ in range(10_000)]
    rail.query = query  # pyright: ignore[reportAttributeAccessIssue]


SICKNESSES = {
    "hangs": hangs,
    "cannot be reached": fails(lambda: NeverSent("provider-unreachable", "No connection.")),
    "answers 500": fails(lambda: RailUnknown("provider-error", "500", extra={"code": "500"})),
    "turns us away": fails(lambda: NeverSent("provider-turned-away", "429")),
    "has no funds": fails(
        lambda: RailRefused("provider-refused", "No.", extra={"code": "insufficient_funds"})
    ),
    "breaks our code": fails(lambda: RuntimeError("a fault in the rail")),
    "poisons prepare": poisons_prepare,
    "cannot be written": cannot_be_written,
    "answers nonsense": answers_nonsense,
    "breaks when it is asked": breaks_when_asked,
}


SHOWN = ("hangs", "breaks our code", "poisons prepare")
"""Those of the quick run; all of them take fifteen seconds."""


@pytest.mark.parametrize(
    "sickness",
    [
        pytest.param(cause, marks=() if name in SHOWN else pytest.mark.long, id=name)
        for name, cause in SICKNESSES.items()
    ],
)
async def test_the_healthy_rail_goes_on(
    both: Both, sickness: Callable[[AskableRail], None]
) -> None:
    sick = AskableRail("sick")
    sickness(sick)
    payouts = both.payouts
    payouts.rails["sick"] = sick
    await payouts.add_account("sick", "sick")
    await payouts.world.dbs.control.run(
        ACTOR, "", lambda tx: accounts.set_state(tx, 1, 1, "bank", "paused", "test")
    )
    for number in range(SICK):  # first in the queue
        await approved(payouts, await new_payee(payouts, 1000 + number), "1.00")
    await wallets(both, HEALTHY, "1.00")
    dispatcher = payouts.dispatcher()
    end = time.monotonic() + PATIENCE_SECONDS
    while await payouts.value(
        "SELECT count(*) FROM withdrawal w JOIN destination d ON d.id = w.destination_id"
        " WHERE d.kind = 'sandbox-wallet' AND w.state IN ('approved', 'queued', 'sending')"
    ):
        assert time.monotonic() < end, await both.states()
        await dispatcher.work(1, 0.02)
    at_rail = (
        "SELECT count(*) FROM withdrawal WHERE rail_account_id = %s AND state IN ('paid', 'sent')"
    )
    assert await payouts.value(at_rail, payouts.accounts["float"].id) == HEALTHY
    assert await payouts.value(at_rail, payouts.accounts["sick"].id) == 0, "sick to the end"
    healthy = dispatcher.lanes[payouts.accounts["float"].id]
    assert healthy.healthy(both.clock.now())
    assert healthy.share(both.clock.now()) == 100
    await dispatcher.stop()
