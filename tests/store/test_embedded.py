"""The embedded server on real PostgreSQL programs: started, shared, killed, refused."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from paymaster.db.embedded import EmbeddedPostgres, EmbeddedPostgresError, find_binaries
from paymaster.db.embedded.folder import SOCKET_PATH_BYTES, Folder

QUICK = {"fsync": "off"}
SOURCES = Path(__file__).resolve().parents[2] / "src"

RUN_IT = """
import sys, time
from pathlib import Path
from paymaster.db.embedded import EmbeddedPostgres
server = EmbeddedPostgres(
    Path(sys.argv[1]), settings={"fsync": "off"}, exit_with_owner=sys.argv[2] == "owned"
)
server.start()
server.create_database("books")
print(server.owner_dsn("books"), flush=True)
if sys.argv[3] == "stay":
    sys.stdin.read()
"""

MakeServer = Callable[..., EmbeddedPostgres]


@pytest.fixture
def make_server(tmp_path: Path) -> Generator[MakeServer]:
    """Makes servers below a temporary directory and leaves none of them running."""
    made: list[EmbeddedPostgres] = []

    def make(name: str = "data", **options: object) -> EmbeddedPostgres:
        options.setdefault("settings", QUICK)
        server = EmbeddedPostgres(tmp_path / name, **options)  # type: ignore[arg-type]
        made.append(server)
        return server

    yield make
    for server in made:
        server.stop(even_if_attached=True)


def another_process(folder: Path, owned: str = "free", stay: str = "stay") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RUN_IT, str(folder), owned, stay],
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


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
    server = make_server(settings={})
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


def test_three_processes_at_once_share_one_server(tmp_path: Path, make_server: MakeServer) -> None:
    processes = [another_process(tmp_path / "data", stay="leave") for _ in range(3)]
    told = {ended(process) for process in processes}
    assert len(told) == 1
    server = make_server()
    server.start()
    assert server.owner_dsn("books") in told
    log = (tmp_path / "data" / "postgres.log").read_text()
    assert log.count("ready to accept connections") == 1


def test_threads_at_once_share_one_server(make_server: MakeServer) -> None:
    servers = [make_server() for _ in range(4)]
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


def test_whole_tree_killed_with_its_owner(tmp_path: Path, make_server: MakeServer) -> None:
    owner = another_process(tmp_path / "data", owned="owned")
    assert owner.stdout
    dsn = owner.stdout.readline().strip()
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE entry AS SELECT 7 AS id")
        connection.execute("CHECKPOINT")
    victims = Folder(tmp_path / "data").users()
    assert postmaster(tmp_path / "data") in victims
    for victim in [owner.pid, *victims]:
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
def test_exit_with_owner(tmp_path: Path, how: signal.Signals) -> None:
    owner = another_process(tmp_path / "data", owned="owned")
    assert owner.stdout
    assert owner.stdout.readline()
    folder = Folder(tmp_path / "data")
    assert folder.in_use()
    owner.send_signal(how)
    owner.communicate()
    wait_until(lambda: not folder.in_use())
    assert "database system is shut down" in folder.log.read_text()


def test_server_outlives_its_owner_unless_told_otherwise(
    tmp_path: Path, make_server: MakeServer
) -> None:
    dsn = ended(another_process(tmp_path / "data", stay="leave"))
    assert one(dsn, "SELECT 1") == 1
    make_server()


def test_long_data_directory(make_server: MakeServer) -> None:
    server = make_server("a" * 150 + "/" + "with space, comma and 'quote'")
    server.start()
    assert one(server.owner_dsn("postgres"), "SELECT 1") == 1
    where = Path(str(one(server.owner_dsn("postgres"), "SHOW unix_socket_directories")))
    assert len(str(where / ".s.PGSQL.5432")) <= SOCKET_PATH_BYTES
    assert where.stat().st_mode & 0o777 == 0o700
    server.stop()
    where.rmdir()


def test_another_major_version_is_refused(tmp_path: Path, make_server: MakeServer) -> None:
    server = make_server()
    server.start()
    server.stop()
    (tmp_path / "data" / "postgres" / "PG_VERSION").write_text("14\n")
    with pytest.raises(EmbeddedPostgresError, match=r"written by PostgreSQL 14.*PAYMASTER_PG_BIN"):
        server.start()
    (tmp_path / "data" / "postgres" / "PG_VERSION").write_text(f"{find_binaries().major}\n")
    server.start()


def test_modes(tmp_path: Path, make_server: MakeServer) -> None:
    make_server().start()
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
    server = make_server(settings={**QUICK, "log_statement": "all"})
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


def test_lost_owner_password_is_named(tmp_path: Path, make_server: MakeServer) -> None:
    server = make_server()
    server.start()
    server.stop()
    (tmp_path / "data" / "secrets" / "postgres_owner").unlink()
    with pytest.raises(EmbeddedPostgresError, match="restore .*postgres_owner"):
        make_server().start()


def test_listens_on_its_socket_only(tmp_path: Path, make_server: MakeServer) -> None:
    server = make_server()
    server.start()
    assert one(server.owner_dsn("postgres"), "SHOW listen_addresses") == ""
    inodes = set()
    for process in Folder(tmp_path / "data").users():
        for handle in Path(f"/proc/{process}/fd").iterdir():
            target = os.readlink(handle)
            inodes.add(target.removeprefix("socket:[").removesuffix("]"))
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


@pytest.mark.parametrize("option", ["port", "listen_addresses", "unix_socket_directories"])
def test_settings_that_are_not_the_callers(tmp_path: Path, option: str) -> None:
    with pytest.raises(EmbeddedPostgresError, match=option):
        EmbeddedPostgres(tmp_path, settings={option: "x"})


def test_a_setting_postgres_refuses_is_reported(make_server: MakeServer) -> None:
    server = make_server(settings={"shared_buffers": "many"})
    with pytest.raises(EmbeddedPostgresError, match="shared_buffers"):
        server.start()
    assert not server.is_running


def test_interrupted_initdb_is_begun_anew(tmp_path: Path, make_server: MakeServer) -> None:
    leaving = tmp_path / "data" / "postgres.new" / "base"
    leaving.mkdir(parents=True)
    make_server().start()
    assert not leaving.exists()


def test_folder_that_is_no_cluster_is_left_alone(tmp_path: Path, make_server: MakeServer) -> None:
    precious = tmp_path / "data" / "postgres" / "precious"
    precious.mkdir(parents=True)
    with pytest.raises(EmbeddedPostgresError, match="no PG_VERSION"):
        make_server().start()
    assert precious.is_dir()


def test_database_names(make_server: MakeServer) -> None:
    server = make_server()
    server.start()
    with pytest.raises(EmbeddedPostgresError, match="database name"):
        server.create_database('x"; DROP')
    server.create_database("one")
    server.create_database("two", template="one")
    server.drop_database("two")
    server.drop_database("two")
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(server.owner_dsn("two"))


def test_binaries_named_by_the_operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_binaries()
    monkeypatch.setenv("PAYMASTER_PG_BIN", str(found.bin_dir))
    assert find_binaries().origin == "$PAYMASTER_PG_BIN"
    monkeypatch.setenv("PAYMASTER_PG_BIN", str(tmp_path))
    with pytest.raises(EmbeddedPostgresError, match="PAYMASTER_PG_BIN"):
        find_binaries()


def test_connection_string_before_start(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "data")
    assert not server.is_running
    with pytest.raises(EmbeddedPostgresError, match="start"):
        server.owner_dsn("postgres")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can hand the data to another user")
def test_without_user_namespaces_root_hands_the_data_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make_server: MakeServer
) -> None:
    """As in a container whose rules forbid unshare: refused by name, or run as another user."""
    monkeypatch.setattr("paymaster.db.embedded.launch._namespace_identity", lambda: None)
    tmp_path.chmod(0o700)
    with pytest.raises(EmbeddedPostgresError, match="who cannot enter"):
        make_server().start()
