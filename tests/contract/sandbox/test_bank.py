"""The bank executes files once, answers in valid XML, and its statements add up."""

import asyncssh
import pytest
from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]
from tests.contract.sandbox.support import (
    OURS,
    PSP,
    Client,
    Pay,
    Sftp,
    eventually,
    iban,
    pain001,
    schema,
    sftp_session,
    texts,
)

from paymaster_sandbox import World

ADA, BOB, CARLA = iban(100), iban(101), iban(102)
ANSWERS = {"09": "pain.002.001.10", "03": "pain.002.001.03"}


def statuses(answer: etree._Element) -> dict[str, tuple[str, str | None]]:
    """Each transaction's status and reason by its end-to-end id."""
    found: dict[str, tuple[str, str | None]] = {}
    for transaction in answer.iter("{*}TxInfAndSts"):
        codes = texts(transaction, "Cd")
        key = texts(transaction, "OrgnlEndToEndId")[0]
        found[key] = (texts(transaction, "TxSts")[0], codes[0] if codes else None)
    return found


@pytest.mark.parametrize("version", ["09", "03"])
async def test_a_file_is_executed_and_answered(client: Client, sftp: Sftp, version: str) -> None:
    pays = [Pay("E1", ADA, "10.00"), Pay("E2", BOB, "20.50")]
    await sftp.put("first", pain001("M1", pays, version=version))
    answer = await sftp.answer("first")
    schema(ANSWERS[version]).assertValid(answer)
    assert texts(answer, "GrpSts") == ["ACCP"]
    assert texts(answer, "OrgnlMsgId") == ["M1"]
    assert statuses(answer) == {"E1": ("ACSP", None), "E2": ("ACSP", None)}
    books = await client.books()
    assert books["bank"][OURS]["balance_minor"] == 1_000_000 - 3050
    assert books["paid_minor"] == {"EUR": 3050}
    assert books["references"] == {"E1": 1, "E2": 1}
    assert books["proven"]
    assert await sftp.client.listdir("/in") == [".", ".."]


async def test_bad_payments_are_rejected_one_by_one(client: Client, sftp: Sftp) -> None:
    closed, unlucky = iban(200), iban(201)
    await client.control("oracle", payee=closed, outcome="closed")
    await client.control("oracle", payee=unlucky, outcome="reject", code="RR04")
    pays = [
        Pay("GOOD", ADA, "10.00"),
        Pay("IBAN", ADA[:-1] + str((int(ADA[-1]) + 1) % 10), "1.00"),
        Pay("CCY", ADA, "1.00", currency="USD"),
        Pay("CLOSED", closed, "1.00"),
        Pay("UNLUCKY", unlucky, "1.00"),
        Pay("CHARS", ADA, "1.00", name="J\u00fcrgen_"),
        Pay("FUNDS", BOB, "9990.01"),
        Pay("LAST", BOB, "9990.00"),
    ]
    await sftp.put("mixed", pain001("M1", pays))
    answer = await sftp.answer("mixed")
    schema("pain.002.001.10").assertValid(answer)
    assert texts(answer, "GrpSts") == ["PART"]
    assert statuses(answer) == {
        "GOOD": ("ACSP", None),
        "IBAN": ("RJCT", "AC01"),
        "CCY": ("RJCT", "AM03"),
        "CLOSED": ("RJCT", "AC04"),
        "UNLUCKY": ("RJCT", "RR04"),
        "CHARS": ("RJCT", "CH16"),
        "FUNDS": ("RJCT", "AM04"),
        "LAST": ("ACSP", None),
    }
    assert (await client.books())["bank"][OURS]["balance_minor"] == 0


