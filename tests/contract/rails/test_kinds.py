"""Destinations beyond IBANs: what is refused, how they are shown, which are the same."""

from __future__ import annotations

import pytest

from paymaster.kernel.errors import Unprocessable
from paymaster.rails.destinations import check
from paymaster.rails.kinds import checksummed, routing_fault

OPENID = "oUpF8uMuAJO_M2pxb1Q9zNjWeS6o"
APPID = "wx8888888888888888"
US = {"routing": "021000021", "account": "12 345 678 9", "holder": "A. Example"}
# Published in EIP-55.
ADDRESSES = [
    "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
    "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
    "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
    "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
]


def faults(kind: str, **details: str) -> list[str]:
    """Where the faults are."""
    with pytest.raises(Unprocessable) as caught:
        check(kind, details)
    assert caught.value.slug == "destination-invalid"
    return [problem.pointer for problem in caught.value.problems]


@pytest.mark.parametrize("number", ["021000021", "122105155", "011401533", "091000019"])
def test_routing_numbers_that_exist_pass(number: str) -> None:
    assert routing_fault(number) is None


@pytest.mark.parametrize(
    "number",
    ["000000000", "999999992", "021000022", "12100021", "0210000211", "02100002x", "٠٢١٠٠٠٠٢١"],
)
def test_other_nine_digits_do_not(number: str) -> None:
    assert routing_fault(number) is not None


def test_an_account_in_the_usa() -> None:
    found = check("us-bank", US)
    assert found.mask == "****6789"
    assert found.details["account"] == "123456789"
    assert found.details["account_type"] == "checking"
    again = check("us-bank", {**US, "account": "123456789", "account_type": "savings"})
    assert again.fingerprint_source == found.fingerprint_source
    assert faults("us-bank", **{**US, "account": "1"}) == ["/details/account"]
    assert faults("us-bank", **{**US, "account_type": "loan"}) == ["/details/account_type"]
    assert faults("us-bank", **{**US, "holder": "--"}) == ["/details/holder"]
    assert faults("us-bank", **{**US, "routing": "123"}) == ["/details/routing"]


@pytest.mark.parametrize("address", ADDRESSES)
def test_addresses_carry_a_checksum_in_their_case(address: str) -> None:
    assert checksummed(address.lower()) == address
    for written in (address, address.lower(), "0x" + address[2:].upper()):
        found = check("evm", {"chain_id": "1", "address": written})
        assert found.details["address"] == address
        assert found.fingerprint_source == f"evm:{address.lower()}"
    place = next(i for i, letter in enumerate(address) if i > 1 and letter.isalpha())
    wrong = address[:place] + address[place].swapcase() + address[place + 1 :]
    assert faults("evm", chain_id="1", address=wrong) == ["/details/address"]


def test_what_is_no_address() -> None:
    assert faults("evm", chain_id="1", address="0x" + "0" * 40) == ["/details/address"]
    assert faults("evm", chain_id="1", address=ADDRESSES[0][:-1]) == ["/details/address"]
    assert faults("evm", chain_id="one", address=ADDRESSES[0]) == ["/details/chain_id"]


def test_paypal_by_exactly_one_of_three() -> None:
    found = check("paypal", {"email": "Anna@Example.com"})
    assert (found.details, found.mask) == ({"email": "anna@example.com"}, "a***@example.com")
    assert check("paypal", {"phone": "+49 151 2345678"}).mask == "****5678"
    assert check("paypal", {"paypal_id": "abcdefghjk123"}).details["paypal_id"] == "ABCDEFGHJK123"
    assert faults("paypal") == ["/details"]
    assert faults("paypal", email="a@example.com", phone="+491512345678") == ["/details"]
    assert faults("paypal", email="not an address") == ["/details/email"]
    assert faults("paypal", phone="0151 2345678") == ["/details/phone"]
    assert faults("paypal", paypal_id="short") == ["/details/paypal_id"]


def test_wechat_by_openid_of_an_app() -> None:
    found = check("wechat", {"appid": APPID, "openid": OPENID, "name": " 张  三 "})
    assert found.details["name"] == "张 三"
    assert found.mask == "oUp****eS6o"
    other = check("wechat", {"appid": "wx" + "9" * 16, "openid": OPENID})
    assert other.fingerprint_source != found.fingerprint_source
    assert faults("wechat", appid="gh_1234", openid=OPENID) == ["/details/appid"]
    assert faults("wechat", appid=APPID, openid=OPENID[:-1]) == ["/details/openid"]


def test_alipay_by_exactly_one_of_three() -> None:
    assert check("alipay", {"user_id": "2088102146225135"}).mask == "2088****5135"
    named = {"logon_id": "13800138000", "name": "张三"}
    assert check("alipay", named).mask == "1380****8000"
    assert faults("alipay", user_id="2077102146225135") == ["/details/user_id"]
    assert faults("alipay", logon_id="13800138000") == ["/details/name"]
    assert faults("alipay", logon_id="nobody", name="A") == ["/details/logon_id"]
    assert faults("alipay", open_id="short") == ["/details/open_id"]
    assert faults("alipay", user_id="2088102146225135", open_id="x" * 20) == ["/details"]


@pytest.mark.parametrize("kind", ["us-bank", "wechat", "evm"])
def test_what_is_missing_is_named(kind: str) -> None:
    assert all(pointer.startswith("/details/") for pointer in faults(kind))
