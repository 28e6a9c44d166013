"""Passkeys: what a browser is asked, and whether its answer holds (W3C WebAuthn level 3, 7.1, 7.2).

The library checks type, challenge, origin, relying party, presence, verification and signature.
Here are added: the counter after the signature (before it, a stranger could raise the alarm), the
user handle, and that the page was not framed by another site's.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec
from cbor2 import CBORError
from cryptography.exceptions import UnsupportedAlgorithm as KeyUnsupported
from webauthn import (
    generate_authentication_options,
    generate_registration_options,
    options_to_json,
    verify_authentication_response,
    verify_registration_response,
)
from webauthn.helpers import base64url_to_bytes, bytes_to_base64url
from webauthn.helpers.exceptions import WebAuthnException
from webauthn.helpers.structs import (
    AttestationConveyancePreference,
    AuthenticatorSelectionCriteria,
    AuthenticatorTransport,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from paymaster.db.cells import Environment
from paymaster.kernel.errors import Unprocessable
from paymaster.settings import StepUp

MAX_COUNTER = 2**32 - 1
_TRANSPORTS = frozenset(one.value for one in AuthenticatorTransport)

_MALFORMED = (
    WebAuthnException,
    CBORError,
    KeyUnsupported,
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    AttributeError,
    OverflowError,
    binascii.Error,
)
"""What the library raises for answers that no authenticator gives."""

_FAULTS = (
    ("Client data challenge", "challenge"),
    ("Unexpected client data type", "type"),
    ("Unexpected client data origin", "origin"),
    ("Unexpected RP ID hash", "relying-party"),
    ("User was not present", "presence"),
    ("User presence", "presence"),
    ("User verification", "verification"),
    ("Could not verify authentication signature", "signature"),
)
"""How the library's messages begin, and what is told of them; the rest may quote the answer."""

_SAID = {
    "challenge": "It answers another challenge.",
    "type": "It is an answer to another question.",
    "origin": "It was given on another site.",
    "framed": "It was given on a page inside another site's page.",
    "relying-party": "It is for another relying party.",
    "presence": "Nobody was there.",
    "verification": "The passkey did not verify its user.",
    "signature": "The signature does not fit the key.",
    "user": "It is another user's.",
    "malformed": "It cannot be read.",
}


class Refused(Unprocessable):
    """A passkey's answer does not hold: `passkey-refused`, or `passkey-copied`."""


@dataclass(frozen=True, slots=True)
class RelyingParty:
    """Whose passkeys these are: a domain, and the sites that may ask for them."""

    id: str
    name: str
    origins: tuple[str, ...]


def party_of(settings: StepUp, environment: Environment) -> RelyingParty | None:
    """The relying party of an environment; None when it offers no passkeys."""
    name = f"{environment.tenant}/{environment.mode}"
    domain = settings.relying_parties.get(name)
    if domain is None:
        return None
    return RelyingParty(domain, settings.name, tuple(settings.origins[name].split()))


class Passkey(msgspec.Struct, frozen=True):
    """What is kept of a passkey, sealed."""

    id: bytes
    public_key: bytes
    transports: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Registered:
    """A passkey that was just made."""

    passkey: Passkey = field(repr=False)
    counter: int


def creation_options(
    party: RelyingParty, user: str, account: str, challenge: bytes, known: Sequence[Passkey]
) -> dict[str, Any]:
    """For `navigator.credentials.create`, as JSON. `user` is our id, `account` what people see."""
    options = generate_registration_options(
        rp_id=party.id,
        rp_name=party.name,
        user_id=user.encode(),
        user_name=account,
        challenge=challenge,
        attestation=AttestationConveyancePreference.NONE,
        authenticator_selection=AuthenticatorSelectionCriteria(
            resident_key=ResidentKeyRequirement.PREFERRED,
            user_verification=UserVerificationRequirement.REQUIRED,
        ),
        exclude_credentials=_described(known),
    )
    return json.loads(options_to_json(options))


