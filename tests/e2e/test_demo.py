"""The main job with real processes: known truth, repetition, kill -9, three cells, copies."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

SECONDS = 400
TRUTH = {
    "rte": (8000, 164, 5833, 20, 6066, 11666),
    "temp": (4620, 76, 3390, 15, 4740, 6780),
    "wsd": (1770, 34, 1738, 11, 2464, 3476),
}

pytestmark = pytest.mark.timeout(900)
long = pytest.mark.long


@pytest.fixture
def logs(data_dir_from_outside: Path) -> Path:
    return data_dir_from_outside / "snow2008"


def log_file(logs: Path, name: str) -> Path:
    return logs / f"{name}.standardized.tsv"


def start(answers: Path, data: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "paymaster", "demo", "--json", "--answers", str(answers)]
    command += ["--data", str(data), *options]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PAYMASTER__")}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )


def finish(process: subprocess.Popen[bytes], data: Path) -> dict[str, Any]:
    out, err = process.communicate(timeout=SECONDS)
    log = data / "demo" / "up.log"
    told = log.read_text()[-3000:] if log.exists() else ""
    assert process.returncode == 0, f"{out.decode()}\n{err.decode()}\n{told}"
    return json.loads(out.decode().strip().splitlines()[-1])


def play(answers: Path, data: Path, *options: str) -> dict[str, Any]:
    return finish(start(answers, data, *options), data)


def truth_of(answers: Path, reward_minor: int = 2) -> tuple[int, int, int, int, int, int]:
    """What must come out, counted from the log by itself."""
    with answers.open(newline="") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t"))
    right = Counter(r["!amt_worker_ids"] for r in rows if r["response"] == r["gold"])
    earned = {worker: count * reward_minor for worker, count in right.items()}
    over = [minor for minor in earned.values() if minor >= 100]
    workers = len({r["!amt_worker_ids"] for r in rows})
    return len(rows), workers, right.total(), len(over), sum(over), sum(earned.values())


def check(summary: dict[str, Any], truth: tuple[int, int, int, int, int, int]) -> None:
    answers, workers, rewarded, withdrawals, withdrawn, earned = truth
    assert summary["answers"] == answers
    assert summary["workers"] == workers
    assert summary["rewarded"] == rewarded
    assert summary["rewarded_minor"] == summary["sponsor_spent_minor"] == earned
    assert summary["withdrawals"] == withdrawals
    assert summary["returned"] == 2
    assert summary["paid"] == withdrawals - 2
    assert summary["paid_minor"] + summary["returned_minor"] == withdrawn
    assert summary["sandbox_paid_minor"] == summary["paid_minor"]
    assert summary["owed_minor"] == earned - withdrawn + summary["returned_minor"]
    assert (summary["open_breaks"], summary["duplicates_paid"]) == (0, 0)
    assert summary["prove"] == "ok"


@long
@pytest.mark.parametrize("name", ["rte", "temp"])
def test_a_real_log_gives_the_known_truth(logs: Path, tmp_path: Path, name: str) -> None:
    answers = log_file(logs, name)
    assert truth_of(answers) == TRUTH[name]
    check(play(answers, tmp_path), TRUTH[name])


def test_a_second_run_in_the_same_folder_changes_nothing(logs: Path, tmp_path: Path) -> None:
    first = play(log_file(logs, "wsd"), tmp_path)
    assert play(log_file(logs, "wsd"), tmp_path) == first
    check(first, TRUTH["wsd"])
    imported_again(log_file(logs, "wsd"), tmp_path)


def imported_again(answers: Path, data: Path) -> None:
    """The same log as a file with a declarative mapping: every event is known already."""
    day = json.loads((data / "demo" / "state.json").read_text())["payout_day"]
    fields = {
        "event_id": "{!amt_annotation_ids}:{orig_id}",
        "user": "{!amt_worker_ids}",
        "campaign": "labels",
        "task": "answer-items",
        "type": "answer",
        "occurred_at": f"{day}T00:00:00Z",
        "payload.item": "{orig_id}",
        "payload.response": "{response}",
    }
    paymaster = [sys.executable, "-m", "paymaster", "--data", str(data)]
    command = [*paymaster, "import", "events", str(answers), "--tab", "--json"]
    command += ["--source", "demo", "--tenant", "demo", "--mapping", json.dumps(fields)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
        assert done.returncode == 0, done.stderr.decode()
        counted = json.loads(done.stdout)
        assert (counted["duplicate"], counted["rewarded"], counted["rejected"]) == (1770, 0, 0)
    finally:
        subprocess.run([*paymaster, "stop-database"], timeout=SECONDS, check=True)


@long
def test_an_altered_log_gives_its_own_truth(logs: Path, tmp_path: Path) -> None:
    lines = log_file(logs, "wsd").read_text().splitlines(keepends=True)
    dropped = set(random.Random(7).sample(range(1, len(lines)), 200))
    altered = tmp_path / "altered.tsv"
    altered.write_text("".join(x for n, x in enumerate(lines) if n not in dropped))
    summary = play(altered, tmp_path / "data", "--reward", "0.05", "--currency", "USD")
    check(summary, truth_of(altered, 5))


@long
def test_three_cells_on_two_servers(logs: Path, tmp_path: Path) -> None:
    check(play(log_file(logs, "wsd"), tmp_path, "--cells", "3"), TRUTH["wsd"])


def descendants(pid: int) -> dict[int, str]:
    """Every process below one, with its command line."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    below = {pid}
    while grown := {p for p, parent in parents.items() if parent in below} - below:
        below |= grown
    found: dict[int, str] = {}
    for one in below - {pid}:
        try:
            found[one] = (
                (Path("/proc") / str(one) / "cmdline").read_bytes().decode(errors="replace")
            )
        except OSError:
            continue
    return found


