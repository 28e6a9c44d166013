"""Bank accounts in the USA, wallets and chains: how a destination of each is checked and shown."""

from __future__ import annotations

import re
from collections.abc import Mapping

from Crypto.Hash import keccak

from paymaster.kernel.errors import Problem
from paymaster.rails.kind import Checked, Kind, compact

_ROUTING_RANGES = ((0, 12), (21, 32), (61, 72), (80, 80))
"""First two digits of routing numbers that are issued: Federal Reserve districts, thrifts,
electronic transactions, traveller's cheques; 00 is the government's."""

_ACCOUNT = re.compile(r"[0-9A-Z-]{4,17}\Z", re.ASCII)
_EMAIL = re.compile(r"[^@\s]{1,64}@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+\Z", re.ASCII)
_PHONE = re.compile(r"\+[1-9][0-9]{6,14}\Z", re.ASCII)
_PAYPAL_ID = re.compile(r"[A-Z0-9]{13}\Z", re.ASCII)
_APPID = re.compile(r"wx[0-9a-f]{16}\Z", re.ASCII)
_OPENID = re.compile(r"o[A-Za-z0-9_-]{27}\Z", re.ASCII)
_ALIPAY_USER = re.compile(r"2088[0-9]{12}\Z", re.ASCII)
_ALIPAY_OPEN = re.compile(r"[A-Za-z0-9_-]{20,128}\Z", re.ASCII)
_MAINLAND_PHONE = re.compile(r"1[3-9][0-9]{9}\Z", re.ASCII)
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}\Z", re.ASCII)
_CHAIN = re.compile(r"[1-9][0-9]{0,17}\Z", re.ASCII)
_MOST_HOLDER = 100


def _holder(details: Mapping[str, str], field: str, problems: list[Problem]) -> str:
    """A person's name, blanks in order."""
    name = " ".join(details[field].split())
    if not 1 <= len(name) <= _MOST_HOLDER or not any(letter.isalpha() for letter in name):
        problems.append(
            Problem(f"/details/{field}", f"Write the name, at most {_MOST_HOLDER} characters.")
        )
    return name


def routing_fault(number: str) -> str | None:
    """Why this is no ABA routing number; None when it is one.

    Weights 3, 7, 1 and the sum divisible by ten (ABA routing number policy); the checksum alone
    would let 000000000 pass, so the ranges that are issued count too.
    """
    if len(number) != 9 or not (number.isascii() and number.isdigit()):
        return "A routing number has nine digits."
    if not int(number) or not any(low <= int(number[:2]) <= high for low, high in _ROUTING_RANGES):
        return "No routing number begins so."
    if sum(int(digit) * weight for digit, weight in zip(number, (3, 7, 1) * 3, strict=True)) % 10:
        return "The check digit does not match: one or more digits are wrong."
    return None


def _us_bank(details: Mapping[str, str], problems: list[Problem]) -> Checked | None:
    routing, account = compact(details["routing"]), compact(details["account"])
    kind = details.get("account_type", "checking")
    fault = routing_fault(routing)
    if fault is not None:
        problems.append(Problem("/details/routing", fault))
    if _ACCOUNT.match(account) is None:
        problems.append(Problem("/details/account", "Write 4 to 17 letters, digits or -."))
    if kind not in ("checking", "savings"):
        problems.append(Problem("/details/account_type", "It is checking or savings."))
    holder = _holder(details, "holder", problems)
    if problems:
        return None
    normal = {"routing": routing, "account": account, "account_type": kind, "holder": holder}
    return Checked(normal, f"****{account[-4:]}", f"us-bank:{routing}:{account}")


def _one_of(
    details: Mapping[str, str], names: tuple[str, ...], problems: list[Problem]
) -> tuple[str, str]:
    """The one that is given, and its value."""
    given = [name for name in names if details.get(name)]
    if len(given) != 1:
        problems.append(Problem("/details", f"Give exactly one of {', '.join(names)}."))
        return "", ""
    return given[0], details[given[0]].strip()


def mask_email(address: str) -> str:
    """The first letter and the domain, for example `a***@example.com`."""
    name, _, domain = address.partition("@")
    return f"{name[:1]}***@{domain}"


