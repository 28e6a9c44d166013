"""AWS behind the key port, with moto in its place: Secrets Manager, and keys wrapped by KMS."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from paymaster.kernel.errors import PaymasterError
from paymaster.kernel.guard import TRANSACTION_OPEN
from paymaster.observe import Metrics, configure_logs
from paymaster.secrets.aws import Kms
from paymaster.secrets.local import Ed25519Signer, verify_signature
from paymaster.secrets.opening import Secrets, open_secrets
from paymaster.secrets.signers import Signers
from paymaster.secrets.unwrapped import stored_form
from paymaster.settings import AwsSettings, Database, SecretSettings, SecretStoreKind, Settings

REGION = "eu-central-1"
AWS = AwsSettings(region=REGION)


@pytest.fixture(autouse=True)
def _aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN"):
        monkeypatch.setenv(f"AWS_{name}", "testing")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    with mock_aws():
        yield


_open: list[Secrets] = []


@pytest.fixture(autouse=True)
async def _closed() -> AsyncIterator[None]:
    yield
    while _open:
        await _open.pop().close()


def opened(folder: Path, stores: tuple[SecretStoreKind, ...] = ("aws",), **more: Any) -> Secrets:
    settings = Settings(
        database=Database(data_dir=folder),
        secrets=SecretSettings(stores=stores, settle_seconds=0, **more),
        aws=AwsSettings(region=REGION),
    )
    _open.append(open_secrets(settings, {}))
    return _open[-1]


def client(service: str) -> Any:
    return boto3.client(service, region_name=REGION)


def key() -> str:
    return "base64:" + base64.b64encode(os.urandom(32)).decode()


def slug_of(call: Any, *arguments: Any) -> str:
    with pytest.raises(PaymasterError) as caught:
        call(*arguments)
    return caught.value.slug


async def slug(work: Any) -> str:
    with pytest.raises(PaymasterError) as caught:
        await work
    return caught.value.slug


async def test_the_label_says_which_version_is_in_use(tmp_path: Path) -> None:
    aws = client("secretsmanager")
    name = "paymaster/bank-key"
    first = aws.create_secret(Name=name, SecretString="first")["VersionId"]
    aws.create_secret(Name="other/bank-key", SecretString="not ours")
    second = aws.put_secret_value(SecretId=name, SecretString="second")["VersionId"]
    aws.put_secret_value(SecretId=name, SecretString="tried out", VersionStages=["AWSPENDING"])
    secrets = opened(tmp_path)
    assert slug_of(secrets.text, "bank-key") == "secret-store-down"
    await secrets.warm()
    found = secrets.store.get("bank-key")
    assert [(one.id, one.text(), one.store) for one in found] == [
        (second, "second", "aws"),
        (first, "first", "aws"),
    ]
    assert found[0].created_at is not None
    aws.update_secret_version_stage(
        SecretId=name, VersionStage="AWSCURRENT",
        RemoveFromVersionId=second, MoveToVersionId=first,
    )  # fmt: skip
    await secrets.warm()
    assert secrets.text("bank-key") == "first"  # a rotation that was taken back


async def test_a_rotation_reaches_a_running_process_and_a_deleted_secret_is_gone(
    tmp_path: Path,
) -> None:
    aws = client("secretsmanager")
    aws.create_secret(Name="paymaster/kek", SecretString=key())
    aws.create_secret(Name="paymaster/fingerprint", SecretBinary=os.urandom(32))
    secrets = opened(tmp_path, refresh_seconds=0.05)
    async with asyncio.timeout(30), secrets.kept(Metrics()):
        old, sealed = secrets.kek.current_id(), secrets.sealer.seal_bytes(b"x", b"")
        assert len(secrets.sealer.fingerprint("iban", "x")) == 32
        aws.put_secret_value(SecretId="paymaster/kek", SecretString=key())
        while secrets.kek.current_id() == old:  # noqa: ASYNC110 - another process's change
            await asyncio.sleep(0.02)
        assert secrets.sealer.open_bytes(sealed, b"") == b"x"
        aws.delete_secret(SecretId="paymaster/fingerprint")
        while secrets.store.get("fingerprint"):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.02)


async def test_more_secrets_than_fit_on_a_page_are_all_found(tmp_path: Path) -> None:
    aws = client("secretsmanager")
    for number in range(130):
        aws.create_secret(Name=f"paymaster/rail-{number}", SecretString=str(number))
    secrets = opened(tmp_path)
    await secrets.warm()
    assert [secrets.text(f"rail-{n}") for n in range(130)] == [str(n) for n in range(130)]


async def test_without_the_extra_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    assert await slug(opened(tmp_path).warm()) == "extra-missing"


async def test_no_call_inside_a_transaction(tmp_path: Path) -> None:
    secrets = opened(tmp_path)
    mark = TRANSACTION_OPEN.set(True)
    try:
        assert await slug(secrets.warm()) == "network-inside-transaction"
    finally:
        TRANSACTION_OPEN.reset(mark)


async def test_no_value_is_logged_even_in_debug(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The library itself writes whole answers on that level."""
    value = base64.b64encode(os.urandom(24)).decode()
    client("secretsmanager").create_secret(Name="paymaster/bank-key", SecretString=value)
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level
    secrets = opened(tmp_path)
    configure_logs("debug")
    try:
        logging.getLogger("paymaster.test").debug("it writes on this level")
        await secrets.warm()
    finally:
        logging.getLogger().handlers[:] = handlers
        logging.getLogger().setLevel(level)
    assert secrets.text("bank-key") == value
    told = capfd.readouterr().err
    assert "it writes on this level" in told
    assert value not in told


