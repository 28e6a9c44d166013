import base64
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from paymaster.kernel.errors import Broken, PaymasterError, Refusal
from paymaster.secrets.chain import ChainStore
from paymaster.secrets.environment import EnvironmentStore
from paymaster.secrets.file import FileStore
from paymaster.secrets.generated import LOCAL_KEYS, ensure_generated
from paymaster.secrets.local import Ed25519Signer, HmacSigner, LocalKek, verify_ed25519
from paymaster.secrets.opening import open_secrets
from paymaster.secrets.port import SecretVersion, Wrapped, key_check, require
from paymaster.secrets.sealing import DataKey, Sealer, place
from paymaster.settings import Database, SecretSettings, Settings


def as_text(key: bytes) -> str:
    return "base64:" + base64.b64encode(key).decode()


def write(directory: Path, name: str, value: bytes | str, mode: int = 0o600) -> Path:
    path = directory / name
    path.write_bytes(value.encode() if isinstance(value, str) else value)
    path.chmod(mode)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "secrets"
    made.mkdir(mode=0o700)
    return made


def sealer_in(folder: Path) -> Sealer:
    ensure_generated(folder)
    store = FileStore(folder)
    return Sealer(LocalKek(store), HmacSigner(store))


def slug_of(call: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(PaymasterError) as caught:
        call(*arguments)
    return caught.value.slug


# ------------------------------------------------------------------------------------ stores


def test_a_secret_never_shows_its_value():
    version = SecretVersion("1", b"hunter2hunter2")
    assert "hunter2" not in repr(version)
    assert "hunter2" not in repr(DataKey(b"hunter2hunter2"))


def test_environment_gives_the_highest_number_first():
    store = EnvironmentStore(
        {
            "PAYMASTER_SECRET__BANK_KEY": "old",
            "PAYMASTER_SECRET__BANK_KEY__10": "newest",
            "PAYMASTER_SECRET__BANK_KEY__2": "newer",
            "PAYMASTER_SECRET__BANK_KEYS": "another",
            "PAYMASTER_SECRET__BANK_KEY__X": "not a version",
        }
    )
    assert [(v.id, v.value) for v in store.get("bank-key")] == [
        ("10", b"newest"),
        ("2", b"newer"),
        ("1", b"old"),
    ]
    assert store.get("bank") == []


def test_environment_is_read_at_every_call():
    environ: dict[str, str] = {}
    store = EnvironmentStore(environ)
    assert store.get("kek") == []
    environ["PAYMASTER_SECRET__KEK"] = "one"
    assert require(store, "kek").value == b"one"


@pytest.mark.parametrize(
    "name", ["", "../kek", "a/b", "kek.2", "KEK", "a__b", "-a", "a b", "a" * 65, "kek\n"]
)
def test_what_cannot_be_a_name_is_refused_by_every_store(name: str, folder: Path):
    for store in (EnvironmentStore({}), FileStore(folder)):
        assert slug_of(store.get, name) == "secret-name"


def test_files_give_versions_and_follow_a_change_without_restart(folder: Path):
    store = FileStore(folder)
    assert store.get("bank") == []
    write(folder, "bank", "first\n")
    assert [v.value for v in store.get("bank")] == [b"first"]
    write(folder, "bank.2", "second")
    write(folder, "bank.old", "no version")
    assert [(v.id, v.value) for v in store.get("bank")] == [("2", b"second"), ("1", b"first")]
    write(folder, "bank.2", "third!")
    assert require(store, "bank").value == b"third!"
    (folder / "bank.2").unlink()
    assert require(store, "bank").value == b"first"
    assert require(store, "bank").created_at is not None


def test_a_file_replaced_by_a_symlink_swap_is_followed(folder: Path):
    first, second = folder / "..a", folder / "..b"
    for place_, text in ((first, "one"), (second, "two")):
        place_.mkdir()
        write(place_, "bank", text)
    (folder / "..data").symlink_to(first.name)
    (folder / "bank").symlink_to("..data/bank")
    store = FileStore(folder)
    assert require(store, "bank").value == b"one"
    (folder / "..new").symlink_to(second.name)
    (folder / "..new").rename(folder / "..data")
    assert require(store, "bank").value == b"two"


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602, 0o620, 0o666])
def test_a_file_that_others_may_read_or_change_is_refused(folder: Path, mode: int):
    write(folder, "bank", "value-of-the-secret", mode)
    with pytest.raises(Broken) as caught:
        FileStore(folder).get("bank")
    assert caught.value.slug == "secret-unsafe"
    assert "value-of-the-secret" not in str(caught.value)


