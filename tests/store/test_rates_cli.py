"""`paymaster rates`: a file is taken down once, and shown."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from tests.unit.test_rates import XML
from tests.world import PostgresServer, make_world
from typer.testing import CliRunner, Result

from paymaster.cli.main import app
from paymaster.kernel.errors import PaymasterError


async def test_a_file_is_imported_and_listed(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_world(postgres) as world:
        monkeypatch.setenv("PAYMASTER__DATABASE__URL", postgres.app_dsn(world.database))
        monkeypatch.setenv("PAYMASTER__DATABASE__DATA_DIR", str(tmp_path))
        monkeypatch.chdir(tmp_path)

        async def run(*words: str) -> Result:
            given = ["rates", *words, "--tenant", "acme"]
            return await asyncio.to_thread(CliRunner().invoke, app, given)

        file = tmp_path / "eurofxref-daily.xml"
        file.write_bytes(XML.replace(b"2026-11-", b"2020-01-"))
        for counts in ({"new": 2, "known": 0}, {"new": 0, "known": 2}):
            done = await run("import", str(file))
            assert done.exit_code == 0, done.output
            assert json.loads(done.output) == counts
        lines = [json.loads(line) for line in (await run("list")).output.splitlines()]
        assert [(r["base"], r["counter"], r["rate"]) for r in lines] == [
            ("EUR", "JPY", "162.37"),
            ("EUR", "USD", "1.0823"),
        ]
        assert lines[0]["observed_at"] == "2020-01-20T15:00:00.000Z"
        missing = await run("import", "nowhere.xml")
        assert isinstance(missing.exception, PaymasterError)
        assert missing.exception.slug == "file-unreadable"
