"""What a provider's code means: for the earner, for the operator, and for what happens next.

The entries are data, one TOML file for each rail, and shared ones for codes that several rails
speak (`iso`) and for what we say ourselves before anything has left (`ours`). A new rail adds its
file and a line in `FILES`. The page docs/reference/failures.md is made from them.

A code is looked up in the files of its rail. Where the rail is not known all are asked; so a code
that stands in two files must have the same consequences in both, which is checked when they are
read. A code that is in none is reported as it came.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Final, Literal

from paymaster.kernel.errors import Broken
from paymaster.kernel.language import Language, Words

FILES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "alipay": ("alipay", "ours"),
        "iso20022": ("iso20022", "iso", "ours"),
        "iso20022-unique": ("iso20022", "iso", "ours"),
        "sandbox-wallet": ("sandbox_wallet", "ours"),
        "wechat-pay": ("wechat", "ours"),
    }
)
"""For each rail the files that know its codes, the rail's own first."""

SHARED: Final = ("iso", "ours")

Who = Literal["user", "operator", "provider", "paymaster", "nobody"]
"""Who acts next."""


class Category(StrEnum):
    """Whose business a failure is."""

    DESTINATION = "destination"
    """The account or wallet cannot be paid: the earner gives another one."""
    PAYEE = "payee"
    """The payee, or the payee's bank, does not want or may not have the money."""
    FUNDS = "funds"
    """Our own account ran short: nothing the earner could do, so the payment waits."""
    OURS = "ours"
    """Our set-up or our order is wrong."""
    RULES = "rules"
    """Law or the provider's compliance stands in the way."""
    PROVIDER = "provider"
    """The provider could not do it, without a fault of anybody here."""
    OTHER = "other"
    """The provider did not say."""


class Fix(StrEnum):
    """What has to be done, as a code that an app can turn into a button."""

    REPLACE_DESTINATION = "replace-destination"
    CONTACT_BANK = "contact-bank"
    COMPLETE_DETAILS = "complete-details"
    COMPLETE_KYC = "complete-kyc"
    OTHER_AMOUNT = "other-amount"
    RETRY = "retry"
    WAIT = "wait"
    CONTACT_SUPPORT = "contact-support"
    TOP_UP_FLOAT = "top-up-float"
    CHECK_SETUP = "check-setup"
    ASK_PROVIDER = "ask-provider"


@dataclass(frozen=True, slots=True)
class Advice:
    """Who has to do it, and what the earner is told to do."""

    who: Who
    words: Words


@cache
def advice(fix: Fix) -> Advice:
    """Who does it, and what the earner is told. Raises Broken `failures-malformed`."""
    try:
        entry = _toml("advice")[fix.value]
        return Advice(entry["who"], _words(entry["words"]))
    except (KeyError, TypeError, ValueError) as error:
        raise Broken("failures-malformed", f"advice.toml, {fix.value}: {error!r}.") from error


@dataclass(frozen=True, slots=True)
class Failure:
    """`retryable`: the same request may succeed later. `closes_destination`: never pay it again.

    `said` is what went wrong in the earner's words; with what to do it is `earner`.
    """

    code: str
    category: Category
    fix: Fix
    said: Words
    operator: Words
    retryable: bool = False
    closes_destination: bool = False

    @property
    def earner(self) -> Words:
        """What went wrong, and what the earner does about it."""
        return self.said.and_then(advice(self.fix).words)

    @property
    def who(self) -> Who:
        """Who has to do something about it."""
        return advice(self.fix).who

    @property
    def earner_fix(self) -> Fix:
        """The fix as the earner sees it: what is not his to do he waits for, or tries anew."""
        if self.who == "user":
            return self.fix
        return Fix.RETRY if self.fix is Fix.CHECK_SETUP else Fix.WAIT

    @property
    def counts_against_destination(self) -> bool:
        """Whether several of these in a row pause the destination."""
        return self.category is Category.DESTINATION

    def wire(self, language: Language, *, staff: bool = False) -> dict[str, Any]:
        """For JSON; an earner is shown neither the operator's words nor the provider's category."""
        said: dict[str, Any] = {
            "code": self.code if staff else None,
            "message": self.earner.text(language),
            "fix": (self.fix if staff else self.earner_fix).value,
            "retryable": self.retryable,
        }
        return {
            **said,
            "category": self.category.value if staff else None,
            "operator": self.operator.text(language) if staff else None,
            "closes_destination": self.closes_destination if staff else None,
        }


@cache
def load(name: str) -> Mapping[str, Failure]:
    """The entries of a file by code. Raises Broken `failures-malformed`."""
    found: dict[str, Failure] = {}
    for code, entry in _toml(name).items():
        try:
            found[code] = _read(code, entry)
        except (KeyError, TypeError, ValueError) as error:
            raise Broken("failures-malformed", f"{name}.toml, {code}: {error!r}.") from error
    return MappingProxyType(found)


def _toml(name: str) -> dict[str, Any]:
    text = files("paymaster.rails.failures").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _read(code: str, entry: Mapping[str, Any]) -> Failure:
    unknown = entry.keys() - {"category", "fix", "earner", "operator", "retryable", "closes"}
    if unknown:
        raise ValueError(f"unknown {sorted(unknown)}")
    return Failure(
        code,
        Category(entry["category"]),
        Fix(entry["fix"]),
        _words(entry["earner"]),
        _words(entry["operator"]),
        bool(entry.get("retryable", False)),
        bool(entry.get("closes", False)),
    )


def _words(pair: Sequence[str]) -> Words:
    english, chinese = pair
    if not english.strip() or not chinese.strip():
        raise ValueError("a language is missing")
    return Words(english, chinese)


@cache
def dictionary(rail: str | None = None) -> Mapping[str, Failure]:
    """Every known code of a rail, or of all.

    Raises Broken `failures-malformed` when a code has other consequences in another file.
    """
    names = FILES.get(rail or "", _all_files())
    found: dict[str, Failure] = {}
    for name in reversed(names):
        for code, failure in load(name).items():
            other = found.get(code)
            if (
                rail is None
                and other is not None
                and _consequences(other) != _consequences(failure)
            ):
                raise Broken("failures-malformed", f"{code} means two things; see {name}.toml.")
            found[code] = failure
    return MappingProxyType(dict(sorted(found.items())))


def _all_files() -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for names in FILES.values() for name in names))


def _consequences(failure: Failure) -> tuple[Category, bool, bool]:
    return failure.category, failure.retryable, failure.closes_destination


def each_file() -> Iterator[tuple[str, Mapping[str, Failure]]]:
    """The files and their entries, in the order of the page."""
    for name in sorted(_all_files(), key=lambda one: (one in SHARED, one)):
        yield name, load(name)


def find(code: str | None, rail: str | None = None) -> Failure:
    """What a code means; for one that is not known, that it is not.

    A reason as withdrawals carry it, `code: detail`, is understood too, and the status of an HTTP
    answer that came without a code of the provider's own.
    """
    code = code.partition(":")[0].strip() if code else ""
    known = dictionary(rail if rail in FILES else None)
    found = known.get(code)
    if found is not None:
        return found
    if len(code) == _STATUS_DIGITS and code.isascii() and code.isdecimal():
        found = known.get(f"http-{code[0]}xx")
    found = found or known["unknown" if code else "no-code"]
    said = Words(*(text.replace("{code}", code) for text in (found.operator.en, found.operator.zh)))
    return replace(found, code=code, operator=said)


_STATUS_DIGITS = 3
