"""The benchmark suite itself, in tiny: what it reports, and that wrong books have no figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from tests.world import PostgresServer
from typer.testing import CliRunner

from paymaster.cli.main import app
from paymaster.kernel.errors import Refusal
from paymaster.ledger.entry import Verdict
from paymaster.secrets.opening import open_secrets
from paymaster.settings import Settings
from paymaster_bench import checks, command
from paymaster_bench.bench import TINY, Bench, Family
from paymaster_bench.command import Options, main
from paymaster_bench.loadgen import compile_into
from paymaster_bench.measure import Sample, Series
from paymaster_bench.model import Books
from paymaster_bench.report import Check, Findings, Row
from paymaster_bench.rows import catalogue, http, posting
from paymaster_bench.server import BenchServer

PROMISED = {
    "post_1000", "post_100", "post_8000", "post_hot", "post_mixed", "single_256",
    "hold_capture_256", "request_512", "request_http", "saga", "intake", "growth", "orm",
    "history_page",
}  # fmt: skip
FIELDS = {"name", "value", "unit", "reference", "reference_value", "ratio"}


def measured(tmp_path: Path, *names: str) -> tuple[int, dict[str, Any], str]:
    """A tiny run of some rows: exit code, JSON, Markdown."""
    as_json, markdown = tmp_path / "report.json", tmp_path / "report.md"
    options = Options(names, json_path=str(as_json), markdown_path=str(markdown), size=TINY)
    code = main(options)
    return code, json.loads(as_json.read_text()), markdown.read_text()


def rows_of(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    assert all(row.keys() >= FIELDS for row in report["rows"])
    return {row["name"]: row for row in report["rows"]}


def test_every_promised_row_can_be_asked_for() -> None:
    assert set(catalogue.names()) >= PROMISED
    assert len(catalogue.names()) == len(set(catalogue.names()))
    with pytest.raises(Refusal, match="bench-row-unknown"):
        main(Options(["post_9"]))


def test_posting_is_reported_with_its_machine_and_its_checks(tmp_path: Path) -> None:
    wanted = ["post_1000", "post_1000_postings", "post_mixed", "post_hot"]
    code, report, markdown = measured(tmp_path, *wanted)
    rows = rows_of(report)
    assert code == 0
    assert set(rows) == set(wanted)
    assert report["machine"]["settings"]["fsync"] == "on"
    assert report["machine"]["settings"]["synchronous_commit"] == "on"
    assert report["machine"]["settings"]["full_page_writes"] == "on"
    assert rows["post_hot"]["reference"] == "post_1000"
    for row in rows.values():
        assert row["status"] == "ok"
        assert row["value"] > 0 < row["reference_value"]
        assert row["ratio"] == pytest.approx(row["value"] / row["reference_value"], rel=0.01)
    assert [check["ok"] for check in report["checks"]] == [True] * 3
    assert min(check["looked_at"] for check in report["checks"]) > 1000
    assert report["notes"]
    assert all(f"| {name} |" in markdown for name in wanted)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_single_calls_requests_and_growth(tmp_path: Path) -> None:
    wanted = ["single_256", "hold_capture_256", "request_512", "request_512_p99", "growth", "orm"]
    wanted += ["history_page", "history_middle", "balance_as_of"]
    code, report, _ = measured(tmp_path, *wanted)
    rows = rows_of(report)
    assert (code, set(rows)) == (0, set(wanted)), report["checks"]
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert rows["request_512_p99"]["unit"] == "ms"


@pytest.mark.long
@pytest.mark.timeout(600)
def test_flows_from_event_to_payout(tmp_path: Path) -> None:
    wanted = ["intake", "intake_indexed", "intake_gold", "saga", "request_http", "request_http_p99"]
    code, report, _ = measured(tmp_path, *wanted)
    rows = rows_of(report)
    assert (code, set(rows)) == (0, set(wanted)), report["checks"]
    skipped = {name for name, row in rows.items() if row["status"] == "skipped"}
    assert skipped <= (set() if compile_into(tmp_path) else {"request_http_p99"})


@pytest.mark.long
@pytest.mark.timeout(600)
def test_without_a_compiler_there_is_throughput_and_no_quantile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "compile_into", lambda _folder: None)
    code, report, _ = measured(tmp_path, "request_http", "request_http_p99")
    rows = rows_of(report)
    assert code == 0, report["checks"]
    assert rows["request_http"]["value"] > 0
    assert "Python" in rows["request_http"]["note"]
    assert rows["request_http_p99"]["status"] == "skipped"


def test_another_server_is_left_as_it_was(tmp_path: Path, postgres: PostgresServer) -> None:
    dsn = postgres.owner_dsn("postgres")
    with psycopg.connect(dsn, autocommit=True) as connection:
        before = connection.execute(THINGS).fetchall()
    options = Options(["post_1000"], json_path=str(tmp_path / "report"), size=TINY, dsn=dsn)
    assert main(options) == 0
    report = json.loads((tmp_path / "report").read_text())
    assert report["machine"]["server"] == "by address"
    assert "fsync off" in report["notes"][0], "figures without durability must say so"
    with psycopg.connect(dsn, autocommit=True) as connection:
        assert connection.execute(THINGS).fetchall() == before


THINGS = "SELECT datname FROM pg_database UNION ALL SELECT rolname FROM pg_roles ORDER BY 1"


def test_an_installation_that_the_environment_names_is_not_touched(
    tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation = tmp_path / "installation"
    named = {
        "PAYMASTER__DATABASE__URL": "postgresql://production.invalid/books",
        "paymaster__database__owner_url": "postgresql://production.invalid/books",
        "PAYMASTER__DATABASE__DATA_DIR": str(installation),
        "PAYMASTER__SECRETS__DIRECTORY": str(installation / "keys"),
        "PAYMASTER_SECRET__KEK": "not a key",
        "PAYMASTER_CONFIG": str(installation / "paymaster.toml"),
    }
    for name, value in named.items():
        monkeypatch.setenv(name, value)
    seen: list[tuple[Settings, dict[str, str]]] = []

    async def look(bench: Bench, _wanted: frozenset[str]) -> Findings:
        settings = bench.settings(database={"url": postgres.app_dsn("books")})
        assert open_secrets(settings).kek.current_id()
        seen.append((settings, dict(os.environ)))
        return Findings()

    monkeypatch.setattr(command, "FAMILIES", [Family(("post_1000",), look)])
    assert main(Options(size=TINY, dsn=postgres.owner_dsn("postgres"))) == 0
    [(settings, environment)] = seen
    assert settings.database.url == postgres.app_dsn("books")
    assert settings.database.owner_url is None
    assert settings.database.data_dir.parts[-2].startswith("paymaster-bench-")
    assert not named.keys() & environment.keys()
    assert not installation.exists()
    assert os.environ["PAYMASTER_SECRET__KEK"] == "not a key"


def test_a_folder_of_an_installation_is_refused(tmp_path: Path) -> None:
    words = ["--data", str(tmp_path / "books"), "bench", "--only", "post_1000"]
    result = CliRunner().invoke(app, words, env={"PAYMASTER__DATABASE__DATA_DIR": None})
    assert isinstance(result.exception, Refusal)
    assert result.exception.slug == "bench-data"
    assert not (tmp_path / "books").exists()


@pytest.mark.parametrize("name", ["missing/report", "."])
def test_a_report_that_cannot_be_written_is_said_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(command, "open_server", None)
    for options in (
        Options(json_path=str(tmp_path / name)),
        Options(json_path=str(tmp_path / "good"), markdown_path=str(tmp_path / name)),
    ):
        with pytest.raises(Refusal, match="file-unwritable"):
            main(options)
    assert not list(tmp_path.iterdir())


def test_a_missing_alternative_skips_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    code, report, markdown = measured(tmp_path, "orm")
    [row] = report["rows"]
    assert (code, row["status"], row["value"], row["ratio"]) == (0, "skipped", None, None)
    assert "SQLAlchemy" in row["note"]
    assert "skipped: SQLAlchemy" in markdown


def test_wrong_books_and_wrong_verdicts_have_no_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cent goes missing behind the ledger's back, and one verdict is told wrongly."""
    servers: list[BenchServer] = []
    copy, prove, in_order = Bench.copy, checks.prove, checks._in_order

    async def remember(bench: Bench, purpose: str) -> str:
        servers.append(bench.server)
        return await copy(bench, purpose)

    async def cheat(name: str, dsn: str, *, ledger_only: bool = False) -> Check:
        owner = servers[-1].owner_dsn(str(conninfo_to_dict(dsn)["dbname"]))
        with psycopg.connect(owner, autocommit=True) as connection:
            connection.execute(
                "UPDATE cell_1.account SET balance = balance - 1 WHERE owner_id = 1"
                " AND kind = 'available'"
            )
        return await prove(name, dsn, ledger_only=ledger_only)

    def one_is_wrong(*arguments: Any) -> Any:
        for number, (*fact, verdict) in enumerate(in_order(*arguments)):
            yield (*fact, Verdict.INSUFFICIENT.value if number == 7 else verdict)

    monkeypatch.setattr(Bench, "copy", remember)
    monkeypatch.setattr(checks, "prove", cheat)
    monkeypatch.setattr(checks, "_in_order", one_is_wrong)
    code, report, markdown = measured(tmp_path, "post_1000")
    [row] = report["rows"]
    verdicts, balances, proof = report["checks"]
    assert (code, row["status"], report["ok"]) == (1, "invalid", False)
    assert "insufficient, by the model posted" in verdicts["faults"][0]
    assert balances["ok"]
    assert any("balance" in fault for fault in proof["faults"])
    assert "INVALID" in markdown
    assert "WRONG" in markdown


