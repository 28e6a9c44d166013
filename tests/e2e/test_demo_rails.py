"""The demo over WeChat Pay and Alipay with real processes: known truth, repetition, kill -9."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.test_demo import finish, kill_all, play, start

from paymaster.cli.demo.answers import COLUMNS
from paymaster.cli.demo.summary import closes_clean

pytestmark = pytest.mark.timeout(600)
long = pytest.mark.long

BOTH = ("--rails", "wechat,alipay")
RIGHT = (25, 31, 7, 40, 12, 18, 33, 9, 22, 14)
"""Right answers of each worker, at 0.10: two earn less than 1.00, the others withdraw."""

EARNED = [count * 10 for count in RIGHT]
LEAVES = [minor for minor in EARNED if minor >= 100]
WECHAT, ALIPAY = LEAVES[0::2], LEAVES[1::2]
NEVER, LATE, RETURNED = WECHAT[0], WECHAT[1], ALIPAY[0]


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    rows = ["\t".join(COLUMNS)]
    for worker, right in enumerate(RIGHT):
        for item in range(40):
            said = "1" if item < right else "0"
            rows.append(f"a{worker}-{item}\tworker-{worker}\titem-{item}\t{said}\t1")
    path = tmp_path / "answers.tsv"
    path.write_text("\n".join(rows) + "\n")
    return path


def check(summary: dict[str, Any]) -> None:
    """Against what was counted from the log by itself."""
    assert (summary["answers"], summary["workers"]) == (400, 10)
    assert summary["rewarded_minor"] == summary["sponsor_spent_minor"] == sum(EARNED)
    wechat, alipay = summary["by_rail"]["wechat"], summary["by_rail"]["alipay"]
    assert wechat == {
        "withdrawals": 4, "withdrawals_minor": sum(WECHAT),
        "paid": 3, "paid_minor": sum(WECHAT) - NEVER,
        "returned": 0, "returned_minor": 0,
        "expired": 1, "expired_minor": NEVER,
        "sandbox_paid_minor": sum(WECHAT) - NEVER,
    }  # fmt: skip
    assert alipay == {
        "withdrawals": 4, "withdrawals_minor": sum(ALIPAY),
        "paid": 3, "paid_minor": sum(ALIPAY) - RETURNED,
        "returned": 1, "returned_minor": RETURNED,
        "expired": 0, "expired_minor": 0,
        "sandbox_paid_minor": sum(ALIPAY) - RETURNED,
    }  # fmt: skip
    assert (summary["expired_returned"], summary["confirmed_late"]) == (1, 1)
    paid = sum(LEAVES) - NEVER - RETURNED
    assert (summary["withdrawals"], summary["paid"], summary["returned"]) == (8, 6, 1)
    assert summary["paid_minor"] == summary["sandbox_paid_minor"] == paid
    assert summary["owed_minor"] == sum(EARNED) - paid
    assert (summary["open_breaks"], summary["duplicates_paid"]) == (0, 0)
    assert summary["prove"] == "ok"


@contextmanager
def sandbox_books(data: Path) -> Iterator[sqlite3.Connection]:
    """What the providers have written down, read past their own API."""
    with closing(sqlite3.connect(data / "sandbox" / "books.sqlite3")) as books, books:
        yield books


@long
def test_both_rails_pay_and_the_providers_books_say_the_same(answers: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    check(play(answers, data, *BOTH))
    with sandbox_books(data) as books:
        bills = books.execute(
            "SELECT amount, state, reason, (updated - created) / 3600000000 FROM wechat_bill"
        ).fetchall()
        paid = books.execute("SELECT amount FROM wechat_paid").fetchall()
        transfers = books.execute("SELECT amount, status FROM alipay_transfer").fetchall()
        codes = books.execute("SELECT count(*) FROM wechat_code WHERE used = 1").fetchone()
    assert sorted(amount for (amount,) in paid) == sorted(WECHAT[1:])
    ended = {amount: (state, reason, hours) for amount, state, reason, hours in bills}
    assert len(ended) == len(bills) == len(WECHAT)
    assert ended.pop(NEVER) == ("FAIL", "OVERDUE_CLOSE", 24), "after a day of virtual time"
    assert ended.pop(LATE) in {("SUCCESS", None, 5), ("SUCCESS", None, 6)}, "hours later"
    assert set(ended.values()) == {("SUCCESS", None, 0)}, "the others at once"
    assert sorted(transfers) == sorted(
        (amount, "REFUND" if amount == RETURNED else "SUCCESS") for amount in ALIPAY
    )
    assert codes == (len(WECHAT),), "everybody was linked on the provider's page, once"


@long
def test_again_says_the_same_and_a_figure_that_is_not_the_truth_is_told(
    answers: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    first = play(answers, data, *BOTH)
    assert play(answers, data, *BOTH) == first
    with sandbox_books(data) as books:
        books.execute("UPDATE wechat_paid SET amount = amount + 1 WHERE amount = ?", (LATE,))
    process = start(answers, data, *BOTH)
    out, err = process.communicate(timeout=400)
    assert process.returncode == 1, f"{out.decode()}\n{err.decode()}"
    assert f'"sandbox_paid_minor": {first["sandbox_paid_minor"] + 1}'.encode() in out


@long
@pytest.mark.parametrize("rail", ["wechat", "alipay"])
def test_one_rail_alone(answers: Path, tmp_path: Path, rail: str) -> None:
    summary = play(answers, tmp_path / "data", "--rails", rail)
    lost = LEAVES[0]
    assert summary["by_rail"].keys() == {rail}
    assert summary["paid_minor"] == sum(LEAVES) - lost == summary["sandbox_paid_minor"]
    assert summary["expired_returned"] == summary["confirmed_late"] == int(rail == "wechat")
    assert summary["returned_minor"] == (lost if rail == "alipay" else 0)


@long
@pytest.mark.parametrize("after_seconds", [10, 14, 18, 24])
def test_kill_9_of_everything_then_again_ends_the_same(
    answers: Path, tmp_path: Path, after_seconds: float
) -> None:
    data = tmp_path / "data"
    process = start(answers, data, *BOTH)
    time.sleep(after_seconds)
    kill_all(process, data)
    check(finish(start(answers, data, *BOTH), data))


@pytest.mark.parametrize(
    ("options", "slug"),
    [
        (("--rails", "wechat,paypal"), b"demo-rails"),
        (("--rails", "alipay", "--currency", "EUR"), b"demo-rails"),
        (("--rails", "wechat", "--reward", "0"), b"reward-invalid"),
    ],
)
def test_what_cannot_be_paid_so_is_refused(
    tmp_path: Path, options: tuple[str, ...], slug: bytes
) -> None:
    data = tmp_path / "data"
    command = [sys.executable, "-m", "paymaster", "demo", "--json", "--data", str(data), *options]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode == 1
    assert slug in done.stderr
    assert not data.exists()


def whole() -> dict[str, Any]:
    """A summary as it must be."""
    rail = {"withdrawals": 2, "paid_minor": 200, "sandbox_paid_minor": 200}
    return {
        "prove": "ok", "open_breaks": 0, "duplicates_paid": 0, "withdrawals": 4, "paid": 2,
        "returned": 1, "expired_returned": 1, "confirmed_late": 1, "paid_minor": 400,
        "sandbox_paid_minor": 400, "owed_minor": 600, "rewarded_minor": 1000,
        "sponsor_spent_minor": 1000, "by_rail": {"wechat": rail, "alipay": dict(rail)},
    }  # fmt: skip


@pytest.mark.parametrize(
    "figure",
    [
        "open_breaks", "duplicates_paid", "withdrawals", "paid", "returned", "expired_returned",
        "confirmed_late", "paid_minor", "sandbox_paid_minor", "owed_minor", "sponsor_spent_minor",
    ],
)  # fmt: skip
def test_no_figure_may_differ(figure: str) -> None:
    right = whole()
    assert closes_clean(right)
    for by in (-1, 1):
        assert not closes_clean({**right, figure: right[figure] + by})


@pytest.mark.parametrize("figure", ["paid_minor", "sandbox_paid_minor", "withdrawals"])
def test_no_figure_of_a_rail_may_differ(figure: str) -> None:
    wrong = whole()
    wrong["by_rail"]["alipay"][figure] += 1
    assert not closes_clean(wrong)
