"""Bank files move once, and what is said about them is what is known about them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import asyncssh
import pytest
from tests.contract.sftp_server import BankServer

from paymaster.kernel.errors import Broken, NeverSent, RailError, RailUnknown
from paymaster.kernel.guard import TRANSACTION_OPEN
from paymaster.rails import sftp
from paymaster.rails.directory import DirectoryTransport
from paymaster.rails.sftp import SftpTransport

NAME, BODY = "01B7.xml", b"<a>" + b"x" * 200_000 + b"</a>"


@pytest.fixture
async def bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[BankServer]:
    monkeypatch.setattr(sftp, "LOOK_AGAIN_SECONDS", (0.0, 0.05, 0.1))
    async with BankServer(tmp_path).running() as server:
        yield server


def inbox(bank: BankServer) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (bank.root / "in").iterdir()}


async def test_a_file_arrives_whole_under_its_name(bank: BankServer) -> None:
    await SftpTransport(bank.place()).put(NAME, BODY)
    assert inbox(bank) == {NAME: BODY}


async def test_a_second_put_of_the_same_file_sends_nothing(bank: BankServer) -> None:
    transport = SftpTransport(bank.place())
    await transport.put(NAME, BODY)
    written = (bank.root / "in" / NAME).stat()
    await transport.put(NAME, BODY)
    found = (bank.root / "in" / NAME).stat()
    assert (found.st_ino, found.st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
    assert inbox(bank) == {NAME: BODY}


async def test_another_file_of_that_name_is_never_overwritten(bank: BankServer) -> None:
    transport = SftpTransport(bank.place())
    await transport.put(NAME, BODY)
    for other in (BODY[:-1], BODY[:-1] + b"?"):
        with pytest.raises(RailUnknown) as caught:
            await transport.put(NAME, other)
        assert caught.value.slug == "transport-name-taken"
    assert inbox(bank) == {NAME: BODY}


async def test_a_leftover_of_an_earlier_try_is_never_delivered(bank: BankServer) -> None:
    leftover = {f".{NAME}.part": b"half", f".{NAME}.0011aabb.part": b"half"}
    for name, body in leftover.items():
        (bank.root / "in" / name).write_bytes(body)
    await SftpTransport(bank.place()).put(NAME, BODY)
    assert inbox(bank) == {NAME: BODY, **leftover}


async def test_cut_while_writing_was_never_sent(bank: BankServer) -> None:
    bank.cut_while_writing = 1
    with pytest.raises(NeverSent):
        await SftpTransport(bank.place()).put(NAME, BODY)
    assert NAME not in inbox(bank)
    await SftpTransport(bank.place()).put(NAME, BODY)
    assert inbox(bank)[NAME] == BODY


async def test_cut_before_the_rename_was_never_sent(bank: BankServer) -> None:
    bank.cut_before_rename = 1
    with pytest.raises(NeverSent):
        await SftpTransport(bank.place()).put(NAME, BODY)
    assert inbox(bank) == {}, "the unfinished file is taken away: that is the proof"


async def test_cut_after_the_rename_was_delivered(bank: BankServer) -> None:
    bank.cut_after_rename = 1
    await SftpTransport(bank.place()).put(NAME, BODY)
    assert inbox(bank) == {NAME: BODY}


async def test_cut_after_the_rename_and_picked_up_is_unknown(bank: BankServer) -> None:
    bank.cut_after_rename = 1
    bank.pick_up = True
    with pytest.raises(RailUnknown) as caught:
        await SftpTransport(bank.place()).put(NAME, BODY)
    assert caught.value.slug == "transport-unproven"
    assert bank.picked_up == {NAME: [BODY]}


async def test_a_refused_rename_was_never_sent(bank: BankServer) -> None:
    bank.refuse_rename = 1
    with pytest.raises(NeverSent) as caught:
        await SftpTransport(bank.place()).put(NAME, BODY)
    assert "not today" in caught.value.detail
    assert inbox(bank) == {}


async def test_a_server_that_stays_away_after_the_rename_is_unknown(
    bank: BankServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank.cut_after_rename = 1
    transport = SftpTransport(bank.place())
    connect = transport._connect
    calls = 0

    async def only_once() -> asyncssh.SSHClientConnection:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise NeverSent("transport-unreachable", "the server is down")
        return await connect()

    monkeypatch.setattr(transport, "_connect", only_once)
    with pytest.raises(RailUnknown) as caught:
        await transport.put(NAME, BODY)
    assert caught.value.slug == "transport-unproven"
    assert calls == 4


@pytest.mark.parametrize("pick_up", [True, False])
async def test_puts_at_once_deliver_whole_files_under_one_name(
    bank: BankServer, pick_up: bool
) -> None:
    bank.pick_up = pick_up
    results = await asyncio.gather(
        *(SftpTransport(bank.place()).put(NAME, BODY) for _ in range(4)), return_exceptions=True
    )
    assert None in results
    assert all(result is None or isinstance(result, RailError) for result in results)
    arrived = bank.picked_up if pick_up else {NAME: [inbox(bank)[NAME]]}
    assert set(arrived) == {NAME}
    assert set(arrived[NAME]) == {BODY}
    if not pick_up:
        assert results == [None] * 4
        assert inbox(bank) == {NAME: BODY}


async def test_another_host_key_is_refused_before_anything_is_sent(bank: BankServer) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    with pytest.raises(NeverSent) as caught:
        await SftpTransport(bank.place(host_key=other)).put(NAME, BODY)
    assert caught.value.slug == "sftp-host-key"
    assert inbox(bank) == {}


async def test_another_client_key_is_refused(bank: BankServer) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()
    with pytest.raises(NeverSent) as caught:
        await SftpTransport(bank.place(client_key=other)).put(NAME, BODY)
    assert caught.value.slug == "sftp-auth"


@pytest.mark.parametrize("change", [{"host_key": "nonsense"}, {"client_key": "nonsense"}])
async def test_unreadable_keys_send_nothing(bank: BankServer, change: dict[str, object]) -> None:
    with pytest.raises(NeverSent):
        await SftpTransport(bank.place(**change)).put(NAME, BODY)
    assert bank.connections == 0


async def test_a_closed_port_was_never_sent(bank: BankServer) -> None:
    with pytest.raises(NeverSent) as caught:
        await SftpTransport(bank.place(port=1)).put(NAME, BODY)
    assert caught.value.slug == "transport-unreachable"


async def test_nothing_moves_inside_a_transaction(bank: BankServer) -> None:
    transport = SftpTransport(bank.place())
    token = TRANSACTION_OPEN.set(True)
    try:
        for attempt in (transport.put(NAME, BODY), transport.list(), transport.get([NAME])):
            with pytest.raises(Broken) as caught:
                await attempt
            assert caught.value.slug == "network-inside-transaction"
    finally:
        TRANSACTION_OPEN.reset(token)
    assert bank.connections == 0


async def test_the_source_address_is_used(bank: BankServer) -> None:
    await SftpTransport(bank.place(source_address="127.0.0.1")).put(NAME, BODY)
    assert inbox(bank) == {NAME: BODY}


@pytest.mark.parametrize("name", ["../x.xml", ".x.xml", "a/b", "", "x.xml.part", "x" * 200])
async def test_names_that_leave_the_folder_are_our_fault(bank: BankServer, name: str) -> None:
    with pytest.raises(Broken):
        await SftpTransport(bank.place()).put(name, BODY)


async def test_the_bank_s_files_are_listed_and_read(bank: BankServer) -> None:
    await lists_and_reads(SftpTransport(bank.place()), bank.root / "out")


async def test_a_folder_that_is_not_there(bank: BankServer) -> None:
    transport = SftpTransport(bank.place(incoming="/nowhere"))
    with pytest.raises(NeverSent):
        await transport.list()
    assert await transport.get(["a.xml"]) == {}


async def lists_and_reads(transport: SftpTransport | DirectoryTransport, folder: Path) -> None:
    for age, name in enumerate(["b.xml", "a.xml", ".hidden.xml", "c.xml.part"]):
        (folder / name).write_bytes(name.encode() * 1000)
        os.utime(folder / name, (1_700_000_000 + age, 1_700_000_000 + age))
    (folder / "archive").mkdir()
    found = await transport.list()
    assert [(file.name, file.size) for file in found] == [("b.xml", 5000), ("a.xml", 5000)]
    assert found[0].modified_at.isoformat() == "2023-11-14T22:13:20+00:00"
    wanted = ["b.xml", "a.xml", "gone.xml", "../out/a.xml", ".hidden.xml"]
    assert await transport.get(wanted) == {name: name.encode() * 1000 for name in wanted[:2]}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    return tmp_path / "in", tmp_path / "out"


async def test_a_folder_takes_a_file_once(folders: tuple[Path, Path]) -> None:
    transport = DirectoryTransport(*folders)
    await transport.put(NAME, BODY)
    await transport.put(NAME, BODY)
    assert [path.name for path in folders[0].iterdir()] == [NAME]
    assert (folders[0] / NAME).read_bytes() == BODY
    with pytest.raises(RailUnknown) as caught:
        await transport.put(NAME, b"other")
    assert caught.value.slug == "transport-name-taken"
    assert (folders[0] / NAME).read_bytes() == BODY


async def test_a_folder_that_is_missing_was_never_sent(folders: tuple[Path, Path]) -> None:
    transport = DirectoryTransport(folders[0] / "no", folders[1] / "no")
    with pytest.raises(NeverSent):
        await transport.put(NAME, BODY)
    with pytest.raises(NeverSent):
        await transport.list()


async def test_a_folder_s_files_are_listed_and_read(folders: tuple[Path, Path]) -> None:
    await lists_and_reads(DirectoryTransport(*folders), folders[1])
