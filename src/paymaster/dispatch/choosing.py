"""The accounts of a batch of approved withdrawals; how each is chosen is in `route`.

And before that, which rails could make a payment: fees may depend on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from paymaster.db.tx import CellTx, ControlRead
from paymaster.dispatch import accounts, proof, store
from paymaster.dispatch.accounts import PayoutAccount
from paymaster.dispatch.desk import Desk
from paymaster.dispatch.route import Choice, by_amount, pick
from paymaster.rails.base import Rail, pays_out
from paymaster.withdraw.fee_plans import Plans
from paymaster.withdraw.moves import Withdrawal

Routed = tuple[Withdrawal, str]
"""A withdrawal with why its account was chosen."""


async def choose(
    tx: CellTx, desk: Desk, waiting: Sequence[Withdrawal]
) -> tuple[dict[int, list[Routed]], list[int]]:
    """The account of each, by id, and those for which there is none.

    One that comes back after its order died goes to no account where that happened, if it can.
    """
    kinds = await store.kinds(tx, [one.destination_id for one in waiting])
    before = await proof.earlier(tx, [one.id for one in waiting if one.rail_account_id is not None])
    candidates = desk.candidates()
    exact = by_amount(candidates)
    choices: dict[tuple[str, str, int], Choice | None] = {}
    chosen: dict[int, list[Routed]] = {}
    nowhere: list[int] = []
    for one in waiting:
        kind, money = kinds[one.destination_id], one.net
        wanted = kind, money.currency, money.minor if exact else 0
        dead = before[one.id].accounts if one.id in before else frozenset[int]()
        if dead:
            choice = pick(candidates, kind, money, dead) or pick(candidates, kind, money)
        else:
            if wanted not in choices:
                choices[wanted] = pick(candidates, kind, money)
            choice = choices[wanted]
        if choice is None:
            nowhere.append(one.id)
        else:
            chosen.setdefault(choice.account.id, []).append((one, choice.why))
    return chosen, nowhere


def routes(
    found: Iterable[PayoutAccount], rails: Mapping[str, Rail]
) -> dict[tuple[str, str], frozenset[str]]:
    """The rails that could pay to a kind of destination in a currency: those of active accounts."""
    known: dict[tuple[str, str], set[str]] = {}
    for account in found:
        rail = rails.get(account.rail.rail)
        if rail is not None and account.active and pays_out(rail, account.rail):
            for kind in rail.caps.destination_kinds:
                known.setdefault((kind, account.rail.currency), set()).add(account.rail.rail)
    return {place: frozenset(names) for place, names in known.items()}


async def with_routes(
    tx: ControlRead, environment_id: int, plans: Plans, rails: Mapping[str, Rail]
) -> Plans:
    """Fee plans with the rails that could pay now; asked for only where a plan is for some."""
    if not plans.by_rail:
        return plans
    found = await accounts.listed(tx, environment_id)
    return replace(plans, routes=routes(found.values(), rails))