def test_a_mode_loosened_after_the_first_read_is_noticed(folder: Path):
    path = write(folder, "bank", "value")
    store = FileStore(folder)
    store.get("bank")
    path.chmod(0o644)
    assert slug_of(store.get, "bank") == "secret-unsafe"


def test_a_group_readable_file_is_taken_as_orchestrators_mount_it(folder: Path):
    write(folder, "bank", "value", 0o440)
    assert require(FileStore(folder), "bank").value == b"value"


def test_what_is_no_file_is_refused_and_does_not_block(folder: Path):
    os.mkfifo(folder / "bank", 0o600)
    assert slug_of(FileStore(folder).get, "bank") == "secret-unsafe"


def test_a_folder_open_to_everybody_is_refused(folder: Path):
    write(folder, "bank", "value")
    folder.chmod(0o777)
    assert slug_of(FileStore(folder).get, "bank") == "secret-unsafe"


@pytest.mark.parametrize("value", [b"", b"\n", b"base64:", b"base64:!!", b"x" * (2**20 + 1)])
def test_a_value_that_cannot_be_meant_is_refused(folder: Path, value: bytes):
    write(folder, "bank", value)
    assert slug_of(FileStore(folder).get, "bank") == "secret-malformed"


def test_binary_values_stay_as_they_are(folder: Path):
    write(folder, "bank", b"\xff\x00\n")
    assert require(FileStore(folder), "bank").value == b"\xff\x00\n"
    assert slug_of(require(FileStore(folder), "bank").text) == "secret-malformed"


def test_the_first_store_that_knows_a_name_answers_alone(folder: Path):
    write(folder, "bank", "of the file")
    write(folder, "other", "only here")
    chain = ChainStore(
        [EnvironmentStore({"PAYMASTER_SECRET__BANK": "override"}), FileStore(folder)]
    )
    assert [v.value for v in chain.get("bank")] == [b"override"]
    assert [v.value for v in chain.get("other")] == [b"only here"]
    assert slug_of(require, chain, "absent") == "secret-missing"


# ------------------------------------------------------------------------------------ keys


def test_generated_keys_are_made_once_and_only_for_us(tmp_path: Path):
    folder = tmp_path / "deep" / "secrets"
    assert ensure_generated(folder) == list(LOCAL_KEYS)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert ensure_generated(folder) == []
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert sorted(before) == sorted(LOCAL_KEYS)
    assert len(set(before.values())) == len(LOCAL_KEYS)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert all(len(require(FileStore(folder), name).value) == 32 for name in LOCAL_KEYS)


def test_a_key_with_only_a_later_version_is_not_made_anew(folder: Path):
    write(folder, "kek.2", as_text(os.urandom(32)))
    assert "kek" not in ensure_generated(folder)
    assert not (folder / "kek").exists()


def test_processes_that_start_together_agree_on_the_keys(folder: Path):
    code = (
        "import sys, pathlib; from paymaster.secrets.generated import ensure_generated;"
        "sys.stdin.read(); print(*ensure_generated(pathlib.Path(sys.argv[1])))"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for _ in range(4)
    ]
    answers: list[str] = [""] * len(running)

    def finish(index: int) -> None:
        answers[index] = running[index].communicate("")[0]

    threads = [threading.Thread(target=finish, args=(index,)) for index in range(len(running))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.returncode for process in running] == [0] * 4
    assert sorted(" ".join(answers).split()) == sorted(LOCAL_KEYS)
    assert sorted(path.name for path in folder.iterdir()) == sorted(LOCAL_KEYS)


