import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from paymaster.kernel.errors import Broken
from paymaster.kernel.money import Money
from paymaster.screen import (
    Act,
    DestinationFacts,
    Facts,
    Figure,
    KycLevel,
    Outcome,
    RuleSet,
    Scope,
    Standing,
    UserFacts,
    Verdict,
    Window,
    default_rule_set,
    evaluate,
    replay,
)
from paymaster.screen.rules import KNOWN

NOW = datetime(2026, 11, 20, 9, 0, 0, 123456, tzinfo=UTC)
HOUR, TODAY = Window(Scope.USER, 3600), Window(Scope.USER, None)
THERE = Window(Scope.DESTINATION, 86400)


def facts(
    amount: str = "10.00", currency: str = "EUR", figures: tuple[Figure, ...] = (), **more: Any
) -> Facts:
    made = Facts(
        act=Act.WITHDRAWAL,
        at=NOW,
        user=UserFacts("us_1", Standing.ACTIVE, KycLevel.NONE, NOW - timedelta(days=90)),
        amount=Money.parse(amount, currency),
        destination=DestinationFacts("iban", "ab" * 32, NOW - timedelta(days=30)),
        figures=figures,
    )
    return replace(made, **more)


def rules(*entries: dict[str, Any]) -> RuleSet:
    return RuleSet.read({"version": 4, "rules": list(entries)})


def one(rule: str, **parameters: Any) -> RuleSet:
    return rules({"rule": rule, "parameters": parameters})


def outcome(about: Facts, rule_set: RuleSet) -> str:
    return evaluate(about, rule_set).outcome.value


def quiet(*windows: Window) -> tuple[Figure, ...]:
    return tuple(Figure(window, 0) for window in windows)


# ------------------------------------------------------------------------------------ each rule


@pytest.mark.parametrize(
    ("amount", "currency", "expected"),
    [
        ("4.99", "EUR", "denied"),
        ("5.00", "EUR", "approved"),
        ("499", "JPY", "denied"),
        ("500", "JPY", "approved"),
        ("2.99", "USD", "denied"),
        ("3.00", "USD", "approved"),
    ],
)
def test_minimum(amount: str, currency: str, expected: str):
    rule_set = one("minimum", amounts={"EUR": "5.00", "JPY": "500", "*": "3"})
    assert outcome(facts(amount, currency), rule_set) == expected


def test_a_currency_without_a_minimum_has_none():
    assert outcome(facts("0.01", "USD"), one("minimum", amounts={"EUR": "5"})) == "approved"


@pytest.mark.parametrize(
    ("amount", "level", "expected"),
    [
        ("50.00", KycLevel.NONE, "approved"),
        ("50.01", KycLevel.NONE, "denied"),
        ("100.00", KycLevel.BASIC, "approved"),
        ("100.01", KycLevel.BASIC, "denied"),
        ("9999.00", KycLevel.FULL, "approved"),
    ],
)
def test_maximum_by_kyc_level(amount: str, level: KycLevel, expected: str):
    rule_set = one(
        "maximum",
        amounts={"EUR": "100.00"},
        levels={"none": {"EUR": "50.00"}, "full": {"*": "10000"}},
    )
    about = facts(amount)
    assert outcome(replace(about, user=replace(about.user, kyc_level=level)), rule_set) == expected


def test_a_currency_without_a_limit_goes_to_a_person():
    assert outcome(facts("1", "KWD"), one("maximum", amounts={"EUR": "5"})) == "review"
    limits = one("daily_limit", amounts={"EUR": "5"})
    assert outcome(facts("1", "KWD", quiet(TODAY)), limits) == "review"


@pytest.mark.parametrize(
    ("count", "spent", "expected"),
    [(0, "0", "approved"), (2, "0", "approved"), (3, "0", "denied"), (1, "90.00", "approved"),
     (1, "90.01", "denied")],
)  # fmt: skip
def test_daily_limit_counts_this_request_in(count: int, spent: str, expected: str):
    figure = Figure(TODAY, count, (Money.parse(spent, "EUR"), Money.parse("5000", "USD")))
    rule_set = one("daily_limit", count=3, amounts={"EUR": "100.00"})
    assert outcome(facts(figures=(figure,)), rule_set) == expected


