"""The parts of second factors that need no database: codes, passkeys, statements, policies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.authenticator import Authenticator
from webauthn.helpers import base64url_to_bytes, bytes_to_base64url

from paymaster.kernel.errors import PaymasterError, Unprocessable
from paymaster.kernel.money import Money
from paymaster.people.factors import passkeys, recovery, totp
from paymaster.people.factors.binding import Binding, Purpose, challenge
from paymaster.people.factors.passkeys import RelyingParty
from paymaster.people.factors.policy import Policy, Rule
from paymaster.settings import StepUp

RFC_SEED = b"12345678901234567890"
NOW = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
PARTY = RelyingParty("localhost", "Acme", ("http://localhost:8080",))


@pytest.mark.parametrize(
    ("seconds", "code"),
    [
        (59, "287082"),
        (1111111109, "081804"),
        (1111111111, "050471"),
        (1234567890, "005924"),
        (2000000000, "279037"),
        (20000000000, "353130"),
    ],
)
def test_codes_are_those_of_rfc_6238(seconds: int, code: str) -> None:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    assert totp.matching(RFC_SEED, code, moment, after=0) == seconds // 30
    assert totp.code_of(RFC_SEED, seconds // 30) == code


def test_one_step_around_the_present_is_taken_and_no_more() -> None:
    present = totp.step_of(NOW)
    found = [
        totp.matching(RFC_SEED, totp.code_of(RFC_SEED, present + near), NOW, after=0)
        for near in (-2, -1, 0, 1, 2)
    ]
    assert found == [None, present - 1, present, present + 1, None]


def test_a_step_that_was_used_is_not_taken_again_nor_one_before_it() -> None:
    present = totp.step_of(NOW)
    for near in (-1, 0):
        code = totp.code_of(RFC_SEED, present + near)
        assert totp.matching(RFC_SEED, code, NOW, after=present) is None
    later = totp.code_of(RFC_SEED, present + 1)
    assert totp.matching(RFC_SEED, later, NOW, after=present) == present + 1


@pytest.mark.parametrize(
    "code", ["", "12345", "1234567", "12345a", "12345６", " 12345", "123456\n"]
)
def test_what_is_no_code_matches_nothing(code: str) -> None:
    assert totp.matching(RFC_SEED, code, NOW, after=0) is None


def test_the_address_is_what_apps_read() -> None:
    address = totp.address(RFC_SEED, "user 17", "Acme Pay")
    assert address.startswith("otpauth://totp/Acme%20Pay:user%2017?")
    assert f"secret={totp.text(RFC_SEED)}" in address
    assert "issuer=Acme%20Pay" in address
    assert len(totp.new_seed()) * 8 == 160
    assert totp.new_seed() != totp.new_seed()


def test_recovery_codes_are_ten_and_read_as_people_type_them() -> None:
    codes = recovery.new_codes()
    assert len(set(codes)) == 10
    one = codes[0]
    typed = f"  {one.lower().replace('-', ' ').replace('0', 'o').replace('1', 'l')} "
    assert recovery.hashed(7, typed) == recovery.hashed(7, one)
    assert recovery.hashed(8, one) != recovery.hashed(7, one)
    assert recovery.hashed(7, codes[1]) != recovery.hashed(7, one)


def bound(amount: str = "120.00", payee: str = "de_1") -> str:
    binding = Binding(Purpose.WITHDRAWAL, payee, Money.parse(amount, "EUR"))
    return binding.statement("su_1", "us_1")


def test_the_challenge_is_bound_to_amount_and_payee() -> None:
    nonce = bytes(32)
    asked = challenge(nonce, bound())
    assert asked == hashlib.sha256(nonce + bound().encode()).digest()
    others = {
        challenge(nonce, bound("120.01")),
        challenge(nonce, bound(payee="de_2")),
        challenge(b"\1" * 32, bound()),
        challenge(nonce, Binding(Purpose.FACTOR, "de_1").statement("su_1", "us_1")),
        challenge(
            nonce,
            Binding(Purpose.WITHDRAWAL, "de_1", Money.parse("120.00", "USD")).statement(
                "su_1", "us_1"
            ),
        ),
    }
    assert len(others | {asked}) == 6


def made(device: Authenticator) -> passkeys.Passkey:
    asked = b"c" * 32
    options = passkeys.creation_options(PARTY, "us_1", "user-17", asked, [])
    return passkeys.registered(PARTY, asked, device.create(options)).passkey


def asked_of(passkey: passkeys.Passkey, asked: bytes) -> dict[str, Any]:
    return passkeys.request_options(PARTY, asked, [passkey])


def test_what_the_browser_is_asked() -> None:
    options = passkeys.creation_options(PARTY, "us_1", "user-17", b"c" * 32, [])
    assert options["rp"] == {"name": "Acme", "id": "localhost"}
    assert options["attestation"] == "none"
    assert options["authenticatorSelection"]["userVerification"] == "required"
    assert base64url_to_bytes(options["user"]["id"]) == b"us_1"
    passkey = made(Authenticator())
    request = asked_of(passkey, b"q" * 32)
    assert request["userVerification"] == "required"
    assert request["rpId"] == "localhost"
    [known] = request["allowCredentials"]
    assert base64url_to_bytes(known["id"]) == passkey.id
    assert known["transports"] == ["internal"]
    again = passkeys.creation_options(PARTY, "us_1", "user-17", b"c" * 32, [passkey])
    assert [one["id"] for one in again["excludeCredentials"]] == [known["id"]]


def test_a_good_assertion_moves_the_counter() -> None:
    device = Authenticator(counter=4, handle="us_1")
    passkey = made(device)
    answer = device.get(asked_of(passkey, b"q" * 32))
    assert passkeys.asserted(PARTY, b"q" * 32, answer, passkey, "us_1", 4) == 5


LIES: dict[str, tuple[dict[str, Any], str]] = {
    "wrong origin": ({"origin": "https://localhost.example"}, "origin"),
    "another port of the origin": ({"origin": "http://localhost:8081"}, "origin"),
    "wrong relying party": ({"domain": "example.com"}, "relying-party"),
    "user not verified": ({"verifies": False}, "verification"),
    "inside another site's page": ({"cross_origin": True}, "framed"),
    "handle of another user": ({"handle": "us_2"}, "user"),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_assertion_that_lies_is_refused(lie: str) -> None:
    changes, fault = LIES[lie]
    device = Authenticator()
    passkey = made(device)
    for name, value in changes.items():
        setattr(device, name, value)
    answer = device.get(asked_of(passkey, b"q" * 32))
    with pytest.raises(passkeys.Refused) as refused:
        passkeys.asserted(PARTY, b"q" * 32, answer, passkey, "us_1", 0)
    assert (refused.value.slug, refused.value.extra["fault"]) == ("passkey-refused", fault)


@pytest.mark.parametrize("lie", [one for one in LIES if "handle" not in one])
def test_a_registration_that_lies_is_refused(lie: str) -> None:
    changes, fault = LIES[lie]
    device = Authenticator(**changes)
    options = passkeys.creation_options(PARTY, "us_1", "user-17", b"c" * 32, [])
    with pytest.raises(passkeys.Refused) as refused:
        passkeys.registered(PARTY, b"c" * 32, device.create(options))
    assert (refused.value.slug, refused.value.extra["fault"]) == ("passkey-refused", fault)


def test_another_challenge_or_ceremony_or_key_is_refused() -> None:
    device, other = Authenticator(), Authenticator()
    passkey = made(device)
    asked = asked_of(passkey, b"q" * 32)
    replayed = device.get(asked)
    created = device.create(asked)
    other.id = device.id
    cases = {
        "challenge": (b"r" * 32, replayed),
        "malformed": (b"q" * 32, created),
        "signature": (b"q" * 32, other.get(asked)),
    }
    for fault, (question, answer) in cases.items():
        with pytest.raises(passkeys.Refused) as refused:
            passkeys.asserted(PARTY, question, answer, passkey, "us_1", 0)
        assert refused.value.extra["fault"] == fault


@pytest.mark.parametrize(("stored", "told"), [(5, 5), (5, 4), (5, 0)])
def test_a_counter_that_does_not_go_on_is_a_copy(stored: int, told: int) -> None:
    device = Authenticator()
    passkey = made(device)
    device.counter, device.steps = told, 0
    answer = device.get(asked_of(passkey, b"q" * 32))
    with pytest.raises(passkeys.Refused, match="passkey-copied"):
        passkeys.asserted(PARTY, b"q" * 32, answer, passkey, "us_1", stored)


def test_a_passkey_that_does_not_count_is_taken_and_a_strangers_counter_raises_no_alarm() -> None:
    device = Authenticator(steps=0)
    passkey = made(device)
    answer = device.get(asked_of(passkey, b"q" * 32))
    assert passkeys.asserted(PARTY, b"q" * 32, answer, passkey, "us_1", 0) == 0
    stranger = Authenticator(id=device.id, steps=0)
    with pytest.raises(passkeys.Refused, match="passkey-refused"):
        passkeys.asserted(PARTY, b"q" * 32, stranger.get(asked_of(passkey, b"q" * 32)), passkey,
                          "us_1", 9)  # fmt: skip


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.binary(max_size=8).map(
        bytes_to_base64url
    ),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["id", "rawId", "type", "response", "clientDataJSON", "authenticatorData", "signature",
             "attestationObject", "userHandle", "transports", "authenticatorAttachment"]
        ),
        inner,
        max_size=6,
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(["id", "rawId", "type", "response"]), JSON), st.binary())
def test_an_answer_that_is_nonsense_is_refused_and_nothing_else(
    answer: dict[str, Any], noise: bytes
) -> None:
    device = Authenticator()
    passkey = made(device)
    good = device.get(asked_of(passkey, b"q" * 32))
    spoilt = {**good, "response": {**good["response"], "authenticatorData":
                                   bytes_to_base64url(noise)}}  # fmt: skip
    for one in (answer, {**good, **answer}, spoilt):
        told = slug_of(lambda one=one: passkeys.asserted(PARTY, b"q" * 32, one, passkey, "us_1", 9))
        assert told in ("passkey-refused", "passkey-copied")
    created = device.create({"challenge": bytes_to_base64url(b"c" * 32)})
    bad = {**created["response"], "attestationObject": bytes_to_base64url(noise)}
    for one in (answer, {**created, "response": bad}):
        told = slug_of(lambda one=one: passkeys.registered(PARTY, b"c" * 32, one))
        assert told == "passkey-refused"


def slug_of(call: Callable[[], object]) -> str | None:
    try:
        call()
    except Unprocessable as refused:
        return refused.slug
    return None


def test_client_data_that_is_no_object_is_refused() -> None:
    device = Authenticator()
    passkey = made(device)
    answer = device.get(asked_of(passkey, b"q" * 32))
    for text in ("[]", "null", "{", json.dumps("x")):
        answer["response"]["clientDataJSON"] = bytes_to_base64url(text.encode())
        with pytest.raises(PaymasterError, match="passkey-refused"):
            passkeys.asserted(PARTY, b"q" * 32, answer, passkey, "us_1", 0)


WITHDRAWAL, DESTINATION = Purpose.WITHDRAWAL, Purpose.DESTINATION


@pytest.mark.parametrize(
    ("rule", "asked", "required"),
    [
        (Rule(WITHDRAWAL, "EUR", 10_000), (WITHDRAWAL, "users", "EUR", 10_001), True),
        (Rule(WITHDRAWAL, "EUR", 10_000), (WITHDRAWAL, "users", "EUR", 10_000), False),
        (Rule(WITHDRAWAL, "EUR", 10_000), (WITHDRAWAL, "users", "USD", 90_000), False),
        (Rule(WITHDRAWAL), (WITHDRAWAL, "servers", "JPY", 1), True),
        (Rule(WITHDRAWAL), (DESTINATION, "servers", "JPY", 0), False),
        (Rule(WITHDRAWAL, applies_to="users"), (WITHDRAWAL, "servers", "EUR", 1), False),
        (Rule(WITHDRAWAL, applies_to="servers"), (WITHDRAWAL, "servers", "EUR", 1), True),
        (Rule(DESTINATION), (DESTINATION, "users", "EUR", 0), True),
        (Rule(DESTINATION, "EUR"), (DESTINATION, "users", "USD", 0), False),
    ],
)
def test_a_rule_asks_for_a_proof(rule: Rule, asked: tuple[Any, ...], *, required: bool) -> None:
    assert Policy((rule,)).requires(*asked) is required
    assert Policy().requires(*asked) is False


@pytest.mark.parametrize(
    ("domain", "origins", "good"),
    [
        ("example.com", "https://example.com", True),
        ("example.com", "https://app.example.com https://example.com:8443", True),
        ("example.com", "android:apk-key-hash:abc", True),
        ("localhost", "http://localhost:8080", True),
        ("example.com", "http://example.com", False),
        ("example.com", "https://badexample.com", False),
        ("example.com", "https://example.com/", False),
        ("example.com", "https://user@example.com", False),
        ("example.com", "", False),
        ("https://example.com", "https://example.com", False),
    ],
)
def test_relying_parties_and_their_origins(domain: str, origins: str, *, good: bool) -> None:
    domains, places = {"acme/live": domain}, {"acme/live": origins}
    if good:
        assert StepUp(relying_parties=domains, origins=places).origins == places
        return
    with pytest.raises(ValidationError):
        StepUp(relying_parties=domains, origins=places)


def test_a_relying_party_without_origins_is_refused() -> None:
    with pytest.raises(ValidationError):
        StepUp(relying_parties={"acme/live": "example.com"})
