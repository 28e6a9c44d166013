"""Vault behind the key port: rotation without a restart, tokens, TLS, and a store that is down."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.vault_server import Vault, serve

from paymaster.kernel.errors import PaymasterError
from paymaster.kernel.guard import TRANSACTION_OPEN
from paymaster.observe import Metrics, configure_logs
from paymaster.observe.metrics import metrics_response
from paymaster.secrets.opening import Secrets, makes_keys, open_secrets
from paymaster.secrets.port import SecretVersion
from paymaster.secrets.vault import VaultSource
from paymaster.secrets.warm import Kept, WarmStore
from paymaster.settings import Database, SecretSettings, Settings, VaultSettings


def key() -> str:
    return "base64:" + base64.b64encode(os.urandom(32)).decode()


@pytest.fixture
def vault() -> Iterator[Vault]:
    with serve(Vault()) as running:
        yield running


def settings(
    vault: Vault, folder: Path, secret_store: dict[str, Any] | None = None, **more: Any
) -> Settings:
    return Settings(
        database=Database(data_dir=folder),
        secrets=SecretSettings(
            **{"stores": ("environment", "vault"), "settle_seconds": 0, **(secret_store or {})}
        ),
        vault=VaultSettings(address=vault.address, **more),
    )


_open: list[Secrets] = []


@pytest.fixture(autouse=True)
async def _closed() -> AsyncIterator[None]:
    yield
    while _open:
        await _open.pop().close()


def opened(vault: Vault, folder: Path, token: str | None = None, **more: Any) -> Secrets:
    given = {"PAYMASTER_SECRET__VAULT_TOKEN": vault.token() if token is None else token}
    return kept(open_secrets(settings(vault, folder, **more), given))


def kept(secrets: Secrets) -> Secrets:
    """Closed when the test ends."""
    _open.append(secrets)
    return secrets


async def until(there: Callable[[], bool]) -> None:
    """Wait; the test's own time limit ends it."""
    while not there():  # noqa: ASYNC110 - what changes is another thread's
        await asyncio.sleep(0.02)


async def slug(work: Any) -> str:
    with pytest.raises(PaymasterError) as caught:
        await work
    return caught.value.slug


def slug_of(call: Any, *arguments: Any) -> str:
    with pytest.raises(PaymasterError) as caught:
        call(*arguments)
    return caught.value.slug


# ------------------------------------------------------------------------------ versions


async def test_a_secret_of_vault_is_there_from_the_start_with_its_versions(
    vault: Vault, tmp_path: Path
) -> None:
    vault.put("paymaster/bank-key", "first")
    vault.put("paymaster/bank-key", "second")
    vault.put("other/bank-key", "not ours")
    secrets = opened(vault, tmp_path)
    assert slug_of(secrets.text, "bank-key") == "secret-store-down"  # nothing is fetched yet
    async with secrets.kept(Metrics()):
        found = secrets.store.get("bank-key")
        assert [(one.id, one.text(), one.store) for one in found] == [
            ("2", "second", "vault"),
            ("1", "first", "vault"),
        ]
        assert found[0].created_at is not None
        assert slug_of(secrets.text, "absent") == "secret-missing"
        assert "second" not in repr(secrets)


async def test_a_new_version_is_used_without_a_restart_and_a_deleted_one_no_more(
    vault: Vault, tmp_path: Path
) -> None:
    vault.put("paymaster/kek", key())
    vault.put("paymaster/fingerprint", key())
    secrets = opened(vault, tmp_path)
    await secrets.warm()
    old, first = secrets.kek.current_id(), secrets.sealer.seal_bytes(b"x", b"")
    vault.put("paymaster/kek", key())
    await secrets.warm()
    assert secrets.kek.current_id() != old
    assert secrets.sealer.open_bytes(first, b"") == b"x"
    assert (anew := secrets.sealer.rewrap_bytes(first)) is not None
    vault.delete("paymaster/kek", 1)
    await secrets.warm()
    assert slug_of(secrets.sealer.open_bytes, first, b"") == "kek-unknown"
    assert secrets.sealer.open_bytes(anew, b"") == b"x"
    vault.put("paymaster/kek", key())
    vault.destroy("paymaster/kek", 3)
    await secrets.warm()
    assert [one.id for one in secrets.store.get("kek")] == ["2"]


async def test_the_background_brings_a_rotation_into_a_running_process(
    vault: Vault, tmp_path: Path
) -> None:
    vault.put("paymaster/bank-key", "first")
    secrets = opened(vault, tmp_path, secret_store={"refresh_seconds": 0.05})
    async with asyncio.timeout(20), secrets.kept(Metrics()):
        assert secrets.text("bank-key") == "first"
        vault.put("paymaster/bank-key", "second")
        await until(lambda: secrets.text("bank-key") == "second")