def postgres_of(data: Path) -> set[int]:
    """The servers of a data folder, which need not be our descendants."""
    found: set[int] = set()
    for file in data.rglob("postmaster.pid"):
        try:
            found.add(int(file.read_text().splitlines()[0]))
        except (OSError, ValueError, IndexError):
            continue
    return found


def kill_all(process: subprocess.Popen[bytes], data: Path) -> None:
    """kill -9 of the whole tree, the database with all its children included."""
    servers = {p for p in postgres_of(data) if Path(f"/proc/{p}").exists()}
    doomed = {process.pid, *descendants(process.pid), *servers}
    for server in servers:
        doomed |= set(descendants(server))
    for pid in doomed:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.communicate()


@long
@pytest.mark.parametrize("after_seconds", [7, 11, 15])
def test_kill_9_of_everything_then_again_ends_the_same(
    logs: Path, tmp_path: Path, after_seconds: float
) -> None:
    process = start(log_file(logs, "wsd"), tmp_path)
    time.sleep(after_seconds)
    kill_all(process, tmp_path)
    check(play(log_file(logs, "wsd"), tmp_path), TRUTH["wsd"])


@long
def test_two_copies_of_every_role_one_of_them_stopped_past_its_lease(
    logs: Path, tmp_path: Path
) -> None:
    """SIGSTOP a copy of each background role in turn, longer than the lease, then resume it."""
    process = start(log_file(logs, "wsd"), tmp_path, "--copies", "2")
    stopped = 0
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(2)
        below = descendants(process.pid)
        roles = [pid for pid, line in below.items() if "paymaster.roles\0" in line]
        if len(roles) < 16:
            continue
        for role in ("dispatch", "settle", "relay"):
            victims = [pid for pid in roles if f"\0{role}\0" in below[pid]]
            if victims and Path(f"/proc/{victims[0]}").exists():
                os.kill(victims[0], signal.SIGSTOP)
                stopped += 1
                time.sleep(1)
        time.sleep(11)
        for pid in roles:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                continue
        break
    check(finish(process, tmp_path), TRUTH["wsd"])
    assert stopped == 3


@long
def test_the_database_is_killed_and_comes_back(logs: Path, tmp_path: Path) -> None:
    """kill -9 of PostgreSQL alone, in the middle: it is started again and everything goes on."""
    process = start(log_file(logs, "wsd"), tmp_path)
    killed = 0
    for after_seconds in (10, 5):
        time.sleep(after_seconds)
        for server in postgres_of(tmp_path):
            if process.poll() is None and Path(f"/proc/{server}").exists():
                os.kill(server, signal.SIGKILL)
                killed += 1
    check(finish(process, tmp_path), TRUTH["wsd"])
    assert killed


@long
def test_the_database_is_gone_for_ten_seconds(logs: Path, tmp_path: Path) -> None:
    """Every backend stands still for ten seconds: callers wait or are told 503, nothing is lost."""
    process = start(log_file(logs, "wsd"), tmp_path)
    time.sleep(9)
    frozen = {pid for server in postgres_of(tmp_path) for pid in {server, *descendants(server)}}
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(10)
    for pid in frozen:
        os.kill(pid, signal.SIGCONT)
    check(finish(process, tmp_path), TRUTH["wsd"])
    assert frozen


def test_a_folder_of_another_log_is_refused(logs: Path, tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "state.json").write_text(
        json.dumps({"fingerprint": "x", "funding_day": "2026-01-01", "payout_day": "2026-01-02"})
    )
    process = start(log_file(logs, "wsd"), tmp_path)
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert b"demo-data-folder" in err


def test_a_second_up_on_one_data_folder_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "up.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [sys.executable, "-m", "paymaster", "--data", str(tmp_path), "up"]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode == 1
    assert b"already-running" in done.stderr
    assert not (tmp_path / "postgres").exists()