GOOD = [Pay("E1", ADA, "10.00")]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (pain001("M1", GOOD, count=2), "AM18"),
        (pain001("M1", GOOD, total="10.01"), "AM10"),
        (pain001("M1", GOOD).replace(b"<PmtMtd>", b"<Surprise/><PmtMtd>"), "FF01"),
        (pain001("M1", GOOD).replace(b"<PmtMtd>TRF</PmtMtd>", b""), "FF01"),
        (pain001("M1", GOOD).replace(b"001.001.09", b"001.001.12"), "FF01"),
        (pain001("M1", GOOD).replace(b"2026-01-05</Dt>", b"tomorrow</Dt>"), "DT01"),
        (pain001("M/1/", GOOD), "CH16"),
        (pain001("M1", GOOD)[:-30], "FF01"),
        (b'<!DOCTYPE Document [<!ENTITY x "y">]>' + pain001("M1", GOOD).split(b"?>")[1], "FF01"),
    ],
)
async def test_bad_files_are_rejected_whole(
    client: Client, sftp: Sftp, body: bytes, code: str
) -> None:
    await sftp.put("bad", body)
    answer = await sftp.answer("bad")
    schema(etree.QName(answer).namespace.rsplit(":", 1)[1]).assertValid(answer)
    assert texts(answer, "GrpSts") == ["RJCT"]
    assert texts(answer, "Cd") == [code]
    assert (await client.books())["bank"][OURS]["balance_minor"] == 1_000_000


async def test_a_file_sent_twice_pays_once(client: Client, sftp: Sftp) -> None:
    body = pain001("M1", GOOD)
    await sftp.put("file", body)
    await sftp.answer("file")
    await sftp.put("file", body)
    await eventually(lambda: _count(sftp, "pain002_file_", 2))
    assert texts(await sftp.answer("file"), "Cd") == ["AM05"]
    await sftp.put("other", pain001("M1", [Pay("E2", BOB, "5.00")]))
    answer = await sftp.answer("other")
    assert texts(answer, "GrpSts") == ["RJCT"]
    assert texts(answer, "Cd") == ["DU01"]
    assert (await client.books())["references"] == {"E1": 1}


async def test_the_same_reference_in_two_files_pays_twice(client: Client, sftp: Sftp) -> None:
    await sftp.put("one", pain001("M1", GOOD))
    await sftp.put("two", pain001("M2", GOOD))
    await sftp.answer("two")
    assert (await client.books())["duplicates"] == ["E1"]


async def test_an_unknown_debtor_pays_nothing(client: Client, sftp: Sftp) -> None:
    await sftp.put("stranger", pain001("M1", GOOD, debtor=iban(999)))
    assert statuses(await sftp.answer("stranger")) == {"E1": ("RJCT", "AC02")}
    assert (await client.books())["paid_minor"] == {}


async def test_statements_returns_and_incoming_money(client: Client, sftp: Sftp) -> None:
    await client.control("oracle", payee=BOB, outcome="return", code="AC06")
    for _ in range(2):
        await client.control(
            "incoming", iban=OURS, amount="500.00", currency="EUR", remittance="Campaign 7",
            debtor_name="Sponsor", id="in-1",
        )  # fmt: skip
    await sftp.put("file", pain001("M1", [Pay("E1", ADA, "10.00"), Pay("E2", BOB, "20.00")]))
    await sftp.answer("file")
    await eventually(lambda: _returned(client, 1))
    closed = await client.control("close-day", advance=True)
    name = f"camt053_{OURS}_20260105.xml"
    assert closed["statements"] == [name]
    first = await sftp.get(name)
    statement = etree.fromstring(first)
    schema("camt.053.001.08").assertValid(statement)
    lines = {
        (texts(entry, "SubFmlyCd")[0], texts(entry, "CdtDbtInd")[0]): entry
        for entry in statement.iter("{*}Ntry")
    }
    assert len(list(statement.iter("{*}Ntry"))) == 4
    returned = lines["RRTN", "CRDT"]
    assert texts(returned, "EndToEndId") == ["E2"]
    assert texts(next(returned.iter("{*}RtrInf")), "Cd") == ["AC06"]
    incoming = [e for e in statement.iter("{*}Ntry") if "RCDT" in texts(e, "Cd")]
    assert [texts(entry, "Ustrd") for entry in incoming] == [["Campaign 7"]]
    _check_sums(statement, opening=1_000_000, closing=1_049_000)
    references = [texts(entry, "AcctSvcrRef")[0] for entry in statement.iter("{*}Ntry")]
    assert len(set(references)) == 4
    await sftp.client.rename(f"/out/{name}", f"/out/archive/{name}")
    await client.control("close-day", date="2026-01-05")
    assert await sftp.get(name) == first
    await sftp.put("next", pain001("M2", [Pay("E3", ADA, "1.00")]))
    await sftp.answer("next")
    await client.control("close-day", advance=True)
    second = etree.fromstring(await sftp.get(f"camt053_{OURS}_20260106.xml"))
    _check_sums(second, opening=1_049_000, closing=1_048_900)
    assert (await client.books())["bank"][OURS]["balance_minor"] == 1_048_900


