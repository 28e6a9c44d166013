"""The simulation: seeds hold, a seed is the same run every time, and every check can fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.conftest import PROJECT

from paymaster.db.idempotency import Answer
from paymaster.kernel.errors import Refusal
from paymaster.screen import decide
from paymaster_sim import checks, command, mutants, writing
from paymaster_sim.checks import Violation
from paymaster_sim.clients import Clients, Wish
from paymaster_sim.command import Options, chosen, text_of
from paymaster_sim.eye import Eye, Order, Seen
from paymaster_sim.mixes import EURO
from paymaster_sim.outside import Paid
from paymaster_sim.place import CELLS
from paymaster_sim.script import FAULTS, Act, Script, load
from paymaster_sim.shrink import shrink
from paymaster_sim.stage import Found, Result, Stage, stage
from paymaster_sim.world import World

USERS, DAYS = 8, 4
EURO_RAILS = tuple(EURO.ways)
IN_YUAN_ONLY = {
    "limited", "unlisted", "doubtful", "lied-no", "late-end", "rotated", "provider-skew",
    "unwilling", "taken-back", "consent-closed",
}  # fmt: skip


@pytest.fixture(scope="module")
def small() -> Generator[Stage]:
    with stage(USERS) as made:
        yield made


def small_script(seed: int, *faults: str) -> Script:
    return writing.write(seed, DAYS, USERS, faults or tuple(FAULTS), EURO_RAILS)


# ---------------------------------------------------------------------------------- whole runs


def test_a_seed_with_all_faults_holds_and_is_the_same_run_again(small: Stage) -> None:
    script = small_script(2)
    first = small.play(script, keep=True)
    assert first.violation is None
    assert first.withdrawals > 5
    assert first.crashes > 0
    again = small.play(load(script.dump()), keep=True)
    assert again.lines == first.lines
    assert again.digest == first.digest


def test_the_script_of_a_seed_strikes_with_every_fault() -> None:
    found = Counter(act.fault for act in writing.write(1, 30, 50, tuple(FAULTS)).acts)
    silent = {"short", "repeated"}  # these change ordinary acts, and arm nothing of their own
    assert {name for name in FAULTS if not found[name]} <= silent | IN_YUAN_ONLY
    assert not any(found[name] for name in IN_YUAN_ONLY)
    plain = writing.write(1, 30, 50, ())
    assert all(act.fault is None for act in plain.acts)
    assert sum(act.kind == "want" for act in plain.acts) >= 100


def test_a_mutant_is_caught(small: Stage) -> None:
    with mutants.applied("unknown-state"):
        found = next(
            result.violation
            for seed in range(1, mutants.SEEDS)
            if (result := small.play(small_script(seed, "answer-lost", "error-after"))).violation
        )
    assert found is not None
    assert found.name in {"paid-though-dead", "paid-and-given-back"}


def test_a_fault_in_the_code_is_a_violation(small: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> list[Any]:
        raise ZeroDivisionError("a fault in the code")

    monkeypatch.setattr(decide, "decide", broken)
    found = small.play(small_script(1, "late")).violation
    assert found is not None
    assert found.name == "unexpected-error"
    assert "ZeroDivisionError" in found.detail
    assert found.day > 0
    assert found.step > 0


# ------------------------------------------------------------------- each check finds its fault


class Hand(Eye):
    """Sees what an eye sees, and changes it."""

    def __init__(self, made: Stage, world: World) -> None:
        super().__init__(made.place.owner_dsn(world.database), world.cast.accounts["bank"])
        self.do("SET default_transaction_read_only TO off")

    def do(self, statement: str, **params: object) -> None:
        for part in statement.split(";"):
            self._connection.execute(part.encode(), params if "%(" in part else None)


def _first_open(world: World) -> Seen | None:
    return next((one for one in world.eye.withdrawals() if one.state in checks.OPEN), None)


_HELD = (
    "UPDATE {s}.account SET balance = balance + CASE kind WHEN 'held' THEN %(by)s ELSE -%(by)s END"
    " WHERE owner_id = %(user)s AND kind IN ('held', 'available')"
)
_ATTEMPT = (
    "ALTER TABLE {s}.attempt DROP CONSTRAINT attempt_after;"
    "DROP INDEX {s}.attempt_withdrawal_live;"
    "INSERT INTO {s}.attempt (id, withdrawal_id, number, batch_id, rail_account_id, key, amount,"
    " asset, state, tries, lease_token, created_at, trace_id, version) SELECT id + 99,"
    " withdrawal_id, 9, batch_id, rail_account_id, key || 'X', amount, asset,"
    " 'unknown', 0, 0, created_at,"
    " trace_id, 1 FROM {s}.attempt WHERE withdrawal_id IS NOT NULL AND state <> 'rejected'"
    " ORDER BY id LIMIT 1"
)
TAMPERED: dict[str, tuple[str, Callable[[Eye], None]]] = {
    "sum-zero": (
        "UPDATE {s}.account SET balance = balance + 1 WHERE kind = 'available'",
        checks.books,
    ),
    "holds": (_HELD, checks.books),
    "hold-withdrawal": (
        "UPDATE {s}.hold SET amount = amount + 1, remaining = remaining + 1"
        " WHERE id = (SELECT hold_id FROM {s}.withdrawal WHERE id = %(one)s);" + _HELD,
        checks.books,
    ),
    "one-live-key": (_ATTEMPT, checks.books),
    "balance-postings": (_HELD, checks.history),
    "legal-moves": (
        (
            "INSERT INTO {s}.legal_move VALUES ('withdrawal', 'paid', 'cancel', 'cancelled');"
            "UPDATE {s}.withdrawal_move SET source = 'paid', event = 'cancel', target = 'cancelled'"
            " WHERE event = 'screen'"
        ),
        checks.history,
    ),
    "last-move": ("UPDATE {s}.withdrawal SET state = 'queued'", checks.history),
}


class _Done(Exception):
    pass


def test_each_check_of_the_books_finds_what_was_tampered_with(small: Stage) -> None:
    seen: list[str] = []

    def meddle(world: World) -> None:
        one = _first_open(world)
        orders = world.eye.orders()
        if one is None or not any(o.state != "rejected" for o in orders if o.cell == one.cell):
            return
        with closing(Hand(small, world)) as hand:
            for name, (statement, check) in TAMPERED.items():
                check(hand)
                hand.do("BEGIN")
                hand.do(statement.format(s=f"cell_{one.cell}"), by=1, user=one.user_id, one=one.id)
                with pytest.raises(Violation, match=name):
                    check(hand)
                hand.do("ROLLBACK")
                seen.append(name)
            with pytest.raises(Violation, match="no-end"):
                checks.ended(hand, hand.withdrawals())
            with pytest.raises(Violation, match="cash-differs"):
                checks.cash(hand, world.outside, world.cast.accounts)
        raise _Done

    found = small.play(small_script(2, "missing"), meddle=meddle).violation
    assert found is not None
    assert found.detail.startswith("_Done"), found.detail
    assert seen == list(TAMPERED)


SEEN = Seen(1, 7, 3, 4, "paid", 500, 0, 9)
ORDER = Order(1, 70, 7, "K", "paid", 500)
PAID = Paid("K", "payee", 500, "paid")


def test_each_check_against_the_world_outside_finds_a_difference() -> None:
    checks.payments([SEEN], [ORDER], [PAID])
    checks.agreed([SEEN], [ORDER], [PAID])
    differences: dict[str, tuple[Seen, list[Order], list[Paid]]] = {
        "paid-without-order": (SEEN, [], [PAID]),
        "paid-other-amount": (SEEN, [ORDER], [replace(PAID, minor=501)]),
        "paid-though-dead": (SEEN, [replace(ORDER, state="rejected")], [PAID]),
        "paid-twice": (
            SEEN, [ORDER, replace(ORDER, key="L")], [PAID, replace(PAID, reference="L")],
        ),
        "paid-and-given-back": (replace(SEEN, state="failed"), [ORDER], [PAID]),
    }  # fmt: skip
    for name, (seen, orders, paid) in differences.items():
        with pytest.raises(Violation, match=name):
            checks.payments([seen], orders, paid)
    for seen, paid in ((SEEN, []), (SEEN, [replace(PAID, state="returned")])):
        with pytest.raises(Violation, match="books-differ"):
            checks.agreed([seen], [ORDER], paid)
    with pytest.raises(Violation, match="books-differ"):
        checks.agreed([replace(SEEN, state="returned")], [ORDER], [PAID])


def test_what_clients_were_told_is_held_against_what_there_is() -> None:
    checks.acknowledged([SEEN], {"w": (1, 7, 500, 0)}, lambda _: 1)
    with pytest.raises(Violation, match="acknowledged-lost"):
        checks.acknowledged([SEEN], {"w": (1, 8, 500, 0)}, lambda _: 1)
    for altered in ((400, 0), (500, 10)):
        with pytest.raises(Violation, match="acknowledged-altered"):
            checks.acknowledged([SEEN], {"w": (1, 7, *altered)}, lambda _: 1)
    with pytest.raises(Violation, match="asked-once-made-twice"):
        checks.acknowledged([SEEN], {"w": (1, 7, 500, 0)}, lambda _: 0)
    checks.acknowledged([replace(SEEN, automatic=True)], {}, lambda _: 0)


def _accepted(number: int, fee: str) -> Answer:
    told = {
        "id": f"wd_01{number:013d}",
        "amount": {"amount": "5.00", "currency": "EUR"},
        "fee": {"amount": fee, "currency": "EUR"},
    }
    return Answer(202, json.dumps(told).encode())


def test_what_clients_were_told_stays_so_and_is_what_they_were_offered(small: Stage) -> None:
    clients = Clients.__new__(Clients)
    clients.refused, clients.cast = Counter(), small.cast(EURO).cast
    wish = Wish("w", 0, "float", 500)
    clients._told(wish, _accepted(7, "0.11"))
    assert wish.charged == (500, 11)
    with pytest.raises(Violation, match="answer-differs"):
        clients._told(wish, _accepted(8, "0.11"))
    with pytest.raises(Violation, match="charged-otherwise"):
        clients._told(Wish("v", 0, "float", 500), _accepted(7, "0.12"))
    cheap: Any = SimpleNamespace(id=1, amount=500, fee=10)
    with pytest.raises(Violation, match="charged-otherwise"):
        clients._told(Wish("q", 0, "float", 500, quote=cheap), _accepted(7, "0.11"))


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("UPDATE cell_1.audit SET action = 'never'", "chain"),
        ("UPDATE cell_2.withdrawal SET hold_id = -hold_id", "hold-withdrawal"),
        ("UPDATE cell_1.reward SET amount = amount + 1", "prove"),
    ],
)
def test_the_proofs_at_the_end_find_what_was_tampered_with(
    small: Stage, statement: str, name: str
) -> None:
    def meddle(world: World) -> None:
        if world.ground.clock.now().day > DAYS + 2:
            with closing(Hand(small, world)) as hand:
                hand.do(statement)

    found = small.play(small_script(3, "late"), meddle=meddle).violation
    assert found is not None
    assert found.name.startswith(name), found


# ------------------------------------------------------------------------ scripts and the command


def test_a_script_survives_being_written_down() -> None:
    script = small_script(4)
    assert load(script.dump()) == load(load(script.dump()).dump())
    for text in ("", "{}", '{"version": 99}', '{"version": 1, "seed": 1, "acts": [{}]}'):
        with pytest.raises(Refusal, match="no script"):
            load(text)
    with pytest.raises(Refusal, match="file-unreadable"):
        text_of(PROJECT / "no-such-script.json")


def test_names_that_nobody_knows_are_refused() -> None:
    assert chosen("all") == tuple(FAULTS)
    assert chosen("none") == ()
    with pytest.raises(Refusal, match="no fault"):
        chosen("late,earlier")
    with pytest.raises(Refusal, match="no mutant"):
        mutants.check("nobody")


class _Pretended:
    """Fails while two certain acts are there."""

    def __init__(self) -> None:
        self.runs = 0

    def play(self, script: Script) -> Result:
        self.runs += 1
        kinds = Counter(act.kind for act in script.acts)
        bad = Found(1, "paid-twice", "", 1.0, 1) if kinds["a"] and kinds["b"] else None
        return Result(1, "", 0, 0, 0, 0, bad)


def test_shrinking_leaves_what_matters() -> None:
    kinds = ["open", *"xyzaxyzzzyxbzyxzyzzyxyzzzxyzyyyxxxzyzxyzyxzyxz"]
    script = Script(
        1, 2, 3, EURO_RAILS, tuple(Act(place, kind) for place, kind in enumerate(kinds))
    )
    pretended: Any = _Pretended()
    short = shrink(pretended, script, Found(1, "paid-twice", "", 1.0, 1))
    assert [act.kind for act in short.acts] == ["open", "a", "b"]
    assert pretended.runs < 100


def test_the_command_ends_with_one_line_of_json() -> None:
    asked = [sys.executable, "-m", "paymaster", "sim", "--seed=2", "--days=2", "--users=2"]
    ended = subprocess.run(
        [*asked, "--json"], capture_output=True, text=True, check=False, cwd=PROJECT
    )
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["violations"] == []
    assert told["seeds"] == 1
    assert {"withdrawals", "faults", "crashes"} <= told.keys()
    by_rail = [sum(states.values()) for states in told["by_rail"].values()]
    assert 0 < sum(by_rail) <= told["withdrawals"]


def test_a_script_that_was_made_shorter_comes_with_the_command_that_plays_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the same guard missing it would not fail."""
    monkeypatch.chdir(tmp_path)
    script = Script(
        1, 2, 3, EURO_RAILS, tuple(Act(place, kind) for place, kind in enumerate("axb"))
    )
    pretended: Any = _Pretended()
    command._shrunk(pretended, script, Found(1, "paid-twice", "", 1.0, 1), "lease")
    assert capsys.readouterr().err.endswith("paymaster sim --script sim-1.json --mutant lease\n")
    assert "--shrink" in command._arguments(Options(shrink=True, workers=2))


