"""`paymaster doctor` tells of every secret which, where and how old, and never what it is."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.sealed import superuser
from tests.served import serve
from tests.vault_server import Vault
from tests.vault_server import serve as serve_vault
from tests.world import PostgresServer

from paymaster.cli.doctor_secrets import (
    Secret,
    findings,
    sealed_counts,
    secrets_in_use,
    tables,
)
from paymaster.kernel.clock import WallClock
from paymaster.observe import Metrics
from paymaster.secrets.generated import LOCAL_KEYS
from paymaster.secrets.opening import open_secrets


def by_name(found: list[Secret]) -> dict[str, Secret]:
    return {one.name: one for one in found}


async def test_every_secret_in_use_is_shown_with_its_place_and_age(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    async with serve(postgres, tmp_path, secrets={"warn_age_days": 30}) as served:
        folder = tmp_path / "secrets"
        year_ago = WallClock().now().timestamp() - 365 * 86_400
        os.utime(folder / "cursor", (year_ago, year_ago))
        (folder / "day-close").unlink()
        with superuser(served.world, "control") as owner:
            owner.execute(
                "INSERT INTO identity_provider (id, tenant, issuer, client_id, secret_name,"
                " email_domains, group_roles, state, version, created_at) VALUES (1, NULL,"
                " 'https://login.example', 'x', 'staff-login', '{}', '{}', 'active', 1, now())"
            )
        found = by_name(await secrets_in_use(served.deps, WallClock().now()))
        assert set(LOCAL_KEYS) | {"staff-login"} <= found.keys()
        kek = found["kek"]
        assert (kek.state, kek.store, kek.version, kek.versions) == ("ok", "file", "1", 1)
        assert kek.key_id == served.deps.secrets.kek.current_id()
        assert kek.age_days == 0
        assert (found["cursor"].state, found["cursor"].age_days) == ("old", 365)
        assert found["day-close"].state == "missing"
        assert (found["staff-login"].state, found["staff-login"].used_for) == (
            "missing",
            "logs staff in",
        )
        told = findings(list(found.values()), [])
        assert ("secret staff-login", False, "no store has it") in told
        assert ("secret day-close", True, "no store has it") in told
        (folder / "cursor").chmod(0o644)
        found = by_name(await secrets_in_use(served.deps, WallClock().now()))
        assert found["cursor"].state == "unusable"
        assert "secret-unsafe" in found["cursor"].note
        assert_silent(served.deps.secrets.store, json.dumps([s.wire() for s in found.values()]))
        assert_silent(served.deps.secrets.store, drawn(list(found.values())))


def drawn(found: list[Secret]) -> str:
    shown = io.StringIO()
    Console(width=300, file=shown).print(*tables(found, []))
    return shown.getvalue()


def assert_silent(store: Any, shown: str) -> None:
    """No value is in what was shown, in whichever form."""
    looked = 0
    for name in ("kek", "fingerprint", "audit-head"):
        for version in store.get(name):
            looked += 1
            for form in (version.value.hex(), base64.b64encode(version.value).decode()):
                assert form not in shown
    assert looked == 3


async def test_what_is_left_under_an_old_key_is_counted_and_a_lost_key_is_a_fault(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    async with serve(postgres, tmp_path, secrets={"settle_seconds": 0}) as served:
        await served.ok("PUT", "/v1/users/anna", {})
        old = served.deps.secrets.kek.current_id()
        folder = tmp_path / "secrets"
        (folder / "kek.2").write_bytes((folder / "kek").read_bytes()[::-1][1:33])
        (folder / "kek.2").chmod(0o600)
        [one] = await sealed_counts(served.deps)
        assert (one.schema, one.table, one.key_id, one.count, one.state) == (
            "cell:1", "data_key", old, 1, "older",
        )  # fmt: skip
        [(name, ok, detail)] = findings([], [one])
        assert (name, ok) == (f"sealed under {old}", True)
        assert "do not remove" in detail
        (folder / "kek").unlink()
        [one] = await sealed_counts(served.deps)
        assert one.state == "lost"
        assert not findings([], [one])[0][1]


async def test_a_version_that_is_not_in_use_yet_is_told(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    async with serve(postgres, tmp_path, secrets={"settle_seconds": 600}) as served:
        old, new = tmp_path / "secrets" / "kek", tmp_path / "secrets" / "kek.2"
        hour_ago = WallClock().now().timestamp() - 3600
        os.utime(old, (hour_ago, hour_ago))
        new.write_bytes(old.read_bytes()[::-1][1:33])
        new.chmod(0o600)
        kek = by_name(await secrets_in_use(served.deps, WallClock().now()))["kek"]
        assert (kek.state, kek.version, kek.versions) == ("ok", "1", 2)
        [(name, ok, detail)] = findings([kek], [])
        assert (name, ok) == ("secret kek", True)
        assert detail.startswith("version 2 is used from ")


async def test_a_secret_of_vault_that_ends_soon_is_told(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    now = WallClock().now()
    with serve_vault(Vault()) as vault:
        async with serve(postgres, tmp_path, secrets={"names": ["bank-key"]}) as served:
            vault.put("paymaster/bank-key", "x", deletion=now + timedelta(days=3))
            settings = served.deps.settings.model_copy(
                update={
                    "secrets": served.deps.settings.secrets.model_copy(
                        update={"stores": ("environment", "file", "vault")}
                    ),
                    "vault": served.deps.settings.vault.model_copy(
                        update={"address": vault.address}
                    ),
                }
            )
            environ = {"PAYMASTER_SECRET__VAULT_TOKEN": vault.token()}
            secrets = open_secrets(settings, environ)
            async with secrets.kept(Metrics()):
                deps = dataclasses.replace(served.deps, settings=settings, secrets=secrets)
                found = by_name(await secrets_in_use(deps, now))
        assert (found["bank-key"].state, found["bank-key"].store) == ("expires", "vault")
        assert (found["vault-token"].state, found["vault-token"].store) == ("ok", "environment")


def test_a_new_key_is_written_once_and_for_us_alone(tmp_path: Path) -> None:
    file = tmp_path / "kek.2"
    command = [sys.executable, "-m", "paymaster", "secrets", "new", "kek", "--out", str(file)]
    subprocess.run(command, check=True, cwd=tmp_path)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text().startswith("base64:")
    before = file.read_text()
    again = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 1
    assert "file-unwritable" in again.stderr
    assert file.read_text() == before


@pytest.mark.parametrize("name", ["../kek", "KEK"])
def test_what_cannot_be_a_name_is_refused(tmp_path: Path, name: str) -> None:
    command = [sys.executable, "-m", "paymaster", "secrets", "new", name]
    told = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True)
    assert (told.returncode, "secret-name" in told.stderr) == (1, True)