async def test_what_happens_after_the_close_is_booked_the_next_day(
    client: Client, sftp: Sftp
) -> None:
    await client.control("close-day")
    await sftp.put("file", pain001("M1", GOOD))
    await sftp.answer("file")
    assert (await client.control("close-day"))["date"] == "2026-01-06"
    statement = etree.fromstring(await sftp.get(f"camt053_{OURS}_20260106.xml"))
    assert texts(next(statement.iter("{*}BookgDt")), "Dt") == ["2026-01-06"]


async def test_returns_are_announced_before_the_statement(client: Client, sftp: Sftp) -> None:
    await client.control("oracle", payee=BOB, outcome="return", uses=None)
    await sftp.put("one", pain001("M1", [Pay("E1", BOB, "20.00")]))
    await eventually(lambda: _returned(client, 1))
    names = (await client.control("camt054"))["notices"]
    notice = etree.fromstring(await sftp.get(names[0]))
    schema("camt.054.001.08").assertValid(notice)
    assert texts(notice, "EndToEndId") == ["E1"]
    assert (await client.control("camt054"))["notices"] == []
    await client.control("faults", camt054=True)
    await sftp.put("two", pain001("M2", [Pay("E2", BOB, "20.00")]))
    await eventually(lambda: _count(sftp, "camt054_", 2))
    await client.control("close-day")
    statement = etree.fromstring(await sftp.get(f"camt053_{OURS}_20260105.xml"))
    told = set(texts(notice, "AcctSvcrRef"))
    assert told < set(texts(statement, "AcctSvcrRef"))


async def test_a_payment_to_the_wallet_provider_tops_up_the_float(
    client: Client, sftp: Sftp
) -> None:
    await sftp.put("top", pain001("M1", [Pay("TOPUP1", PSP, "250.00")]))
    await sftp.answer("top")
    balances = (await client.get("/v1/balance")).json()["balances"]
    assert balances == [{"currency": "EUR", "available": "1250.00"}]
    books = await client.books()
    assert books["paid_minor"] == {}
    assert books["references"] == {}
    assert books["bank"][OURS]["treasury_minor"] == 25_000
    await client.control("close-day")
    rows = (await client.get("/v1/settlements/2026-01-05/EUR.csv")).text.splitlines()
    assert rows[2].split(",")[1] == "topup"
    assert rows[2].split(",")[3:5] == ["TOPUP1", "250.00"]


async def test_answers_can_be_late_or_lost(client: Client, sftp: Sftp) -> None:
    await client.control("faults", bank_answer_seconds=5)
    await sftp.put("late", pain001("M1", GOOD))
    await eventually(lambda: _payments(client, 1))
    assert await sftp.names("pain002_late") == []
    await client.control("clock", advance_seconds=6)
    await sftp.answer("late")
    await client.control("faults", bank_answer_seconds=0, pain002_lose=1)
    await sftp.put("lost", pain001("M2", [Pay("E2", BOB, "1.00")]))
    await eventually(lambda: _payments(client, 2))
    await client.control("close-day")
    assert await sftp.names("pain002_lost") == []
    statement = await sftp.get(f"camt053_{OURS}_20260105.xml")
    assert "E2" in texts(etree.fromstring(statement), "EndToEndId")


async def test_a_connection_cut_after_the_upload(client: Client, world: World, sftp: Sftp) -> None:
    await client.control("faults", sftp_drop_answers=1)
    with pytest.raises((asyncssh.SFTPConnectionLost, asyncssh.ConnectionLost, asyncssh.SFTPError)):
        await sftp.put("cut", pain001("M1", GOOD))
    async with sftp_session(world.sftp_address, world.host_key, world.client_key_path) as again:
        await again.answer("cut")
    assert (await client.books())["references"] == {"E1": 1}