def test_the_model_of_the_books() -> None:
    books = Books(2, {0: 10, 1: 0, 2: 0})
    assert books.post(1, 0, 1, 8) == "posted"
    assert books.post(2, 0, 1, 3) == "insufficient"
    assert books.post(1, 0, 1, 8) == "duplicate"
    assert books.post(1, 0, 1, 9) == "conflict"
    assert books.post(3, 2, 0, 99) == "posted"
    assert books.post(2, 0, 1, 3) == "posted"
    assert books.balances == {0: 98, 1: 11, 2: -99}


def test_medians_and_quantiles() -> None:
    series = Series([Sample(10, 5.0, [0.1] * 99 + [9.0]), Sample(10, 50.0), Sample(10, 7.0)])
    assert series.rate == 7.0
    assert series.quantile_ms(0.5) == pytest.approx(100.0)
    assert series.quantile_ms(0.99) == pytest.approx(9000.0)
    assert series.count == 30


def test_a_failing_check_spoils_its_own_family_only() -> None:
    row = Row("a", 1.0, "x", "y", 2.0)
    good = Findings([row], [Check("c", ok=True, looked_at=1)])
    good.judge()
    assert row.status == "ok"
    Findings([row], [Check("c", ok=False, looked_at=1)]).judge()
    assert row.status == "invalid"


