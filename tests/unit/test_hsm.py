"""Keys inside a token (SoftHSM 2): they sign and wrap there, cannot be exported, survive a loss."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from paymaster.kernel.errors import PaymasterError
from paymaster.kernel.guard import TRANSACTION_OPEN
from paymaster.secrets.local import verify_signature
from paymaster.secrets.opening import Secrets, open_secrets
from paymaster.secrets.port import Wrapped
from paymaster.settings import Database, HsmSettings, SecretSettings, Settings

pkcs11 = pytest.importorskip("pkcs11", reason="install paymaster[hsm]")
DRIVERS = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
)
PINS = ("hsm-pin", "so-pin")


@dataclass(frozen=True)
class Token:
    """A token with keys in it, made as an operator makes them."""

    driver: str
    label: str
    pin: str

    def session(self) -> Any:
        return pkcs11.lib(self.driver).get_token(token_label=self.label)


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Token]:
    driver = next((path for path in DRIVERS if Path(path).exists()), None)
    if driver is None or shutil.which("softhsm2-util") is None:
        pytest.skip("SoftHSM is missing: install softhsm2")
    folder = tmp_path_factory.mktemp("softhsm")
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(
        f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\n"
    )
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ["SOFTHSM2_CONF"] = str(folder / "softhsm2.conf")
    made = Token(driver, "paymaster", "".join(str(byte % 10) for byte in os.urandom(8)))
    subprocess.run(
        ["softhsm2-util", "--init-token", "--free", "--label", made.label,
         "--pin", made.pin, "--so-pin", made.pin],
        check=True, capture_output=True,
    )  # fmt: skip
    pkcs11.lib(driver).reinitialize()
    with made.session().open(rw=True, user_pin=made.pin) as session:
        make_keys(session)
    yield made
    if before is None:
        del os.environ["SOFTHSM2_CONF"]
    else:
        os.environ["SOFTHSM2_CONF"] = before


def make_keys(session: Any) -> None:
    from pkcs11.util.ec import encode_named_curve_parameters

    kinds, attribute = pkcs11.KeyType, pkcs11.Attribute
    kept = {attribute.EXTRACTABLE: False, attribute.SENSITIVE: True}
    for label in ("kek-1", "kek-2"):
        session.generate_key(kinds.AES, 256, label=label, store=True, template=kept)
    for label, kind, curve in (
        ("p256", kinds.EC, "secp256r1"),
        ("ed25519", kinds.EC_EDWARDS, "1.3.101.112"),
    ):
        given = {attribute.EC_PARAMS: encode_named_curve_parameters(curve)}
        parameters = session.create_domain_parameters(kind, given, local=True)
        mechanism = None if kind == kinds.EC else pkcs11.Mechanism.EC_EDWARDS_KEY_PAIR_GEN
        parameters.generate_keypair(
            label=label, store=True, mechanism=mechanism, private_template=kept
        )
    session.generate_keypair(kinds.RSA, 2048, label="rsa", store=True, private_template=kept)


def opened(token: Token, folder: Path, pin: str | None = None, **more: Any) -> Secrets:
    settings = Settings(
        database=Database(data_dir=folder),
        secrets=SecretSettings(**{"stores": ("environment",), **more}),
        hsm=HsmSettings(module=Path(token.driver)),
    )
    return open_secrets(settings, {"PAYMASTER_SECRET__HSM_PIN": pin or token.pin})


def address(label: str) -> str:
    return f"pkcs11:token=paymaster;object={label}"


def slug_of(call: Any, *arguments: Any) -> str:
    with pytest.raises(PaymasterError) as caught:
        call(*arguments)
    return caught.value.slug


@pytest.mark.parametrize("label", ["ed25519", "p256", "rsa"])
async def test_the_token_signs_and_anybody_verifies(
    token: Token, tmp_path: Path, label: str
) -> None:
    secrets = opened(token, tmp_path, signers={"audit-head": address(label)})
    message = b"a head" * 1000
    signature = await secrets.signers.sign("audit-head", message)
    [public] = await secrets.signers.public_keys("audit-head")
    assert verify_signature(public, message, signature)
    assert not verify_signature(public, message + b"!", signature)
    assert not verify_signature(public, message, signature[:-1] + bytes([signature[-1] ^ 1]))
    await secrets.close()


@pytest.mark.parametrize(
    ("label", "kind", "attribute"),
    [
        ("kek-1", "SECRET_KEY", "VALUE"),
        ("ed25519", "PRIVATE_KEY", "VALUE"),
        ("p256", "PRIVATE_KEY", "VALUE"),
        ("rsa", "PRIVATE_KEY", "PRIVATE_EXPONENT"),
    ],
)
async def test_a_key_cannot_be_exported(
    token: Token, tmp_path: Path, label: str, kind: str, attribute: str
) -> None:
    secrets = opened(token, tmp_path, kek=address("kek-1"), signers={"audit-head": address(label)})
    secrets.kek.current_id()

    def steal(library: Any, found: Any) -> list[str]:
        refused: list[str] = []
        wrapping = found.session.get_key(object_class=library.ObjectClass.SECRET_KEY, label="kek-2")
        for attempt in (
            lambda: found[getattr(library.Attribute, attribute)],
            lambda: wrapping.wrap_key(found, mechanism=library.Mechanism.AES_KEY_WRAP_PAD),
            lambda: found.copy({library.Attribute.EXTRACTABLE: True}),
        ):
            with pytest.raises(library.exceptions.PKCS11Error) as caught:
                attempt()
            refused.append(type(caught.value).__name__)
        return refused

    from paymaster.secrets.hsm import parse_address

    refused = secrets.remote.hsm.use(parse_address(address(label)), kind, steal)
    assert refused[0] == "AttributeSensitive"
    assert len(refused) == 3
    await secrets.close()


async def test_the_token_wraps_and_every_altered_byte_is_noticed(
    token: Token, tmp_path: Path
) -> None:
    secrets = opened(token, tmp_path, kek=address("kek-1"))
    sealed = secrets.sealer.seal_bytes(b"x", b"place")
    assert secrets.sealer.open_bytes(sealed, b"place") == b"x"
    key = os.urandom(32)
    wrapped = secrets.kek.wrap(key)
    assert secrets.kek.unwrap(wrapped) == key
    assert secrets.kek.wrap(key).blob != wrapped.blob
    assert key not in wrapped.blob
    for at in range(len(wrapped.blob)):
        altered = bytearray(wrapped.blob)
        altered[at] ^= 1
        damaged = Wrapped(wrapped.key_id, bytes(altered))
        assert slug_of(secrets.kek.unwrap, damaged) == "sealed-damaged", at
    assert slug_of(secrets.kek.unwrap, Wrapped("other", wrapped.blob)) == "kek-unknown"
    await secrets.close()


async def test_a_key_of_a_file_gives_way_to_one_in_the_token_and_that_to_the_next(
    token: Token, tmp_path: Path
) -> None:
    stores: dict[str, Any] = {"stores": ["environment", "file"]}
    folder = tmp_path / "secrets"
    folder.mkdir(mode=0o700)
    (folder / "kek").write_bytes(os.urandom(32).replace(b"\n", b"x"))
    (folder / "kek").chmod(0o600)
    before = opened(token, tmp_path, **stores)
    sealed = before.sealer.seal_bytes(b"x", b"")
    ids = {before.kek.current_id()}
    for kek in (f"{address('kek-1')} store", f"{address('kek-2')} {address('kek-1')}"):
        now = opened(token, tmp_path, **{**stores, "kek": kek})
        assert now.kek.current_id() not in ids
        ids.add(now.kek.current_id())
        anew = now.sealer.rewrap_bytes(sealed)
        assert anew is not None
        assert now.sealer.open_bytes(anew, b"") == b"x"
        assert now.sealer.rewrap_bytes(anew) is None
        sealed = anew
        await now.close()
    only = opened(token, tmp_path, **{**stores, "kek": address("kek-2")})
    assert only.sealer.open_bytes(sealed, b"") == b"x"
    await only.close()


async def test_a_lost_session_is_opened_anew(token: Token, tmp_path: Path) -> None:
    secrets = opened(
        token, tmp_path, kek=address("kek-1"), signers={"audit-head": address("ed25519")}
    )
    wrapped = secrets.kek.wrap(b"k" * 32)
    await secrets.signers.sign("audit-head", b"m")
    pkcs11.lib(token.driver).reinitialize()  # every session and handle is gone, as after a reset
    assert secrets.kek.unwrap(wrapped) == b"k" * 32
    assert await secrets.signers.sign("audit-head", b"m")
    await secrets.close()


async def test_many_threads_share_one_session(token: Token, tmp_path: Path) -> None:
    secrets = opened(
        token, tmp_path, kek=address("kek-1"), signers={"audit-head": address("ed25519")}
    )

    async def one(number: int) -> None:
        message = str(number).encode()
        signature = await secrets.signers.sign("audit-head", message)
        [public] = await secrets.signers.public_keys("audit-head")
        assert verify_signature(public, message, signature)
        wrapped = await asyncio.to_thread(secrets.kek.wrap, message * 8)
        assert secrets.kek.unwrap(wrapped) == message * 8

    await asyncio.gather(*(one(number) for number in range(40)))
    await secrets.close()


async def test_what_the_token_refuses_is_told_without_the_pin(token: Token, tmp_path: Path) -> None:
    for secrets, expected in (
        (opened(token, tmp_path, "000000000", kek=address("kek-1")), "hsm-refused"),
        (opened(token, tmp_path, kek=address("absent")), "hsm-refused"),
        (opened(token, tmp_path, kek="pkcs11:token=absent;object=kek-1"), "hsm-unreachable"),
    ):
        with pytest.raises(PaymasterError) as caught:
            secrets.kek.current_id()
        assert caught.value.slug == expected
        assert token.pin not in str(caught.value)
        await secrets.close()


async def test_a_wrong_pin_is_not_tried_again_and_a_right_one_is(
    token: Token, tmp_path: Path
) -> None:
    """A token locks itself after a few wrong ones."""
    environ = {"PAYMASTER_SECRET__HSM_PIN": "000000000"}
    settings = Settings(
        database=Database(data_dir=tmp_path),
        secrets=SecretSettings(stores=("environment",), kek=address("kek-1")),
        hsm=HsmSettings(module=Path(token.driver)),
    )
    secrets = open_secrets(settings, environ)
    assert slug_of(secrets.kek.current_id) == "hsm-refused"
    with pytest.raises(PaymasterError, match="refused this PIN before"):
        secrets.kek.current_id()
    environ["PAYMASTER_SECRET__HSM_PIN"] = token.pin
    assert secrets.kek.current_id().startswith("hsm-")
    await secrets.close()


def another_token(label: str, pin: str) -> None:
    subprocess.run(
        ["softhsm2-util", "--init-token", "--free", "--label", label, "--pin", pin,
         "--so-pin", pin],
        check=True, capture_output=True,
    )  # fmt: skip


async def test_a_pin_that_one_token_refuses_opens_another(token: Token, tmp_path: Path) -> None:
    another_token("other", "not-" + token.pin)
    pkcs11.lib(token.driver).reinitialize()
    secrets = opened(token, tmp_path, kek=address("kek-1"))
    other = secrets.kek_at("pkcs11:token=other;object=kek-1")
    assert slug_of(other.current_id) == "hsm-refused"
    assert secrets.kek.current_id().startswith("hsm-")
    with pytest.raises(PaymasterError, match="refused this PIN before"):
        other.current_id()
    await secrets.close()


async def test_a_signature_in_a_token_is_refused_inside_a_transaction(
    token: Token, tmp_path: Path
) -> None:
    secrets = opened(token, tmp_path, signers={"audit-head": address("ed25519")})
    mark = TRANSACTION_OPEN.set(True)
    try:
        with pytest.raises(PaymasterError, match="network-inside-transaction"):
            await secrets.signers.sign("audit-head", b"m")
    finally:
        TRANSACTION_OPEN.reset(mark)
    await secrets.close()
