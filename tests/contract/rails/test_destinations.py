"""Destinations are checked before they are stored, and shown without giving them away."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.contract.support import OUR_IBAN, iban_of, payee_wallet

from paymaster.kernel.errors import Unprocessable
from paymaster.rails.destinations import IBAN_LENGTHS, check, iban_fault
from paymaster.rails.latin import ALLOWED, transliterate

REGISTRY_EXAMPLES = [
    "AD1200012030200359100100",
    "AT611904300234573201",
    "BE68539007547034",
    "BR1800360305000010009795493C1",
    "CH9300762011623852957",
    "DE89370400440532013000",
    "ES9121000418450200051332",
    "FR1420041010050500013M02606",
    "GB29NWBK60161331926819",
    "GR1601101250000000012300695",
    "IT60X0542811101000000123456",
    "LC55HEMM000100010012001200023015",
    "MT84MALT011000012345MTLCAST001S",
    "NL91ABNA0417164300",
    "NO9386011117947",
    "PL61109010140000071219812874",
    "SE4550000000058398257466",
    "TR330006100519786457841326",
    "UA213223130000026007233566001",
    "VA59001123000012345678",
    "XK051212012345678906",
]


@pytest.mark.parametrize("iban", REGISTRY_EXAMPLES)
def test_the_registry_s_examples_are_ibans(iban: str) -> None:
    assert iban_fault(iban) is None


@given(
    country=st.sampled_from(sorted(IBAN_LENGTHS)),
    data=st.data(),
)
def test_one_wrong_or_two_swapped_characters_are_always_found(
    country: str, data: st.DataObject
) -> None:
    length = IBAN_LENGTHS[country] - 4
    bban = data.draw(st.text("0123456789", min_size=length, max_size=length))
    iban = iban_of(country, bban)
    assert iban_fault(iban) is None
    place = data.draw(st.integers(2, len(iban) - 1))
    other = data.draw(st.sampled_from([d for d in "0123456789" if d != iban[place]]))
    assert iban_fault(iban[:place] + other + iban[place + 1 :]) is not None
    if place + 1 < len(iban) and iban[place] != iban[place + 1]:
        swapped = iban[:place] + iban[place + 1] + iban[place] + iban[place + 2 :]
        assert iban_fault(swapped) is not None


@pytest.mark.parametrize(
    ("iban", "why"),
    [
        ("DE8937040044053201300", "22 characters"),
        ("DE893704004405320130000", "22 characters"),
        ("XX89370400440532013000", "No country"),
        ("DE88370400440532013000", "check digits"),
        ("89DE370400440532013000", "two letters"),
        ("DE89-3704-0044-0532-0130-00", "two letters"),
        ("\uff24\uff2589370400440532013000", "two letters"),
        ("", "two letters"),
    ],
)
def test_what_is_wrong_is_said(iban: str, why: str) -> None:
    assert why in (iban_fault(iban) or "")


def test_an_iban_is_normalised_masked_and_fingerprinted() -> None:
    typed = {"iban": "de89 3704 0044 0532 0130 00", "holder": " Zoë   Müller ", "bic": "cobadeff"}
    checked = check("iban", typed)
    assert checked.details == {"iban": OUR_IBAN, "holder": "Zoë Müller", "bic": "COBADEFF"}
    assert checked.mask == "DE** **** 3000"
    assert checked.fingerprint_source == f"iban:{OUR_IBAN}"
    other = check("iban", {"iban": OUR_IBAN, "holder": "Somebody Else"})
    assert other.fingerprint_source == checked.fingerprint_source
    assert OUR_IBAN not in repr(checked)


def test_a_wallet_is_normalised_masked_and_fingerprinted() -> None:
    wallet = payee_wallet(42).details["wallet"]
    checked = check("sandbox-wallet", {"wallet": f" {wallet.lower()} "})
    assert checked.details == {"wallet": wallet}
    assert checked.mask == f"SW-****{wallet[-4:]}"
    assert checked.fingerprint_source == f"sandbox-wallet:{wallet}"


@pytest.mark.parametrize(
    ("kind", "details", "pointers"),
    [
        ("pigeon", {}, {"/kind"}),
        ("iban", {}, {"/details/iban", "/details/holder"}),
        ("iban", {"iban": " ", "holder": "A"}, {"/details/iban"}),
        ("iban", {"iban": OUR_IBAN, "holder": "A", "colour": "red"}, {"/details/colour"}),
        ("iban", {"iban": OUR_IBAN, "holder": "A", "a/b~": "x"}, {"/details/a~1b~0"}),
        ("iban", {"iban": "DE00", "holder": "王"}, {"/details/iban", "/details/holder"}),
        ("iban", {"iban": OUR_IBAN, "holder": "A" * 71}, {"/details/holder"}),
        ("iban", {"iban": OUR_IBAN, "holder": "A", "bic": "X"}, {"/details/bic"}),
        ("sandbox-wallet", {"wallet": "SW-0000000010"}, {"/details/wallet"}),
        ("sandbox-wallet", {"wallet": "SW-123"}, {"/details/wallet"}),
    ],
)
def test_every_fault_is_named(kind: str, details: dict[str, str], pointers: set[str]) -> None:
    with pytest.raises(Unprocessable) as caught:
        check(kind, details)
    assert caught.value.slug == "destination-invalid"
    assert {problem.pointer for problem in caught.value.problems} == pointers


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("Jürgen Müßig", "Jurgen Mussig"),
        ("Żółć & Łódź", "Zolc + Lodz"),
        ("Андрей Щёголев", "Andrey SHTyogolev"),
        ("Ελένη", "Eleni"),
        ("Nguyễn Thị", "Nguyen Thi"),
        ("a_b@c", "a-b.c"),
        ("//a///", "--a/--"),
        ("x\u0302y\tz", "xy z"),
        ("王", "."),
    ],
)
def test_names_are_written_in_latin_letters(name: str, written: str) -> None:
    assert transliterate(name) == written


@given(st.text())
def test_nothing_but_the_sepa_set_comes_out(text: str) -> None:
    written = transliterate(text)
    assert set(written) <= ALLOWED
    assert transliterate(written) == written
    assert "//" not in written
