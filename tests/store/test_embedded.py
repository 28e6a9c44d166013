"""The embedded server on real PostgreSQL programs: started, shared, killed, refused."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from paymaster.db.embedded import EmbeddedPostgres, find_binaries
from paymaster.db.embedded.folder import SOCKET_PATH_BYTES, Folder

QUICK = {"fsync": "off"}
MakeServer = Callable[..., EmbeddedPostgres]


Spawn = Callable[..., subprocess.Popen[str]]


def ended(process: subprocess.Popen[str]) -> str:
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return told.strip()


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)


def postmaster(folder: Path) -> int:
    return int((folder / "postgres" / "postmaster.pid").read_text().split("\n", 1)[0])


def one(dsn: str, statement: str) -> object:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(statement.encode()).fetchone()
    assert row is not None
    return row[0]


def test_fresh_start_takes_less_than_five_seconds(make_server: MakeServer) -> None:
    server = make_server(fresh=True, settings={})
    begun = time.monotonic()
    server.start()
    assert time.monotonic() - begun < 5
    assert server.is_running
    assert one(server.owner_dsn("postgres"), "SELECT current_setting('data_checksums')") == "on"
    assert one(server.owner_dsn("postgres"), "SELECT current_setting('server_encoding')") == "UTF8"
    assert one(server.owner_dsn("postgres"), "SELECT current_setting('timezone')") == "UTC"
    server.stop()
    assert not server.is_running


def test_restart_keeps_data_and_the_roles_differ(make_server: MakeServer) -> None:
    server = make_server()
    server.start()
    server.create_database("books")
    server.create_database("books")
    with psycopg.connect(server.owner_dsn("books")) as connection:
        connection.execute("CREATE TABLE entry (id bigint PRIMARY KEY)")
        connection.execute("INSERT INTO entry VALUES (7)")
        connection.execute("GRANT SELECT ON entry TO app")
    before = server.app_dsn("books")
    server.stop()
    server.start()
    assert server.app_dsn("books") == before
    assert one(server.app_dsn("books"), "SELECT id FROM entry") == 7
    superuser = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"
    assert one(server.owner_dsn("books"), superuser) is True
    assert one(server.app_dsn("books"), superuser) is False
    with (
        psycopg.connect(server.app_dsn("books")) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute("DELETE FROM entry")


def test_three_processes_at_once_share_one_server(
    tmp_path: Path, make_server: MakeServer, spawn: Spawn
) -> None:
    processes = [spawn(stay="leave") for _ in range(3)]
    told = {ended(process) for process in processes}
    assert len(told) == 1
    server = make_server()
    server.start()
    assert server.owner_dsn("books") in told
    log = (tmp_path / "data" / "postgres.log").read_text()
    assert log.count("ready to accept connections") == 1


def test_threads_at_once_share_one_server(make_server: MakeServer) -> None:
    servers = [make_server(fresh=True) for _ in range(4)]
    threads = [threading.Thread(target=server.start) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({server.owner_dsn("postgres") for server in servers}) == 1


def test_who_attached_does_not_stop_it(make_server: MakeServer) -> None:
    first, second = make_server(), make_server()
    first.start()
    second.start()
    second.stop()
    assert first.is_running
    assert one(first.owner_dsn("postgres"), "SELECT 1") == 1
    second.start()
    second.stop(even_if_attached=True)
    assert not first.is_running


def test_killed_server_recovers_what_was_committed(tmp_path: Path, make_server: MakeServer) -> None:
    server = make_server(settings={})
    server.start()
    with psycopg.connect(server.owner_dsn("postgres")) as connection:
        connection.execute("CREATE TABLE entry AS SELECT generate_series(1, 1000) AS id")
    os.kill(postmaster(tmp_path / "data"), signal.SIGKILL)
    successor = make_server(settings={})
    successor.start()
    assert one(successor.owner_dsn("postgres"), "SELECT count(*) FROM entry") == 1000
    assert "was not properly shut down" in successor.log_file.read_text()


def test_whole_tree_killed_with_its_owner(
    tmp_path: Path, make_server: MakeServer, spawn: Spawn
) -> None:
    owner = spawn(owned="owned")
    assert owner.stdout
    dsn = owner.stdout.readline().strip()
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE entry AS SELECT 7 AS id")
        connection.execute("CHECKPOINT")
    victims = Folder(tmp_path / "data").users()
    assert postmaster(tmp_path / "data") in victims
    for victim in [owner.pid, *victims]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
    owner.communicate()
    server = make_server()
    server.start()
    assert one(server.owner_dsn("books"), "SELECT id FROM entry") == 7


def test_orphans_of_a_killed_server_are_ended(
    tmp_path: Path, make_server: MakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paymaster.db.embedded.server._ORPHAN_GRACE_SECONDS", 0.5)
    server = make_server()
    server.start()
    busy = "SELECT count(*) FROM generate_series(1, 100000000)"
    with contextlib.closing(psycopg.connect(server.owner_dsn("postgres"))) as connection:
        backend = connection.info.backend_pid
        connection.pgconn.send_query(busy.encode())
        os.kill(postmaster(tmp_path / "data"), signal.SIGKILL)
        wait_until(lambda: Folder(tmp_path / "data").users() == [backend])
        successor = make_server()
        assert not successor.is_running
        successor.start()
        assert backend not in Folder(tmp_path / "data").users()
    assert one(successor.owner_dsn("postgres"), "SELECT 1") == 1


def test_reused_process_id_in_a_stale_status_file(tmp_path: Path, make_server: MakeServer) -> None:
    server = make_server()
    server.start()
    status = tmp_path / "data" / "postgres" / "postmaster.pid"
    kept = status.read_text().split("\n", 1)
    for victim in Folder(tmp_path / "data").users():
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
    sleeper = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=-1)
    try:
        status.write_text(f"{sleeper.pid}\n{kept[1]}")
        assert not server.is_running
        server.start()
        assert one(server.owner_dsn("postgres"), "SELECT 1") == 1
        assert sleeper.poll() is None
    finally:
        sleeper.communicate()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_exit_with_owner(tmp_path: Path, spawn: Spawn, how: signal.Signals) -> None:
    owner = spawn(owned="owned")
    assert owner.stdout
    assert owner.stdout.readline()
    folder = Folder(tmp_path / "data")
    assert folder.in_use()
    owner.send_signal(how)
    owner.communicate()
    wait_until(lambda: not folder.in_use())
    assert "database system is shut down" in folder.log.read_text()


def test_server_outlives_its_owner_unless_told_otherwise(
    make_server: MakeServer, spawn: Spawn
) -> None:
    dsn = ended(spawn(stay="leave"))
    found = make_server()
    assert found.is_running
    assert found.owner_dsn("books") == dsn
    assert one(dsn, "SELECT 1") == 1


def test_long_data_directory(make_server: MakeServer) -> None:
    server = make_server("a" * 150 + "/" + "with space, comma and 'quote'")
    server.start()
    assert one(server.owner_dsn("postgres"), "SELECT 1") == 1
    where = Path(str(one(server.owner_dsn("postgres"), "SHOW unix_socket_directories")))
    assert len(str(where / ".s.PGSQL.5432")) <= SOCKET_PATH_BYTES
    assert where.stat().st_mode & 0o777 == 0o700
    server.stop()
    where.rmdir()


def test_modes(tmp_path: Path, make_server: MakeServer) -> None:
    make_server(fresh=True).start()
    data = tmp_path / "data"
    for folder in (data, data / "secrets", data / "postgres", data / "run"):
        assert folder.stat().st_mode & 0o777 == 0o700, folder
    for file in (*(data / "secrets").iterdir(), data / "postgres.log"):
        assert file.stat().st_mode & 0o777 == 0o600, file
    assert len(list((data / "secrets").iterdir())) == 2
    assert not (data / "postgres.password").exists()


def test_wrong_password_is_refused(make_server: MakeServer) -> None:
    server = make_server()
    server.start()
    for dsn in (server.owner_dsn("postgres"), server.app_dsn("postgres")):
        password = urlsplit(dsn).password
        assert password
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(dsn.replace(password, "wrong"))


def test_passwords_stay_out_of_log_and_repr(tmp_path: Path, make_server: MakeServer) -> None:
    server = make_server(fresh=True, settings={**QUICK, "log_statement": "all"})
    server.start()
    log = server.log_file.read_text()
    assert "CREATE ROLE" in log
    for file in (tmp_path / "data" / "secrets").iterdir():
        assert file.read_text().strip() not in log + repr(server)


def test_lost_application_password_is_replaced(tmp_path: Path, make_server: MakeServer) -> None:
    server = make_server()
    server.start()
    before = server.app_dsn("postgres")
    server.stop()
    (tmp_path / "data" / "secrets" / "postgres_app").unlink()
    server.start()
    assert server.app_dsn("postgres") != before
    assert one(server.app_dsn("postgres"), "SELECT current_user") == "app"


def test_listens_on_its_socket_only(tmp_path: Path, make_server: MakeServer) -> None:
    server = make_server()
    server.start()
    assert one(server.owner_dsn("postgres"), "SHOW listen_addresses") == ""
    inodes = set()
    for handle in Path(f"/proc/{postmaster(tmp_path / 'data')}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            target = str(handle.readlink())
            inodes.add(target.removeprefix("socket:[").removesuffix("]"))
    unix = Path("/proc/net/unix").read_text().splitlines()[1:]
    assert inodes & {line.split()[6] for line in unix}
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        assert not inodes & {line.split()[9] for line in table.read_text().splitlines()[1:]}


def test_tcp_on_the_loopback_when_asked_for(make_server: MakeServer) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = make_server(tcp_port=port)
    server.start()
    assert one(server.owner_dsn("postgres"), "SHOW listen_addresses") == "127.0.0.1"
    password = urlsplit(server.app_dsn("postgres")).password
    with psycopg.connect(
        host="127.0.0.1", port=port, user="app", password=password, dbname="postgres"
    ) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_interrupted_initdb_is_begun_anew(tmp_path: Path, make_server: MakeServer) -> None:
    leaving = tmp_path / "data" / "postgres.new" / "base"
    leaving.mkdir(parents=True)
    make_server(fresh=True).start()
    assert not leaving.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can hand the data to another user")
def test_handed_over_data_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs and data where everybody may pass; afterwards namespaces would be allowed again."""
    found = find_binaries()
    package = found.bin_dir.parents[1]
    with tempfile.TemporaryDirectory(prefix="paymaster-") as made:
        root = Path(made)
        root.chmod(0o711)
        for part in (package, package.with_name(f"{package.name}.libs")):
            if part.is_dir():
                shutil.copytree(part, root / part.name)
        programs = root / found.bin_dir.relative_to(package.parent)
        monkeypatch.setenv("PAYMASTER_PG_BIN", str(programs))
        server = EmbeddedPostgres(root / "data", settings=QUICK, exit_with_owner=True)
        with monkeypatch.context() as forbidden:
            forbidden.setattr("paymaster.db.embedded.launch._namespace_identity", lambda: None)
            with server:
                server.create_database("books")
                (process,) = {postmaster(root / "data")}
                assert Path(f"/proc/{process}").stat().st_uid != 0
        with server:
            assert one(server.app_dsn("books"), "SELECT 1") == 1
            assert (root / "data" / "postgres").stat().st_uid != 0
            assert (root / "data" / "secrets").stat().st_uid == 0
