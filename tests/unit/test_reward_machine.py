"""The life of a reward: where its money is follows from the recipes on the way there."""

from __future__ import annotations

from paymaster.earn.machine import REWARD, RewardEvent, RewardState

MOVES_MONEY = {
    RewardEvent.FUND: "reward",
    RewardEvent.CREDIT: "reward",
    RewardEvent.MATURE: "mature",
}
EARNED = {RewardState.VESTING, RewardState.CREDITED}


def test_each_move_posts_what_its_event_stands_for() -> None:
    for move in REWARD.moves:
        expected = MOVES_MONEY.get(RewardEvent(move.event))
        if move.event in {RewardEvent.REDUCE, RewardEvent.REVERSE}:
            expected = "reverse" if move.source in EARNED else None
        assert move.recipe == expected, move


def test_every_way_into_and_out_of_earned_money_is_in_the_table() -> None:
    ways = {(move.source, move.target) for move in REWARD.moves}
    early = {RewardState.DUE, RewardState.AWAITING_FUNDS}
    assert {(a, b) for a, b in ways if b in EARNED and a in early} == {
        (source, target) for source in early for target in EARNED
    }
    assert {a for a, b in ways if b == RewardState.REVERSED} == {
        RewardState.AWAITING_FUNDS, *EARNED,
    }  # fmt: skip
    assert (RewardState.VESTING, RewardState.CREDITED) in ways
    assert {a for a, b in ways if a == b} == EARNED