def test_the_newest_kek_wraps_and_every_version_unwraps(folder: Path):
    old, new = os.urandom(32), os.urandom(32)
    write(folder, "kek", as_text(old))
    kek = LocalKek(FileStore(folder))
    before = kek.wrap(b"k" * 32)
    write(folder, "kek.2", as_text(new))
    after = kek.wrap(b"k" * 32)
    assert (before.key_id, after.key_id) == (key_check(old), key_check(new))
    assert kek.current_id() == key_check(new)
    assert kek.unwrap(before) == kek.unwrap(after) == b"k" * 32
    (folder / "kek").unlink()
    assert slug_of(kek.unwrap, before) == "kek-unknown"
    assert kek.unwrap(after) == b"k" * 32


def test_a_key_keeps_its_id_in_another_store(folder: Path):
    key = os.urandom(32)
    write(folder, "kek", as_text(key))
    wrapped = LocalKek(FileStore(folder)).wrap(b"data key")
    moved = LocalKek(EnvironmentStore({"PAYMASTER_SECRET__KEK__7": as_text(key)}))
    assert moved.unwrap(wrapped) == b"data key"


def test_every_altered_byte_of_a_wrapped_key_is_noticed(folder: Path):
    ensure_generated(folder)
    kek = LocalKek(FileStore(folder))
    wrapped = kek.wrap(b"k" * 32)
    for position in range(len(wrapped.blob)):
        altered = bytearray(wrapped.blob)
        altered[position] ^= 1
        assert slug_of(kek.unwrap, Wrapped(wrapped.key_id, bytes(altered))) == "sealed-damaged"
    for length in range(len(wrapped.blob)):
        short = Wrapped(wrapped.key_id, wrapped.blob[:length])
        assert slug_of(kek.unwrap, short) == "sealed-damaged"


@pytest.mark.parametrize("size", [16, 31, 33])
def test_a_kek_of_another_length_is_refused(size: int):
    store = EnvironmentStore({"PAYMASTER_SECRET__KEK": as_text(os.urandom(size))})
    assert slug_of(LocalKek(store).wrap, b"k" * 32) == "secret-malformed"


def test_hmac_verifies_under_every_version_but_no_other_key(folder: Path):
    ensure_generated(folder)
    signer = HmacSigner(FileStore(folder))
    signature = signer.sign("cursor", b"message")
    assert signer.verify("cursor", b"message", signature)
    assert signer.verify("cursor", b"message", signature[:16])
    assert not signer.verify("cursor", b"message", signature[:15])
    assert not signer.verify("cursor", b"message.", signature)
    assert not signer.verify("fingerprint", b"message", signature)
    write(folder, "cursor.2", as_text(os.urandom(32)))
    assert signer.sign("cursor", b"message") != signature
    assert signer.verify("cursor", b"message", signature)
    (folder / "cursor").unlink()
    assert not signer.verify("cursor", b"message", signature)


def test_ed25519_signs_with_raw_and_pem_keys():
    key = Ed25519PrivateKey.generate()
    raw = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    signer = Ed25519Signer(
        EnvironmentStore(
            {
                "PAYMASTER_SECRET__RAW": as_text(raw),
                "PAYMASTER_SECRET__PEM": pem.decode(),
                "PAYMASTER_SECRET__BAD": "-----BEGIN PRIVATE KEY-----",
            }
        )
    )
    assert signer.public_keys("raw") == signer.public_keys("pem")
    signature = signer.sign("pem", b"message")
    assert signature == signer.sign("raw", b"message")
    assert verify_ed25519(signer.public_keys("raw")[0], b"message", signature)
    assert not verify_ed25519(signer.public_keys("raw")[0], b"messagf", signature)
    assert not verify_ed25519(b"short", b"message", signature)
    assert slug_of(signer.sign, "bad", b"message") == "secret-malformed"
    assert slug_of(signer.sign, "none", b"message") == "secret-missing"


# ------------------------------------------------------------------------------------ sealing