def _paypal(details: Mapping[str, str], problems: list[Problem]) -> Checked | None:
    which, value = _one_of(details, ("email", "phone", "paypal_id"), problems)
    if which == "email":
        value = value.lower()
        if _EMAIL.match(value) is None or len(value) > 127:
            problems.append(Problem("/details/email", "Write an address like name@example.com."))
    elif which == "phone":
        value = "".join(value.split())
        if _PHONE.match(value) is None:
            problems.append(Problem("/details/phone", "Write it with +, country code and digits."))
    elif which == "paypal_id":
        value = compact(value)
        if _PAYPAL_ID.match(value) is None:
            problems.append(Problem("/details/paypal_id", "It has 13 capital letters and digits."))
    if problems:
        return None
    mask = mask_email(value) if which == "email" else f"****{value[-4:]}"
    return Checked({which: value}, mask, f"paypal:{which}:{value}")


def _wechat(details: Mapping[str, str], problems: list[Problem]) -> Checked | None:
    appid, openid = details["appid"].strip(), details["openid"].strip()
    if _APPID.match(appid) is None:
        problems.append(Problem("/details/appid", "It is wx and 16 of 0-9 and a-f."))
    if _OPENID.match(openid) is None:
        problems.append(
            Problem("/details/openid", "It is o and 27 letters, digits, - or _; links give it.")
        )
    normal = {"appid": appid, "openid": openid}
    if details.get("name"):
        normal["name"] = _holder(details, "name", problems)
    if problems:
        return None
    return Checked(normal, f"{openid[:3]}****{openid[-4:]}", f"wechat:{appid}:{openid}")


def _alipay(details: Mapping[str, str], problems: list[Problem]) -> Checked | None:
    which, value = _one_of(details, ("user_id", "open_id", "logon_id"), problems)
    normal = {which: value}
    if which == "user_id" and _ALIPAY_USER.match(value) is None:
        problems.append(Problem("/details/user_id", "It is 2088 and twelve digits."))
    if which == "open_id" and _ALIPAY_OPEN.match(value) is None:
        problems.append(Problem("/details/open_id", "It has 20 to 128 letters, digits, - or _."))
    if which == "logon_id":
        normal[which] = value = value.lower()
        if _EMAIL.match(value) is None and _MAINLAND_PHONE.match(value) is None:
            problems.append(
                Problem("/details/logon_id", "Write an email address or a mobile number.")
            )
        if not details.get("name"):
            problems.append(Problem("/details/name", "Alipay asks for the name beside a logon id."))
    if details.get("name"):
        normal["name"] = _holder(details, "name", problems)
    if problems:
        return None
    mask = mask_email(value) if "@" in value else f"{value[:4]}****{value[-4:]}"
    return Checked(normal, mask, f"alipay:{which}:{value}")


def checksummed(address: str) -> str:
    """An EVM address in the mixed case that carries its checksum (EIP-55)."""
    low = address[2:].lower()
    digest = keccak.new(data=low.encode(), digest_bits=256).hexdigest()
    return "0x" + "".join(
        letter.upper() if int(nibble, 16) >= 8 else letter
        for letter, nibble in zip(low, digest, strict=False)
    )


def _evm(details: Mapping[str, str], problems: list[Problem]) -> Checked | None:
    chain, address = details["chain_id"].strip(), details["address"].strip()
    if _CHAIN.match(chain) is None:
        problems.append(Problem("/details/chain_id", "Write the chain's number (EIP-155)."))
    if _ADDRESS.match(address) is None:
        problems.append(Problem("/details/address", "An address is 0x and 40 of 0-9 and a-f."))
    elif not int(address, 16):
        problems.append(Problem("/details/address", "Nobody has the key of the zero address."))
    elif address[2:] not in (address[2:].lower(), address[2:].upper()) and (
        checksummed(address) != address
    ):
        problems.append(
            Problem("/details/address", "The checksum does not match: a character is mistyped.")
        )
    if problems:
        return None
    normal = {"chain_id": chain, "address": checksummed(address)}
    mask = f"{normal['address'][:6]}****{address[-4:]}"
    return Checked(normal, mask, f"evm:{address.lower()}")


KINDS: tuple[Kind, ...] = (
    Kind("us-bank", ("routing", "account", "holder"), ("account_type",), _us_bank),
    Kind("wechat", ("appid", "openid"), ("name",), _wechat),
    Kind("alipay", (), ("user_id", "open_id", "logon_id", "name"), _alipay),
    Kind("paypal", (), ("email", "phone", "paypal_id"), _paypal),
    Kind("evm", ("chain_id", "address"), (), _evm),
)
"""All of them."""
