"""Commands on an installation that is there, and on one that is not."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from paymaster.cli.main import app
from paymaster.kernel.clock import parse_rfc3339
from paymaster.kernel.errors import Refusal

MAPPING = json.dumps(
    {"event_id": "{id}", "user": "{id}", "task": "t", "type": "t", "occurred_at": "{at}"}
)


def run(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "paymaster", "--data", str(data), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=90)


def said(data: Path, *arguments: str) -> dict[str, object]:
    done = run(data, *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_the_clock_goes_forward_beyond_the_months_that_were_ready(tmp_path: Path) -> None:
    data = tmp_path / "data"
    said(data, "setup", "--tenant", "acme", "--json")
    try:
        before = parse_rfc3339(str(said(data, "clock", "show", "--tenant", "acme")["now"]))
        made = said(data, "clock", "forward", "--days", "400", "--tenant", "acme")
        assert int(str(made["ahead_seconds"])) >= 400 * 86_400 - 60
        after = parse_rfc3339(str(said(data, "clock", "show", "--tenant", "acme")["now"]))
        assert timedelta(days=399) <= after - before < timedelta(days=400, minutes=5)
        refused = run(data, "clock", "forward", "--tenant", "acme")
        assert (refused.returncode, "time-malformed" in refused.stderr) == (1, True)
    finally:
        assert run(data, "stop-database").returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("clock", "show"),
        ("keys", "list"),
        ("cells", "list"),
        ("environments", "list"),
        ("audit", "verify"),
        ("ledger", "prove"),
        ("relay", "aside"),
        ("broker", "aside"),
        ("broker", "check"),
        ("funding",),
        ("lockouts", "list"),
        ("staff", "list"),
        ("issuers", "list"),
        ("import", "events", "--mapping", MAPPING, __file__),
        ("role", "intake"),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_mistyped_folder_is_refused_and_not_made(
    tmp_path: Path, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "typo"
    monkeypatch.setenv("PAYMASTER__DATABASE__DATA_DIR", str(data))
    done = CliRunner().invoke(app, ["--data", str(data), *arguments])
    assert isinstance(done.exception, Refusal), done.output
    assert done.exception.slug == "installation-missing"
    assert not data.exists()


def test_what_is_no_archive_is_said_to_be_none(tmp_path: Path) -> None:
    for path in (".", str(tmp_path), str(tmp_path / "nothing.gz")):
        done = CliRunner().invoke(app, ["ledger", "archive", "verify", path])
        assert isinstance(done.exception, Refusal), done.output
        assert done.exception.slug == "archive-unreadable"


@pytest.mark.parametrize("tenant", ["", "a/b", "two words", "-x", "x" * 65])
def test_a_tenant_that_cannot_stand_in_an_address_is_refused(
    tmp_path: Path, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAYMASTER__DATABASE__DATA_DIR", str(tmp_path / "d"))
    done = CliRunner().invoke(app, ["--data", str(tmp_path / "d"), "setup", "--tenant", tenant])
    assert (done.exit_code, "--tenant" in done.output) == (2, True)
    assert not (tmp_path / "d").exists()