@pytest.mark.parametrize(("scope", "window"), [("user", HOUR), ("destination", THERE)])
def test_velocity_per_scope(scope: str, window: Window):
    rule_set = one(
        "velocity",
        scope=scope,
        window_seconds=window.seconds,
        count=5,
        amounts={"EUR": "100"},
        outcome="challenge",
    )
    assert rule_set.windows() == {window}
    for count, spent, expected in ((4, 0, "approved"), (5, 0, "challenge"), (0, 9001, "challenge")):
        figure = Figure(window, count, (Money(spent, "EUR"),))
        assert outcome(facts(figures=(figure,)), rule_set) == expected


def test_velocity_of_a_destination_needs_one():
    rule_set = one("velocity", scope="destination", window_seconds=86400, count=0)
    assert outcome(facts(figures=quiet(THERE)), rule_set) == "review"
    assert outcome(facts(destination=None), rule_set) == "approved"


def test_a_figure_that_nobody_measured_is_never_approved():
    for rule_set in (
        one("daily_limit", count=3),
        one("velocity", scope="user", window_seconds=3600, count=5, outcome="challenge"),
    ):
        verdict = evaluate(facts(figures=quiet(Window(Scope.USER, 7200))), rule_set)
        assert verdict.outcome is Outcome.REVIEW


@pytest.mark.parametrize(
    ("age_seconds", "amount", "expected"),
    [(86_399, "10.01", "review"), (86_400, "10.01", "approved"), (0, "10.00", "approved")],
)
def test_cooling_off(age_seconds: int, amount: str, expected: str):
    rule_set = one("cooling_off", seconds=86_400, exempt_up_to={"EUR": "10.00"})
    about = facts(amount)
    assert about.destination is not None
    added = replace(about.destination, added_at=NOW - timedelta(seconds=age_seconds))
    assert outcome(replace(about, destination=added), rule_set) == expected


@pytest.mark.parametrize(
    ("standing", "expected"),
    [(Standing.ACTIVE, "approved"), (Standing.SUSPENDED, "denied"), (Standing.CLOSED, "denied")],
)
def test_standing(standing: Standing, expected: str):
    about = facts()
    user = replace(about.user, standing=standing)
    assert outcome(replace(about, user=user, amount=None), one("standing")) == expected


# ------------------------------------------------------------------------------------ verdicts


def test_the_gravest_outcome_wins_and_every_reason_is_kept():
    rule_set = rules(
        {"rule": "minimum", "parameters": {"amounts": {"EUR": "20"}, "outcome": "challenge"}},
        {"rule": "cooling_off", "parameters": {"seconds": 86_400 * 90}},
        {"id": "cap", "rule": "maximum", "parameters": {"amounts": {"EUR": "5"}}},
        {"rule": "standing"},
    )
    about = facts()
    verdict = evaluate(about, rule_set)
    assert verdict.outcome is Outcome.DENIED
    assert [
        (reason.rule, reason.rule_version, reason.outcome.value) for reason in verdict.reasons
    ] == [
        ("minimum", 1, "challenge"),
        ("cooling_off", 1, "review"),
        ("cap", 1, "denied"),
    ]
    assert verdict.reasons[2].text == "10.00 EUR is above the maximum of 5.00 EUR."
    assert verdict.facts_digest == about.digest()
    assert verdict.rule_set_version == 4


def test_a_passed_challenge_counts_no_more_but_is_remembered():
    rule_set = one("minimum", amounts={"EUR": "20"}, outcome="challenge")
    passed = evaluate(facts(challenge_passed=True), rule_set)
    assert passed.outcome is Outcome.APPROVED
    assert [reason.outcome for reason in passed.reasons] == [Outcome.CHALLENGE]
    denied = one("minimum", amounts={"EUR": "20"}, outcome="denied")
    assert outcome(facts(challenge_passed=True), denied) == "denied"