async def test_what_is_past_its_time_is_gone_and_its_end_is_known(
    vault: Vault, tmp_path: Path
) -> None:
    now = dt.datetime.now(dt.UTC)
    vault.put("paymaster/bank-key", "past", deletion=now - dt.timedelta(hours=1))
    vault.put("paymaster/bank-key", "runs out", deletion=now + dt.timedelta(hours=1))
    secrets = opened(vault, tmp_path)
    await secrets.warm()
    [only] = secrets.store.get("bank-key")
    assert only.text() == "runs out"
    assert only.expires_at is not None
    assert abs((only.expires_at - now).total_seconds() - 3600) < 1


async def test_values_are_fetched_once_and_a_name_first_asked_for_later_too(
    vault: Vault, tmp_path: Path
) -> None:
    vault.put("paymaster/bank-key", "value")
    secrets = opened(vault, tmp_path, vault.token(may_list=False))
    await secrets.warm()
    assert not secrets.store.get("bank-key")  # it could not be listed, and was not named
    await secrets.warm()
    assert secrets.text("bank-key") == "value"
    read = [call for call in vault.calls if "/data/" in call]
    await secrets.warm()
    assert [call for call in vault.calls if "/data/" in call] == read


async def test_names_in_the_settings_are_fetched_where_listing_is_denied(
    vault: Vault, tmp_path: Path
) -> None:
    vault.put("paymaster/bank-key", "value")
    token = vault.token(may_list=False)
    secrets = opened(vault, tmp_path, token, secret_store={"names": ["bank-key"]})
    await secrets.warm()
    assert secrets.text("bank-key") == "value"


async def test_an_entry_that_cannot_be_used_stands_in_nobodys_way(
    vault: Vault, tmp_path: Path
) -> None:
    vault.put("paymaster/broken", 17)
    vault.put("paymaster/bad", "base64:%%%")
    vault.put("paymaster/good", "value")
    secrets = opened(vault, tmp_path)
    await secrets.warm()
    assert secrets.text("good") == "value"
    assert slug_of(secrets.text, "broken") == "secret-malformed"
    assert slug_of(secrets.text, "bad") == "secret-malformed"


async def test_an_entry_that_is_not_ours_to_read_stands_in_nobodys_way(
    vault: Vault, tmp_path: Path
) -> None:
    """Of the names that a listing shows, some may be another program's."""
    vault.put("paymaster/another", "theirs")
    vault.put("paymaster/kek", key())
    vault.put("paymaster/rail", "ours")
    token = vault.token()
    secrets = opened(vault, tmp_path, token)
    vault.tokens[token].denied = frozenset({"paymaster/another"})
    await secrets.warm()
    assert secrets.text("rail") == "ours"
    assert slug_of(secrets.text, "another") == "secret-store-refused"
    await secrets.warm()
    # What was ours is not given up without being loud, and serves as long as a store may be away.
    vault.tokens[token].denied = frozenset({"paymaster/rail"})
    assert await slug(secrets.warm()) == "secret-store-refused"
    assert secrets.text("rail") == "ours"
    # What the installation cannot be without is missed at once.
    vault.tokens[token].denied = frozenset({"paymaster/kek"})
    fresh = opened(vault, tmp_path, token)
    assert await slug(fresh.warm()) == "secret-store-refused"


# ---------------------------------------------------------------------------- who we are


async def test_namespaces_and_tokens_are_enforced(vault: Vault, tmp_path: Path) -> None:
    vault.put("paymaster/bank-key", "inside", "team-a")
    inside = opened(vault, tmp_path, vault.token("team-a"), namespace="team-a")
    await inside.warm()
    assert inside.text("bank-key") == "inside"
    outside = opened(vault, tmp_path, vault.token("team-b"), namespace="team-a")
    assert await slug(outside.warm()) == "secret-store-refused"
    wrong = opened(vault, tmp_path, "hvs.wrong", namespace="team-a")
    assert await slug(wrong.warm()) == "secret-store-refused"
    denied = vault.token("team-a", denied=frozenset({"paymaster/bank-key"}))
    barred = opened(vault, tmp_path, denied, namespace="team-a")
    await barred.warm()
    assert slug_of(barred.text, "bank-key") == "secret-store-refused"


async def test_a_token_is_renewed_before_it_runs_out(vault: Vault, tmp_path: Path) -> None:
    vault.put("paymaster/bank-key", "value")
    now, token = [0.0], vault.token(ttl=60.0)
    source = VaultSource(settings(vault, tmp_path).vault, lambda: token, seconds=lambda: now[0])
    await source.names()
    assert vault.renewals == 0
    now[0] = 41.0
    await source.names()
    assert vault.renewals == 1
    await source.close()