# ---------------------------------------------------------------------------------------- KMS


def folder_with(tmp_path: Path, name: str, value: str) -> Path:
    folder = tmp_path / "secrets"
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / name).write_text(value)
    (folder / name).chmod(0o600)
    return folder


async def wrapped(name: str, kms_key: str) -> str:
    kms = Kms(AWS)
    made = stored_form(await kms.new_wrapped(kms_key, name))
    await kms.close()
    return made


async def test_a_key_wrapped_by_kms_works_in_memory_and_rotates(tmp_path: Path) -> None:
    kms_key = client("kms").create_key()["KeyMetadata"]["KeyId"]
    folder_with(tmp_path, "kek", await wrapped("kek", kms_key))
    secrets = opened(tmp_path, ("file",), refresh_seconds=0.05)
    assert slug_of(secrets.kek.current_id) == "secret-store-down"
    async with asyncio.timeout(30), secrets.kept(Metrics()):
        assert secrets.store.get("kek")[0].store == "file+aws-kms"
        old, sealed = secrets.kek.current_id(), secrets.sealer.seal_bytes(b"x", b"")
        folder_with(tmp_path, "kek.2", await wrapped("kek", kms_key))
        assert secrets.kek.current_id() == old  # until it is opened the one before is used
        while secrets.kek.current_id() == old:  # noqa: ASYNC110 - opened in the background
            await asyncio.sleep(0.02)
        assert secrets.sealer.open_bytes(sealed, b"") == b"x"


async def test_a_wrapped_key_does_not_open_under_another_name(tmp_path: Path) -> None:
    kms_key = client("kms").create_key()["KeyMetadata"]["KeyId"]
    folder_with(tmp_path, "cursor", await wrapped("kek", kms_key))
    assert await slug(opened(tmp_path, ("file",)).warm()) == "secret-store-refused"
    folder_with(tmp_path, "cursor", "aws-kms:%%%")
    assert await slug(opened(tmp_path, ("file",)).warm()) == "secret-malformed"


@pytest.mark.parametrize("spec", ["ECC_NIST_P256", "RSA_2048"])
async def test_kms_signs_and_anybody_verifies(tmp_path: Path, spec: str) -> None:
    made = client("kms").create_key(KeySpec=spec, KeyUsage="SIGN_VERIFY")
    key_id = made["KeyMetadata"]["KeyId"]
    folder_with(tmp_path, "audit-head", key())
    secrets = opened(tmp_path, ("file",), signers={"audit-head": f"aws-kms:{key_id} store"})
    message = b"a head"
    before = secrets.ed25519.sign("audit-head", message)
    signature = await secrets.signers.sign("audit-head", message)
    newest, older = await secrets.signers.public_keys("audit-head")
    assert verify_signature(newest, message, signature)
    assert not verify_signature(newest, message + b"!", signature)
    assert not verify_signature(older, message, signature)
    assert verify_signature(older, message, before)  # what the file's key signed still counts
    long = b"a head" * 2000  # more than KMS takes whole: it gets the digest
    signature = await secrets.signers.sign("audit-head", long)
    # moto, unlike KMS, hashes a digest once more.
    assert verify_signature(newest, hashlib.sha256(long).digest(), signature)


async def test_a_kms_key_that_cannot_sign_is_refused_and_so_is_a_signature_in_a_transaction(
    tmp_path: Path,
) -> None:
    key_id = client("kms").create_key()["KeyMetadata"]["KeyId"]
    kms = Kms(AWS)
    signers = Signers(Ed25519Signer(opened(tmp_path).keys), {"x": f"aws-kms:{key_id}"}, kms=kms)
    assert await slug(signers.sign("x", b"m")) == "signer-refused"
    mark = TRANSACTION_OPEN.set(True)
    try:
        assert await slug(signers.sign("x", b"m")) == "network-inside-transaction"
    finally:
        TRANSACTION_OPEN.reset(mark)
    await kms.close()


@pytest.mark.parametrize("where", ["", "nowhere", "pkcs11:token=a", "pkcs11:object=b;slot=1"])
def test_a_place_that_is_none_is_refused(tmp_path: Path, where: str) -> None:
    assert slug_of(lambda: opened(tmp_path, signers={"audit-head": where})) == "key-address"
