"""A month leaves for a file: what is proven before, what stays, what is refused afterwards."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable
from datetime import date, timedelta
from functools import partial
from pathlib import Path

import psycopg
import pytest
from tests.archiving import (
    EURO,
    MINE,
    MONTH,
    archiving_world,
    history,
    leave,
    new_ids,
    pay,
    reward,
    settle_books,
)
from tests.earning import earning_world, event
from tests.withdrawals import available, made_in, steps_to, withdrawal_world
from tests.world import PostgresServer, World, owner_rows
from typer.testing import CliRunner, Result

from paymaster.cli import archive as archive_command
from paymaster.earn import task
from paymaster.earn.event import Status
from paymaster.kernel.errors import Broken, PaymasterError, Refusal
from paymaster.ledger import archive, archive_file, proof, statement
from paymaster.ledger.balance import account_balance
from paymaster.ledger.chart import Account
from paymaster.ledger.entry import Verdict
from paymaster.withdraw.moves import move

REPLAYED = ("requested", "sending", "sent", "paid", "failed", "returned", "denied", "cancelled")


@pytest.fixture
async def world(postgres: PostgresServer):
    async with archiving_world(postgres) as made:
        yield made


async def stood(world: World, account: Account, days_ago: float) -> int:
    at = world.clock.now() - timedelta(days=days_ago)
    return await world.read(lambda tx: statement.as_of(tx, account, at, basis="recorded"))


async def test_a_month_leaves_and_the_books_go_on(world: World, tmp_path: Path) -> None:
    before = await history(world)
    now = await world.read(lambda tx: account_balance(tx, MINE))
    await settle_books(world)
    manifest = await leave(world, tmp_path)
    assert manifest is not None
    assert (manifest.counts["entry"], manifest.counts["posting"]) == (4, 7)
    assert archive_file.verify(tmp_path / archive.file_name(1, MONTH)) == manifest
    assert owner_rows(world, "SELECT count(*) FROM posting_p202611") == [(0,)]
    # The entry with an id of November and postings of December stays, in November's partition.
    assert owner_rows(world, "SELECT count(*) FROM entry_p202611") == [(1,)]
    after = await history(world)
    assert after.rows == before.rows[:1]
    assert after.next_id is None
    assert after.archived == statement.Archived(MONTH, archive.file_name(1, MONTH), manifest.sha256)
    assert await world.read(lambda tx: account_balance(tx, MINE)) == now == 3 * EURO.minor
    assert await stood(world, MINE, 0) == now
    assert await stood(world, MINE, 5) == now - EURO.minor
    row = owner_rows(
        world, "SELECT actor, subject, reason FROM audit WHERE action = %s", archive.ARCHIVED
    )
    assert row == [("test", "2026-11", "seven years old")]
    assert await pay(world, reward((await new_ids(world, 1))[0], 5)) == [Verdict.POSTED]
    assert (await history(world)).rows[0].balance == now + EURO.minor


async def test_an_id_of_the_archived_month_can_still_be_posted(
    world: World, tmp_path: Path
) -> None:
    (early,) = owner_rows(world, "SELECT max(id) + 1 FROM entry_p202611")[0]
    await settle_books(world)
    await leave(world, tmp_path)
    assert await pay(world, reward(early, 5)) == [Verdict.POSTED]
    assert await pay(world, reward(early, 5)) == [Verdict.DUPLICATE]
    assert (await history(world)).rows[0].entry_id == early


async def test_the_books_prove_after_a_month_has_left(world: World, tmp_path: Path) -> None:
    await settle_books(world)
    await leave(world, tmp_path)
    assert await world.read(proof.prove) == []
    await pay(world, reward((await new_ids(world, 1))[0], 5))
    assert await world.read(proof.prove) == []
    with psycopg.connect(world.owner_dsn, autocommit=True) as connection:
        connection.execute("UPDATE cell_1.archive SET chain_sum = chain_sum + 1")
    assert await world.read(proof.prove) != []


async def test_what_lies_before_is_refused(world: World, tmp_path: Path) -> None:
    await settle_books(world)
    assert await stood(world, MINE, 21.5) == EURO.minor
    assert await stood(world, MINE, 20.5) == 2 * EURO.minor
    await leave(world, tmp_path)
    assert await stood(world, MINE, 20.5) == 2 * EURO.minor
    with pytest.raises(Refusal) as refused:
        await stood(world, MINE, 21.5)
    assert refused.value.slug == "as-of-archived"


async def test_a_month_leaves_once(world: World, tmp_path: Path) -> None:
    await settle_books(world)
    assert await world.read(lambda tx: archive.months_before(tx, date(2026, 12, 1))) == [
        date(2026, 10, 1),
        MONTH,
    ]
    await leave(world, tmp_path)
    assert await world.read(lambda tx: archive.months_before(tx, date(2026, 12, 1))) == [
        date(2026, 10, 1)
    ]
    assert await leave(world, tmp_path) is None


NOT_READY = {
    "UPDATE head SET closed_through = '2026-11-30'": "closed through 2026-12-01",
    "UPDATE head SET closed_through = NULL": "closed",
    "DELETE FROM proof": "proven",
    "DELETE FROM seal": "sealed",
    "UPDATE seal SET last_seq = 1": "sealed",
}


async def test_a_month_that_is_not_ready_stays(world: World, tmp_path: Path) -> None:
    for spoil, says in NOT_READY.items():
        await settle_books(world)
        with psycopg.connect(world.owner_dsn, autocommit=True) as connection:
            connection.execute("SET search_path TO cell_1")
            connection.execute(spoil.encode())
        with pytest.raises(PaymasterError, match=says) as refused:
            await leave(world, tmp_path)
        assert refused.value.slug == "archive-not-ready"
    assert owner_rows(world, "SELECT count(*) FROM posting_p202611") == [(7,)]
    assert not (tmp_path / archive.file_name(1, MONTH)).exists()


async def test_what_came_after_the_file_was_written_keeps_the_month(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await settle_books(world)
    real = archive_file.save_manifest

    def meanwhile(file: Path, manifest: archive_file.Manifest) -> None:
        with psycopg.connect(world.owner_dsn, autocommit=True) as connection:
            connection.execute("SET search_path TO cell_1")
            connection.execute(
                "INSERT INTO posting SELECT id + 1, entry_id, source_id, destination_id, amount,"
                " asset, requested, source_previous, source_number, source_balance,"
                " destination_previous, destination_number, destination_balance"
                " FROM posting_p202611 ORDER BY id DESC LIMIT 1"
            )
        real(file, manifest)

    monkeypatch.setattr(archive_file, "save_manifest", meanwhile)
    with pytest.raises(Broken) as broken:
        await leave(world, tmp_path)
    assert broken.value.slug == "archive-differs"
    assert owner_rows(world, "SELECT count(*) FROM archive") == [(0,)]
    assert owner_rows(world, "SELECT count(*) FROM posting_p202611") == [(8,)]


async def test_a_file_that_lacks_something_changes_nothing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await settle_books(world)
    real = archive_file.Writer.rows

    def forgetful(writer: archive_file.Writer, lines: bytes) -> None:
        if b"\tre_6\t" not in bytes(lines):
            real(writer, lines)

    monkeypatch.setattr(archive_file.Writer, "rows", forgetful)
    with pytest.raises(Refusal) as refused:
        await leave(world, tmp_path)
    assert refused.value.slug == "archive-altered"
    assert owner_rows(world, "SELECT count(*) FROM posting_p202611") == [(7,)]
    monkeypatch.undo()
    assert await leave(world, tmp_path) is not None


def swap_balances(text: str) -> str:
    """Exchange the balances of two postings; all counts and sums stay the same."""
    lines = text.split("\n")
    start = next(n for n, line in enumerate(lines) if line.startswith("#posting")) + 1
    first, second = lines[start].split("\t"), lines[start + 1].split("\t")
    first[-1], second[-1] = second[-1], first[-1]
    assert first[-1] != second[-1]
    lines[start : start + 2] = ["\t".join(first), "\t".join(second)]
    return "\n".join(lines)


def drop_last_posting(text: str) -> str:
    """Leave one posting out."""
    head, _, tail = text.partition("#opening")
    return head.rstrip("\n").rpartition("\n")[0] + "\n#opening" + tail


SPOILT: dict[str, Callable[[str], str]] = {
    "a balance": swap_balances,
    "a posting less": drop_last_posting,
    "an opening": lambda text: text.replace("#closing", "77\t1\t1\t1\n#closing"),
    "an entry": lambda text: text.replace("\tre_6\t", "\tre_7\t"),
    "another month": lambda text: text.replace("#opening", "9" * 18 + "\t1" * 13 + "\n#opening"),
    "the end": lambda text: text.removesuffix("#end\n"),
    "the beginning": lambda text: text.replace("archive 1", "archive 2"),
}


async def test_an_altered_file_is_told(world: World, tmp_path: Path) -> None:
    await settle_books(world)
    manifest = await leave(world, tmp_path)
    assert manifest is not None
    file = tmp_path / archive.file_name(1, MONTH)
    whole = file.read_bytes()
    for name, spoil in SPOILT.items():
        text = gzip.decompress(whole).decode()
        altered = spoil(text)
        assert altered != text, name
        file.write_bytes(gzip.compress(altered.encode()))
        with pytest.raises(Refusal) as refused:
            archive_file.verify(file)
        assert refused.value.slug in ("archive-altered", "archive-unreadable"), name
        if name in ("a balance", "a posting less", "an opening", "another month"):
            # Told by what the file says in itself, without the manifest's hash.
            with pytest.raises(Refusal):
                archive_file.read(file, manifest.low_id, manifest.high_id)


async def test_a_manifest_of_another_file_is_told(world: World, tmp_path: Path) -> None:
    await settle_books(world)
    await leave(world, tmp_path)
    file = tmp_path / archive.file_name(1, MONTH)
    path = archive_file.manifest_path(file)
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "sums": {"EUR": told["sums"]["EUR"] + 1}}))
    with pytest.raises(Refusal, match="sums"):
        archive_file.verify(file)
    path.unlink()
    with pytest.raises(Refusal, match="cannot be read"):
        archive_file.verify(file)


async def test_business_rows_cannot_post_again_what_was_archived(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    """Nothing in the books remembers an archived entry; the rows that own its id do."""
    async with withdrawal_world(postgres) as world:
        made = [(state, *await made_in(world, state)) for state in REPLAYED]
        world.clock.advance(timedelta(days=30))
        await settle_books(world)
        await leave(world, tmp_path)
        count = "SELECT (SELECT count(*) FROM entry), (SELECT count(*) FROM posting)"
        (before,) = owner_rows(world, count)
        for state, earner, withdrawal_id in made:
            stood_before = await available(world, earner)
            for again in steps_to(withdrawal_id, state):
                (moved,) = await world.run(lambda tx, again=again: move(tx, [again]))
                assert not moved.done, (state, again)
            assert await available(world, earner) == stood_before
        assert owner_rows(world, count) == [before]


async def test_events_cannot_be_credited_again(postgres: PostgresServer, tmp_path: Path) -> None:
    async with earning_world(postgres) as earning:
        camp = await earning.put_campaign()
        made = await earning.put_task({"kind": "gold"}, type="labelling")
        await earning.fund(camp.number, "1.00")
        await earning.add_users("u1")
        await earning.control(lambda tx: task.put_gold(tx, 1, made.id, {"a": "1"}))
        answer = event(1, "u1", payload={"item": "a", "answer": "1"})
        assert [one.status for one in await earning.send(answer)] == [Status.REWARDED]
        earning.world.clock.advance(timedelta(days=30))
        await settle_books(earning.world)
        await leave(earning.world, tmp_path)
        assert [one.status for one in await earning.send(answer)] == [Status.DUPLICATE]
        assert (await earning.balance("u1")).available.minor == 2
        assert owner_rows(earning.world, "SELECT count(*) FROM posting") == [(0,)]


@pytest.fixture
def installation(
    world: World, postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """Runs `paymaster ledger archive` against the world."""
    monkeypatch.setenv("PAYMASTER__DATABASE__URL", postgres.app_dsn(world.database))
    monkeypatch.setenv("PAYMASTER__DATABASE__OWNER_URL", world.owner_dsn)
    monkeypatch.setenv("PAYMASTER__DATABASE__APP_ROLE", postgres.app_role)
    monkeypatch.setenv("PAYMASTER__DATABASE__DATA_DIR", str(tmp_path / "data"))
    return partial(CliRunner().invoke, archive_command.app)


async def test_the_command_archives_and_verifies(
    world: World, installation: Callable[..., Result], tmp_path: Path
) -> None:
    to, why = f"--to={tmp_path}", "--reason=old"
    early = await asyncio.to_thread(installation, ["--before=2026-12", to, why])
    assert isinstance(early.exception, PaymasterError)
    assert early.exception.slug == "archive-not-ready"
    await settle_books(world)
    done = await asyncio.to_thread(installation, ["--before=2026-12", to, why])
    assert done.exit_code == 0, done.exception
    assert done.output.splitlines()[-1] == "1 months archived"
    again = await asyncio.to_thread(installation, ["--before=2026-12", to, why])
    assert again.output == "0 months archived\n"
    with psycopg.connect(world.owner_dsn, autocommit=True) as connection:
        # As if the run had been stopped before it removed the marks.
        connection.execute(
            "INSERT INTO cell_1.account_mark SELECT 1, 64, low_id FROM cell_1.archive"
        )
    finished = await asyncio.to_thread(installation, ["--before=2026-12", to, why])
    assert finished.output == "0 months archived\n"
    assert owner_rows(world, "SELECT count(*) FROM account_mark") == [(0,)]
    file = tmp_path / archive.file_name(1, MONTH)
    assert installation(["verify", str(file)]).output.startswith("ok: ")
    told = json.loads(installation(["verify", "--json", str(file)]).output)
    assert told["counts"]["posting"] == 7
    file.write_bytes(file.read_bytes()[:-9])
    assert isinstance(installation(["verify", str(file)]).exception, Refusal)


@pytest.mark.parametrize(
    ("arguments", "slug"),
    [
        (["--before=2026-12"], "reason-missing"),
        (["--before=december", "--reason=x"], "month-invalid"),
        (["--reason=x"], "month-invalid"),
    ],
)
def test_the_command_says_what_is_missing(arguments: list[str], slug: str) -> None:
    found = CliRunner().invoke(archive_command.app, arguments).exception
    assert isinstance(found, Refusal)
    assert found.slug == slug
