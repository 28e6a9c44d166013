"""`paymaster ledger prove` as an operator runs it: sound, going on, altered."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from paymaster.db.embedded import EmbeddedPostgres

SECONDS = 100

pytestmark = pytest.mark.timeout(4 * SECONDS)


def run(data: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "paymaster", "--data", str(data), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)


def proven(data: Path, *words: str) -> tuple[int, dict[str, Any]]:
    done = run(data, "ledger", "prove", "--json", *words)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_the_command_proves_and_goes_on_and_names_a_fault(tmp_path: Path) -> None:
    data = tmp_path / "data"
    try:
        assert run(data, "setup", "--tenant", "acme", "--mode", "test").returncode == 0
        code, first = proven(data)
        assert (code, first["ok"]) == (0, True)
        assert [cell["cell"] for cell in first["cells"]] == [1]
        assert 0 < first["peak_memory_mb"] < 400, "whatever started it"
        with psycopg.connect(
            EmbeddedPostgres(data / "postgres").owner_dsn("paymaster"), autocommit=True
        ) as owner:
            owner.execute("SET search_path TO cell_1")
            owner.execute(
                "INSERT INTO account (id, kind, owner_id, asset, scale, balance, postings)"
                " VALUES (5, 'equity', 0, 'EUR', 2, 3, 0)"
            )
        code, altered = proven(data, "--cell", "1", "--full")
        assert (code, altered["ok"]) == (1, False)
        told = {each["check"] for each in altered["cells"][0]["differences"]}
        assert told == {"balance", "sum-of-balances"}
        shown = run(data, "ledger", "prove")
        assert shown.returncode == 1
        assert "balance 5: the books say 3, derived is 0" in shown.stdout
        assert run(data, "ledger", "prove", "--cell", "77").returncode == 1
    finally:
        run(data, "stop-database")