async def test_a_pod_logs_in_with_its_service_account_and_again_when_its_token_is_gone(
    vault: Vault, tmp_path: Path
) -> None:
    vault.put("paymaster/bank-key", "value")
    jwt = tmp_path / "jwt"
    jwt.write_text("the-first-jwt\n")
    vault.jwts[("", "the-first-jwt")] = "payer"
    more = {"auth": "kubernetes", "role": "payer", "jwt_file": jwt}
    secrets = kept(open_secrets(settings(vault, tmp_path, **more), {}))
    await secrets.warm()
    await secrets.warm()
    assert (secrets.text("bank-key"), vault.logins) == ("value", 1)
    vault.tokens.clear()
    vault.jwts.clear()
    vault.jwts[("", "the-second-jwt")] = "payer"
    assert await slug(secrets.warm()) == "secret-store-refused"
    assert secrets.text("bank-key") == "value"  # the copy goes on
    jwt.write_text("the-second-jwt")
    await secrets.warm()
    assert vault.logins == 2


async def test_a_policy_that_denies_the_list_makes_no_login_each_time(
    vault: Vault, tmp_path: Path
) -> None:
    jwt = tmp_path / "jwt"
    jwt.write_text("jwt")
    vault.jwts[("", "jwt")] = "paymaster"
    more = {"auth": "kubernetes", "jwt_file": jwt}
    secrets = kept(open_secrets(settings(vault, tmp_path, **more), {}))
    await secrets.warm()
    for token in vault.tokens.values():
        token.may_list = False
    await secrets.warm()
    await secrets.warm()
    assert vault.logins == 1


# ------------------------------------------------------------------------------ when it fails


class Flaky:
    """A source whose answer is a version, or nothing while it is down."""

    kind = "flaky"

    def __init__(self) -> None:
        self.down = False

    async def names(self) -> list[str]:
        if self.down:
            raise PaymasterError("secret-store-down", "down")
        return ["one"]

    async def versions(self, name: str, known: object) -> list[SecretVersion]:
        return [SecretVersion("1", b"value")] if name == "one" else []

    async def close(self) -> None:
        self.down = True


async def test_the_last_good_copy_serves_for_a_bounded_time() -> None:
    now, source = [0.0], Flaky()
    store = WarmStore(source, Kept(30, 600), seconds=lambda: now[0])
    assert slug_of(store.get, "one") == "secret-store-down"
    await store.refresh()
    source.down = True
    now[0] = 600.0
    assert await slug(store.refresh()) == "secret-store-down"
    assert store.get("one")[0].text() == "value"
    now[0] = 600.1
    assert slug_of(store.get, "one") == "secret-store-down"
    source.down = False
    await store.refresh()
    assert store.get("one")[0].text() == "value"


async def test_a_store_that_is_down_is_loud_and_the_copy_serves(
    vault: Vault, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    vault.put("paymaster/bank-key", "the-value-of-the-key")
    secrets = opened(vault, tmp_path, secret_store={"refresh_seconds": 0.05})
    metrics = Metrics()
    handlers = list(logging.getLogger().handlers)
    configure_logs("info")
    try:
        async with asyncio.timeout(20), secrets.kept(metrics):
            assert 'paymaster_secret_store_up{store="vault"} 1.0' in shown(metrics)
            vault.down = True
            await until(lambda: 'paymaster_secret_store_up{store="vault"} 0.0' in shown(metrics))
            assert secrets.text("bank-key") == "the-value-of-the-key"
            vault.down = False
            await until(lambda: 'paymaster_secret_store_up{store="vault"} 1.0' in shown(metrics))
    finally:
        logging.getLogger().handlers[:] = handlers
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line[:1] == "{"]
    assert any(
        (line["event"], line.get("slug")) == ("secret_store_down", "secret-store-down")
        and "age_seconds" in line
        for line in lines
    )
    assert "the-value-of-the-key" not in json.dumps(lines)
    assert "hvs." not in json.dumps(lines)


def shown(metrics: Metrics) -> str:
    return metrics_response(metrics)[0].decode()


async def test_nothing_is_fetched_inside_a_transaction(vault: Vault, tmp_path: Path) -> None:
    vault.put("paymaster/kek", key())
    secrets = opened(vault, tmp_path)
    await secrets.warm()
    calls = len(vault.calls)
    mark = TRANSACTION_OPEN.set(True)
    try:
        assert secrets.sealer.open_bytes(secrets.sealer.seal_bytes(b"x", b""), b"") == b"x"
        assert not secrets.store.get("never-heard-of")
        assert await slug(secrets.warm()) == "network-inside-transaction"
    finally:
        TRANSACTION_OPEN.reset(mark)
    assert len(vault.calls) == calls


async def test_who_is_not_vault_or_not_there_is_a_store_that_is_down(tmp_path: Path) -> None:
    with serve(Vault()) as gone:
        pass
    assert await slug(opened(gone, tmp_path, "hvs.x").warm()) == "secret-store-down"


def test_missing_keys_are_not_made_beside_a_store_over_a_network(
    vault: Vault, tmp_path: Path
) -> None:
    stores = {"stores": ["file", "vault"]}
    assert not makes_keys(settings(vault, tmp_path, secret_store=stores))
    assert makes_keys(Settings(database=Database(data_dir=tmp_path)))
