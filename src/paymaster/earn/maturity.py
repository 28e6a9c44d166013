"""When a reward matures: by the policy of its source, the user's tier, and what is taken back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from paymaster.db.tx import CellTx
from paymaster.earn import chargeback, policy
from paymaster.earn.catalogue import Offer
from paymaster.earn.chargeback import Asked
from paymaster.earn.terms import Policy
from paymaster.people import kyc

if TYPE_CHECKING:
    from paymaster.earn.grant import Grant

HELD_SECONDS = 86_400
"""How much longer a reward clears that then waits for a person."""


class Clearing(NamedTuple):
    """When a reward matures, and what said so; None: only the campaign."""

    matures_at: datetime
    policy: Policy | None


async def clearings(tx: CellTx, grants: Sequence[Grant]) -> list[Clearing]:
    """For each grant. Asks the database only where a policy looks at the user or the source."""
    now = tx.now
    offers = {one.offer.id: one.offer for one in grants}
    if not any(offer.policies for offer in offers.values()):
        plain = {
            number: Clearing(now + timedelta(seconds=offer.vesting_seconds), None)
            for number, offer in offers.items()
        }
        return [plain[one.offer.id] for one in grants]
    names = {(one.offer.id, one.source) for one in grants}
    found = {name: offers[name[0]].policy(name[1]) for name in names}
    used = {one.id: one for one in found.values() if one is not None}
    await policy.note(tx, [used[number] for number in sorted(used)])
    chosen = [found[one.offer.id, one.source] for one in grants]
    levels = await _levels(tx, grants, chosen)
    watched = [_asked(one, said) for one, said in zip(grants, chosen, strict=True)]
    bad = await chargeback.above(tx, [one for one in watched if one is not None])
    made: list[Clearing] = []
    for one, said, asked in zip(grants, chosen, watched, strict=True):
        seconds = _seconds(one.offer, said, levels.get(one.user_id, kyc.LEVELS[0]))
        if asked is not None and asked in bad:
            seconds += asked.rule.extra_seconds or HELD_SECONDS
        made.append(Clearing(now + timedelta(seconds=seconds), said))
    return made


def _seconds(offer: Offer, said: Policy | None, level: str) -> int:
    if said is None:
        return offer.vesting_seconds
    clears = said.terms.clearing_seconds
    return said.terms.tiers.get(level, offer.vesting_seconds if clears is None else clears)


async def _levels(
    tx: CellTx, grants: Sequence[Grant], chosen: Sequence[Policy | None]
) -> dict[int, str]:
    users = {
        one.user_id
        for one, said in zip(grants, chosen, strict=True)
        if said is not None and said.terms.tiers
    }
    if not users:
        return {}
    return {number: known.level for number, known in (await kyc.known(tx, sorted(users))).items()}


def _asked(one: Grant, said: Policy | None) -> Asked | None:
    if said is None or said.terms.chargeback is None:
        return None
    return Asked(one.user_id, one.offer.reward.currency, said.source, said.terms.chargeback)