def test_a_script_is_played_also_where_several_processes_are_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "script.json"
    file.write_text(writing.write(9, 2, 2, (), EURO_RAILS).dump())
    asked = [sys.executable, "-m", "paymaster", "sim", f"--script={file}", "--workers=2", "--json"]
    ended = subprocess.run(asked, capture_output=True, text=True, check=False, cwd=PROJECT)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert (told["faults"], told["withdrawals"] < 10) == (0, True), "not 30 days of 50 users"


# --------------------------------------------------------------------------------------- longer


@pytest.mark.long
@pytest.mark.timeout(900)
def test_some_seeds_hold() -> None:
    """All of them are `make sim`."""
    with stage(50) as made:
        for seed in range(1001, 1001 + int(os.environ.get("PAYMASTER_SEEDS", "12"))):
            result = made.play(writing.write(seed, 30, 50, tuple(FAULTS)))
            assert result.violation is None, result.violation
            assert result.withdrawals >= 50
            assert result.states["paid"] > 25


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", list(mutants.MUTANTS))
def test_every_mutant_is_caught(name: str) -> None:
    with mutants.applied(name), stage(30) as made:
        for seed in range(1, mutants.SEEDS + 1):
            if made.play(writing.write(seed, 12, 30, tuple(FAULTS))).violation is not None:
                return
    raise AssertionError(f"nobody has noticed that {name} is missing")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_failing_seed_gets_shorter_and_still_fails() -> None:
    with mutants.applied("unknown-state"), stage(USERS) as made:
        script = small_script(1, "answer-lost", "late", "crash")
        found = made.play(script).violation
        assert found is not None
        short = shrink(made, script, found, runs=60)
        assert len(short.acts) < len(script.acts) / 4
        again = made.play(load(short.dump())).violation
        assert again is not None
        assert again.name == found.name
    assert CELLS == (1, 2)