def test_the_anchor_is_a_constant_with_a_source() -> None:
    assert posting.TIGERBEETLE.keys() == {"post_100", "post_1000", "post_8000"}
    assert "constant" in posting._ANCHOR
    assert all(note.strip() for note in command.NOTES)


def test_the_command_says_what_there_is() -> None:
    shown = CliRunner().invoke(app, ["bench", "--help"], env={"COLUMNS": "120"})
    assert shown.exit_code == 0
    for option in ("--only", "--quick", "--json", "--markdown", "--cores", "--dsn"):
        assert option in shown.output


def test_the_load_generator_counts_from_the_schedule(tmp_path: Path) -> None:
    """A server that stalls once: closed loop hides it, the schedule shows it."""
    program = compile_into(tmp_path)
    if program is None:
        pytest.skip("no C compiler")
    command = [sys.executable, "-c", STALLING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        (tmp_path / "bodies").write_text("{}\n")
        told = {rate: shot(program, port, rate, tmp_path) for rate in ("0", "200")}
        server.kill()
    assert told["0"]["p99_us"] < 400_000 < told["0"]["max_us"]
    assert told["200"]["p99_us"] > 400_000
    assert told["200"]["sent"] == told["200"]["answered"] == 300
    assert (tmp_path / "samples").read_text().startswith("0 200 ok")


def shot(program: Path, port: str, rate: str, folder: Path) -> dict[str, Any]:
    arguments = ["127.0.0.1", port, "1", "1.5", rate, "/", "key", "run", "0"]
    files = [str(folder / "bodies"), str(folder / "samples")]
    done = subprocess.run(
        [str(program), *arguments, *files], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


STALLING = """
import socket, time
listening = socket.socket()
listening.bind(("127.0.0.1", 0))
listening.listen()
print(listening.getsockname()[1], flush=True)
while True:
    connection, _ = listening.accept()
    number = 0
    while data := connection.recv(65536):
        number += 1
        if number == 100:
            time.sleep(0.5)
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
"""