def request_options(
    party: RelyingParty, challenge: bytes, known: Sequence[Passkey]
) -> dict[str, Any]:
    """For `navigator.credentials.get`, as JSON."""
    options = generate_authentication_options(
        rp_id=party.id,
        challenge=challenge,
        allow_credentials=_described(known),
        user_verification=UserVerificationRequirement.REQUIRED,
    )
    return json.loads(options_to_json(options))


def _described(known: Sequence[Passkey]) -> list[PublicKeyCredentialDescriptor]:
    return [
        PublicKeyCredentialDescriptor(
            id=one.id, transports=[AuthenticatorTransport(name) for name in one.transports]
        )
        for one in known
    ]


def base64url(data: bytes) -> str:
    """As browsers write bytes in JSON, without padding."""
    return bytes_to_base64url(data)


def registered(party: RelyingParty, challenge: bytes, answer: Mapping[str, Any]) -> Registered:
    """Check what `create` gave. Raises Refused `passkey-refused`."""
    try:
        _check_frame(answer)
        made = verify_registration_response(
            credential=dict(answer),
            expected_challenge=challenge,
            expected_rp_id=party.id,
            expected_origin=list(party.origins),
            require_user_verification=True,
        )
        transports = _transports(answer)
    except _MALFORMED as error:
        raise refused(_fault(error)) from None
    passkey = Passkey(made.credential_id, made.credential_public_key, transports)
    return Registered(passkey, made.sign_count)


def credential_id(answer: Mapping[str, Any]) -> bytes:
    """Which passkey an answer claims to be. Raises Refused `passkey-refused`."""
    try:
        return base64url_to_bytes(answer["id"])
    except _MALFORMED:
        raise refused("malformed") from None


def asserted(
    party: RelyingParty,
    challenge: bytes,
    answer: Mapping[str, Any],
    passkey: Passkey,
    user: str,
    counter: int,
) -> int:
    """Check what `get` gave; the passkey's new counter.

    Raises Refused `passkey-refused`, or `passkey-copied` when the signature is good but the
    counter did not go on: two devices hold one key. Passkeys that always say 0 do not count.
    """
    try:
        _check_frame(answer)
        handle = answer["response"].get("userHandle")
        if handle and base64url_to_bytes(handle) != user.encode():
            raise refused("user")
        done = verify_authentication_response(
            credential=dict(answer),
            expected_challenge=challenge,
            expected_rp_id=party.id,
            expected_origin=list(party.origins),
            credential_public_key=passkey.public_key,
            credential_current_sign_count=0,
            require_user_verification=True,
        )
    except _MALFORMED as error:
        raise refused(_fault(error)) from None
    if done.new_sign_count <= counter and (done.new_sign_count or counter):
        raise Refused(
            "passkey-copied",
            "The passkey's counter did not go on: another device may hold the same key. Remove "
            "this passkey and use another factor.",
        )
    return min(done.new_sign_count, MAX_COUNTER)


def _check_frame(answer: Mapping[str, Any]) -> None:
    """Raises Refused `passkey-refused`: the library does not look at `crossOrigin`."""
    data: object = json.loads(base64url_to_bytes(answer["response"]["clientDataJSON"]))
    if not isinstance(data, dict):
        raise refused("malformed")
    said = cast("dict[str, object]", data)
    if said.get("crossOrigin") not in (None, False) or said.get("topOrigin") is not None:
        raise refused("framed")


def _transports(answer: Mapping[str, Any]) -> tuple[str, ...]:
    """How the passkey can be reached, for the next question; what we do not know is left out."""
    given: object = answer["response"].get("transports") or ()
    if not isinstance(given, list | tuple):
        raise refused("malformed")
    named = {one for one in cast("Sequence[object]", given) if isinstance(one, str)}
    return tuple(sorted(named & _TRANSPORTS))


def _fault(error: Exception) -> str:
    said = str(error)
    return next((fault for start, fault in _FAULTS if said.startswith(start)), "malformed")


def refused(fault: str) -> Refused:
    """The refusal of an answer; `fault` is a key of `_SAID`."""
    return Refused(
        "passkey-refused",
        f"The passkey's answer does not hold. {_SAID[fault]}",
        extra={"fault": fault},
    )