def test_sealed_data_opens_only_in_its_place_and_under_its_key(folder: Path):
    sealer = sealer_in(folder)
    key, wrapped, key_id = sealer.new_data_key()
    here = place("pii", 7, "name")
    sealed = sealer.seal(key, b"plain text", here)
    assert b"plain text" not in sealed
    assert sealer.open(sealer.data_key(wrapped, key_id), sealed, here) == b"plain text"
    assert slug_of(sealer.open, key, sealed, place("pii", 8, "name")) == "sealed-damaged"
    other, _, _ = sealer.new_data_key()
    assert slug_of(sealer.open, other, sealed, here) == "sealed-damaged"
    for position in range(len(sealed)):
        altered = bytearray(sealed)
        altered[position] ^= 1
        assert slug_of(sealer.open, key, bytes(altered), here) == "sealed-damaged"
    assert sealer.seal(key, b"plain text", here) != sealed


def test_places_that_read_alike_are_different():
    assert len({place("a", "bc"), place("ab", "c"), place("a", "b", "c"), place("abc")}) == 4


def test_bodies_carry_their_own_key(folder: Path):
    sealer = sealer_in(folder)
    here = place("batch", 1)
    sealed = sealer.seal_bytes(b"the order", here)
    assert sealer.open_bytes(sealed, here) == b"the order"
    assert sealer.open_bytes(sealer.seal_bytes(b"", here), here) == b""
    assert slug_of(sealer.open_bytes, sealed, place("batch", 2)) == "sealed-damaged"
    for position in range(len(sealed)):
        altered = bytearray(sealed)
        altered[position] ^= 1
        assert slug_of(sealer.open_bytes, bytes(altered), here) in {"sealed-damaged", "kek-unknown"}
        assert slug_of(sealer.open_bytes, sealed[:position], here) in {
            "sealed-damaged",
            "kek-unknown",
        }


def test_rewrapping_follows_the_kek_and_keeps_the_data(folder: Path):
    sealer = sealer_in(folder)
    here = place("batch", 1)
    key, wrapped, key_id = sealer.new_data_key()
    sealed, body = sealer.seal(key, b"data", here), sealer.seal_bytes(b"body", here)
    assert sealer.rewrap(wrapped, key_id) is None
    assert sealer.rewrap_bytes(body) is None
    write(folder, "kek.2", as_text(os.urandom(32)))
    anew, body_anew = sealer.rewrap(wrapped, key_id), sealer.rewrap_bytes(body)
    assert anew is not None
    assert body_anew is not None
    (folder / "kek").unlink()
    assert sealer.open(sealer.data_key(*anew), sealed, here) == b"data"
    assert sealer.open_bytes(body_anew, here) == b"body"
    assert slug_of(sealer.data_key, wrapped, key_id) == "kek-unknown"


def test_fingerprints_are_stable_keyed_and_apart_by_kind(folder: Path):
    sealer = sealer_in(folder)
    made = sealer.fingerprint("iban", "XX00TEST")
    assert len(made) == 32
    assert made == sealer.fingerprint("iban", "XX00TEST")
    assert made != sealer.fingerprint("wallet", "XX00TEST")
    assert made != sealer.fingerprint("iban", "XX00TESU")
    write(folder, "fingerprint.2", as_text(os.urandom(32)))
    assert sealer.fingerprint("iban", "XX00TEST") != made
    assert sealer.fingerprints("iban", "XX00TEST")[1] == made


def test_opening_follows_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("PAYMASTER_SECRET__CURSOR", raising=False)
    settings = Settings(
        database=Database(data_dir=tmp_path), secrets=SecretSettings(stores=("file",))
    )
    ensure_generated(tmp_path / "secrets")
    opened = open_secrets(settings, {"PAYMASTER_SECRET__BANK": "unused"})
    assert opened.sealer.open_bytes(opened.sealer.seal_bytes(b"x", b""), b"") == b"x"
    assert slug_of(opened.text, "bank") == "secret-missing"
    both = Settings(database=Database(data_dir=tmp_path))
    assert open_secrets(both, {"PAYMASTER_SECRET__BANK": "seen"}).text("bank") == "seen"
    with pytest.raises(Refusal):
        opened.text("../bank")
