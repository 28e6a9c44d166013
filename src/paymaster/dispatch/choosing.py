"""The accounts of a batch of approved withdrawals; how each is chosen is in `route`."""

from __future__ import annotations

from collections.abc import Sequence

from paymaster.db.tx import CellTx
from paymaster.dispatch import proof, store
from paymaster.dispatch.desk import Desk
from paymaster.dispatch.route import Choice, by_amount, pick
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