async def test_the_servers_manners(client: Client, sftp: Sftp) -> None:
    files = sftp.client
    for path in ("/in/direct.xml", "/out/mine.xml", "/elsewhere", "/in/../out/.x.part"):
        with pytest.raises(asyncssh.SFTPError):
            await files.open(path, "wb")
    for act in (
        files.mkdir("/in/folder"), files.symlink("/etc", "/in/link"), files.rmdir("/out/archive"),
    ):  # fmt: skip
        with pytest.raises(asyncssh.SFTPError):
            await act
    assert not await files.exists("/etc/passwd")
    await sftp.put("file", pain001("M1", GOOD))
    await sftp.answer("file")
    name = (await sftp.names("pain002_"))[0]
    async with files.open("/in/.again.part", "wb") as file:
        await file.write(b"x")
    with pytest.raises(asyncssh.SFTPError):
        await files.rename("/in/.again.part", f"/out/{name}")
    await files.remove("/in/.again.part")
    await files.rename(f"/out/{name}", f"/out/archive/{name}")
    await files.remove(f"/out/archive/{name}")
    assert (await client.books())["bank"][OURS]["payments"] == 1


async def test_a_rename_never_replaces(client: Client, sftp: Sftp) -> None:
    await sftp.put("one", pain001("M1", GOOD))
    await sftp.put("two", pain001("M2", [Pay("E2", BOB, "1.00")]))
    await eventually(lambda: _count(sftp, "pain002_", 2))
    first, second = await sftp.names("pain002_")
    await sftp.client.rename(f"/out/{first}", f"/out/archive/{first}")
    for rename in (sftp.client.rename, sftp.client.posix_rename):
        with pytest.raises(asyncssh.SFTPError):
            await rename(f"/out/{second}", f"/out/archive/{first}")
    assert await sftp.names("pain002_") == [second]
    assert (await client.books())["proven"]


async def test_strangers_stay_outside(world: World) -> None:
    host, _, port = world.sftp_address.partition(":")
    own = asyncssh.import_known_hosts(f"[{host}]:{port} {world.host_key}\n")
    other_host = asyncssh.generate_private_key("ssh-ed25519")
    wrong = asyncssh.import_known_hosts(
        f"[{host}]:{port} {other_host.export_public_key().decode()}"
    )
    good_key = str(world.client_key_path)
    for user, key, known in (
        ("paymaster", asyncssh.generate_private_key("ssh-ed25519"), own),
        ("somebody", good_key, own),
        ("paymaster", good_key, wrong),
    ):
        with pytest.raises((asyncssh.PermissionDenied, asyncssh.HostKeyNotVerifiable)):
            await asyncssh.connect(
                host, int(port), username=user, client_keys=[key], known_hosts=known, config=None,
                agent_path=None,
            )  # fmt: skip


async def test_a_large_file_in_reasonable_time(client: Client, sftp: Sftp) -> None:
    pays = [Pay(f"E{number}", iban(1000 + number), "1.00") for number in range(3000)]
    await sftp.put("large", pain001("M1", pays))
    answer = await sftp.answer("large")
    assert texts(answer, "GrpSts") == ["ACCP"]
    assert (await client.books())["paid_minor"] == {"EUR": 300_000}


def _check_sums(statement: etree._Element, *, opening: int, closing: int) -> None:
    def minor(node: etree._Element) -> int:
        amount = int(texts(node, "Amt")[0].replace(".", ""))
        return amount if texts(node, "CdtDbtInd")[0] == "CRDT" else -amount

    balances = {texts(b, "Cd")[0]: minor(b) for b in statement.iter("{*}Bal")}
    assert balances == {"OPBD": opening, "CLBD": closing}
    assert opening + sum(minor(entry) for entry in statement.iter("{*}Ntry")) == closing


async def _count(sftp: Sftp, prefix: str, number: int) -> bool:
    return len(await sftp.names(prefix)) == number


async def _returned(client: Client, number: int) -> bool:
    return (await client.books())["bank"][OURS]["returned"] == number


async def _payments(client: Client, number: int) -> bool:
    return (await client.books())["bank"][OURS]["payments"] == number