def test_the_default_set_pays_a_small_first_withdrawal_and_stops_a_large_one():
    rule_set = default_rule_set(3)
    assert rule_set.version == 3
    first = facts("5.00", figures=quiet(*rule_set.windows()))
    assert first.destination is not None
    new = replace(first, destination=replace(first.destination, added_at=NOW))
    assert evaluate(new, rule_set) == Verdict(Outcome.APPROVED, (), new.digest(), 3)
    assert outcome(facts("1500", figures=quiet(*rule_set.windows())), rule_set) == "review"
    assert outcome(facts("6000", figures=quiet(*rule_set.windows())), rule_set) == "denied"
    assert outcome(facts("1", "KWD", quiet(*rule_set.windows())), rule_set) == "review"


# ------------------------------------------------------------------------------------ replay


def busy_facts() -> tuple[Facts, RuleSet]:
    rule_set = default_rule_set()
    figures = tuple(
        Figure(window, 20, (Money(2**62, "USD"), Money(123, "EUR")))
        for window in sorted(rule_set.windows(), key=repr)
    )
    return facts("5000.00", figures=figures), rule_set


def test_facts_survive_storing_in_any_spelling():
    about, _ = busy_facts()
    assert Facts.read(about.canonical()) == about
    loose = json.dumps(json.loads(about.canonical()), indent=3)
    assert Facts.read(loose).digest() == about.digest()
    other_zone = replace(about, at=about.at.astimezone(timezone(timedelta(hours=8))))
    assert other_zone.canonical() == about.canonical()
    turned = replace(about, figures=tuple(reversed(about.figures)))
    assert turned.canonical() == about.canonical()


def test_a_replay_in_a_new_process_is_the_same_to_the_byte():
    about, rule_set = busy_facts()
    code = (
        "import sys; from paymaster.screen import replay;"
        "facts, rules = sys.stdin.read().split('\\n');"
        "sys.stdout.write(replay(facts, rules).canonical().decode())"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", code],
            input=about.canonical().decode() + "\n" + rule_set.canonical().decode(),
            capture_output=True,
            text=True,
            check=True,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(sys.path),
                "PYTHONHASHSEED": seed,
                "TZ": zone,
            },
        ).stdout
        for seed, zone in (("1", "Asia/Shanghai"), ("2", "America/New_York"))
    }
    assert answers == {evaluate(about, rule_set).canonical().decode()}
    assert len(evaluate(about, rule_set).reasons) >= 4


def test_data_as_the_database_gives_it_can_be_replayed():
    about, rule_set = busy_facts()
    stored_facts, stored_rules = json.loads(about.canonical()), json.loads(rule_set.canonical())
    assert replay(stored_facts, stored_rules) == evaluate(about, rule_set)
    assert RuleSet.read(rule_set.data()).canonical() == rule_set.canonical()


@pytest.mark.parametrize(
    "change",
    [
        {"unheard_of": 1},
        {"at": "2026-11-20T09:00:00"},
        {"act": "party"},
        {"amount": {"minor": "1", "currency": "EUR"}},
        {"amount": {"minor": 1.5, "currency": "EUR"}},
        {"figures": [{"window": {"scope": "user", "seconds": 1}, "count": -1, "amounts": []}]},
        {"user": None},
    ],
)
def test_stored_facts_that_are_not_understood_stop_the_lane(change: dict[str, Any]):
    stored = json.loads(facts().canonical()) | change
    with pytest.raises(Broken) as caught:
        Facts.read(stored)
    assert caught.value.slug == "facts-malformed"


def test_facts_that_contradict_themselves_cannot_be_made():
    for make in (
        lambda: facts(figures=(Figure(HOUR, 1), Figure(HOUR, 2))),
        lambda: Figure(HOUR, 1, (Money(1, "EUR"), Money(2, "EUR"))),
        lambda: replace(facts(), at=datetime(2026, 1, 1)),  # noqa: DTZ001
    ):
        with pytest.raises(Broken):
            make()


def test_every_rule_is_on_the_page():
    page = (Path(__file__).parents[2] / "docs" / "concepts" / "screening.md").read_text()
    assert [name for name in KNOWN if f"| `{name}` |" not in page] == []


def test_one_destination_of_many_users():
    rule_set = one("shared_destination", users=2)
    about = facts()
    assert about.destination is not None
    for users, expected in ((1, "approved"), (2, "approved"), (3, "review")):
        shared = replace(about, destination=replace(about.destination, users=users))
        assert outcome(shared, rule_set) == expected
    assert outcome(replace(about, destination=None), rule_set) == "approved"
