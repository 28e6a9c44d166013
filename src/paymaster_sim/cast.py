"""Who takes part in every run: our accounts, the work to be done, users and where they are paid.

Made once, through the same use cases as anywhere, in the database that runs are copied from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from paymaster.compose import Deps
from paymaster.db.tx import Actor, CellTx, ControlTx
from paymaster.dispatch import accounts
from paymaster.dispatch.accounts import NewAccount
from paymaster.earn import campaign, task
from paymaster.earn.campaign import PutCampaign
from paymaster.earn.task import PutTask
from paymaster.kernel.ids import Ref, new_trace_id
from paymaster.kernel.money import Money
from paymaster.people import destinations, users
from paymaster.people.users import Upsert
from paymaster.screen import activate
from paymaster_sim import terms
from paymaster_sim.clock import START
from paymaster_sim.place import CELLS, ENVIRONMENT

if TYPE_CHECKING:
    from paymaster_sim.mixes import Mix

BANK, WALLET = "bank", "float"
OUR_NUMBER, PROVIDER_NUMBER = 1, 2
ITEMS = 400
"""So many answers of each task are worth something."""

ANSWER = "yes"
ACTOR = Actor("sim:cast")
_LONG_AGO = START - timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Job:
    """A task: what it pays, and after how long that may be withdrawn."""

    campaign: str
    task: str
    reward_minor: int
    vesting_seconds: int


JOBS = (Job("survey", "answer", 500, 86_400), Job("quick", "click", 200, 0))


@dataclass(frozen=True, slots=True)
class Person:
    """A user: where they live, and their destinations by kind of rail account."""

    name: str
    ref: Ref
    destinations: dict[str, int]
    payees: dict[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Cast:
    """Everybody. `funding` is the reference under which the sponsor of a campaign pays."""

    people: list[Person]
    accounts: dict[str, int]
    funding: dict[str, str]
    currency: str


def iban(number: int) -> str:
    """A German IBAN with right check digits, at a bank code that no bank has."""
    body = f"00000000{number % 10**10:010d}"
    return f"DE{98 - int(body + '131400') % 97:02d}{body}"


def wallet(number: int) -> str:
    """A wallet at the sandbox provider: nine characters and their check character."""
    nine = f"{number:09d}"
    total = sum((place + 1) * int(digit) for place, digit in enumerate(nine))
    return f"SW-{nine}{'0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ'[total % 36]}"


async def make(deps: Deps, mix: Mix, wanted: Sequence[NewAccount], count: int) -> Cast:
    """Put our accounts, `count` users and all else into the database that `deps` has open."""
    run = deps.dbs.control.run
    made = await run(ACTOR, new_trace_id(), lambda tx: _accounts(tx, deps, wanted))
    funding = await run(ACTOR, new_trace_id(), lambda tx: _work(tx, mix.currency))
    await run(ACTOR, new_trace_id(), lambda tx: _rules(tx, mix.currency))
    await run(ACTOR, new_trace_id(), lambda tx: terms.put(tx, mix, terms.USUAL))
    people = [await _person(deps, mix, number) for number in range(count)]
    return Cast(people, made, funding, mix.currency)


async def _accounts(tx: ControlTx, deps: Deps, wanted: Sequence[NewAccount]) -> dict[str, int]:
    return {
        new.name: (await accounts.add(tx, ENVIRONMENT, CELLS[0], new, deps.rails)).id
        for new in wanted
    }


async def _work(tx: ControlTx, currency: str) -> dict[str, str]:
    await campaign.put_sponsor(tx, ENVIRONMENT, CELLS[0], "sponsor", "Sponsor")
    funding: dict[str, str] = {}
    for job in JOBS:
        wanted = PutCampaign(
            job.campaign,
            "sponsor",
            job.campaign,
            currency,
            _LONG_AGO,
            vesting_seconds=job.vesting_seconds,
        )
        view, _ = await campaign.put_campaign(tx, ENVIRONMENT, CELLS[0], wanted)
        funding[job.campaign] = view.funding_reference
        rule = {"kind": "gold", "item": "item", "answer": "answer"}
        reward = Money(job.reward_minor, currency)
        work = PutTask(job.task, "labelling", job.task, reward, rule, _LONG_AGO)
        made, _ = await task.put_task(tx, ENVIRONMENT, job.campaign, work)
        gold = {f"i{number}": ANSWER for number in range(ITEMS)}
        await task.put_gold(tx, ENVIRONMENT, made.id, gold)
    return funding


async def _rules(tx: ControlTx, currency: str) -> None:
    before = await activate.ensure(tx, ENVIRONMENT)
    rules: list[dict[str, Any]] = [
        {"rule": "standing"},
        {"rule": "minimum", "parameters": {"amounts": {currency: "1"}}},
        {"rule": "maximum", "parameters": {"amounts": {currency: "40"}, "outcome": "review"}},
        {
            "id": "user-hour",
            "rule": "velocity",
            "parameters": {"scope": "user", "window_seconds": 3600, "count": 3},
        },
    ]
    await activate.activate(tx, ENVIRONMENT, {"rules": rules}, based_on=before.version)


async def _person(deps: Deps, mix: Mix, number: int) -> Person:
    dbs, sealer, name = deps.dbs, deps.secrets.sealer, f"user-{number}"
    [made] = await users.upsert_many(
        dbs, sealer, ENVIRONMENT, ACTOR, new_trace_id(), [Upsert(name)]
    )
    if made.view is None:
        raise AssertionError(made)
    ref = made.view.ref
    ways = {rail: way(number) for rail, way in mix.ways.items()}
    currency, payees = mix.currency, {rail: payee for rail, (_, _, payee) in ways.items()}

    async def work(tx: CellTx) -> dict[str, int]:
        found: dict[str, int] = {}
        for rail, (kind, given, _) in ways.items():
            view = await destinations.add(
                tx, sealer, ref.id, kind, currency, given, cooling=timedelta(0)
            )
            found[rail] = view.ref.id
        await terms.choose(tx, mix, number, ref.id, found)
        return found

    for kind, given, _ in ways.values():

        async def claim(tx: ControlTx, kind: str = kind, given: Mapping[str, str] = given) -> int:
            return await destinations.claim(tx, sealer, ENVIRONMENT, ref, kind, currency, given)

        await dbs.control.run(ACTOR, new_trace_id(), claim)
    return Person(name, ref, await dbs.cell(ref.cell).run(ACTOR, new_trace_id(), work), payees)


def event(number: str, user: str, job: Job, item: int, at: datetime) -> dict[str, Any]:
    """One answer of a user, as it comes on the wire."""
    return {
        "event_id": number,
        "user": user,
        "campaign": job.campaign,
        "task": job.task,
        "type": "answer",
        "occurred_at": at.isoformat(),
        "payload": {"item": f"i{item}", "answer": ANSWER},
    }
