"""The failure dictionary: complete, in both languages, and one meaning for one code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from paymaster.dispatch import failures as used
from paymaster.kernel.language import LANGUAGES, language_of, preferred
from paymaster.rails import meaning
from paymaster.rails.base import Verdict
from paymaster.rails.failures import FILES, Category, Fix, advice, dictionary, each_file, find, page
from paymaster.rails.iso20022 import status
from paymaster.rails.registry import Registry
from paymaster_sandbox.chassis import magic

PROJECT = Path(__file__).resolve().parents[2]
SOURCES = PROJECT / "src"
BANK_CODE = re.compile(r"[A-Z]{2}[0-9]{2}\Z")
LEGAL = re.compile("fraud|regulat|legal|deceased|authority|suspect")
HAN = re.compile(r"[一-鿿]")

# The name under which an error carries its code.
NO_CODES = {"code"}


def literals(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value


def slugs_of_rails() -> set[str]:
    """What `send` makes a code of when the provider gave none: the slugs that rails raise."""
    found = {one.slug for one in meaning.OF.values()}
    folders = ("paymaster/rails", "paymaster/dispatch", "paymaster_sandbox")
    for file in (file for folder in folders for file in (SOURCES / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in {"NeverSent", "RailRefused", "RailUnknown"} and node.args:
                found |= set(literals(node.args[0]))
            elif name == "ApiError" and len(node.args) > 1:
                found |= set(literals(node.args[1]))
            elif name == "FileRejectedError" and node.args:
                found |= set(literals(node.args[0]))
            elif name == "Sent" and len(node.args) > 3:
                found |= set(literals(node.args[3]))
            elif name == "Outcome":
                codes = [each.value for each in node.keywords if each.arg == "code"]
                found |= {text for code in codes for text in literals(code)}
    return found - NO_CODES


def bank_codes_of_the_sandbox() -> set[str]:
    """Every text in the sandbox bank that has the shape of a reason code."""
    found: set[str] = set()
    for file in (SOURCES / "paymaster_sandbox").rglob("*.py"):
        found |= {one for one in literals(ast.parse(file.read_text())) if BANK_CODE.match(one)}
    return found


def test_every_code_that_rails_and_sandbox_can_emit_is_in_it() -> None:
    emitted = slugs_of_rails() | bank_codes_of_the_sandbox()
    assert {"provider-silent", "wallet_unknown", "FF01", "AC04", "call-timeout"} <= emitted
    assert emitted - dictionary().keys() == set()


def test_every_fate_of_the_sandbox_and_every_no_of_a_bank_is_in_it() -> None:
    fates = [*magic._WALLETS.values(), *magic._ACCOUNTS.values()]
    assert {code for _, code, _ in fates if code} <= dictionary().keys()
    noes = {code for code, verdict in status._VERDICTS.items() if verdict is Verdict.REJECTED}
    assert noes | status.DUPLICATE_CODES <= dictionary("iso20022").keys()


def test_every_rail_has_its_file() -> None:
    assert set(Registry.installed().names()) <= FILES.keys()


@pytest.mark.parametrize("code", dictionary())
def test_every_entry_speaks_both_languages(code: str) -> None:
    failure = dictionary()[code]
    assert failure.code == code
    for words in (failure.said, failure.operator, failure.earner):
        assert len(words.en) > 8
        assert not HAN.search(words.en)
        assert HAN.search(words.zh)
        assert not set(words.zh) & set(",;:!?()"), "full-width marks in Chinese"
    assert failure.earner.en.endswith(advice(failure.fix).words.en)
    assert not (failure.closes_destination and failure.retryable)


def test_what_law_stands_behind_is_not_told_to_the_earner() -> None:
    for failure in dictionary().values():
        if failure.category is Category.RULES:
            told = failure.earner.en.lower()
            assert not re.search("fraud|regulat|legal|deceased|authority|suspect", told), (
                failure.code
            )


def test_every_fix_has_somebody_who_does_it() -> None:
    assert {advice(fix).who for fix in Fix} <= {"user", "operator", "provider", "paymaster"}
    for failure in dictionary().values():
        if failure.who == "operator":
            assert failure.earner_fix in {Fix.WAIT, Fix.RETRY}
        else:
            assert failure.earner_fix is failure.fix


def test_an_unknown_code_is_reported_as_it_came_and_closes_nothing() -> None:
    failure = find("ZZ99")
    assert failure.category is Category.OTHER
    assert failure.code == "ZZ99"
    assert "ZZ99" in failure.operator.en
    assert "ZZ99" in failure.operator.zh
    assert "ZZ99" not in failure.earner.en
    assert not failure.closes_destination
    assert not failure.counts_against_destination
    assert find(None).operator.en
    assert find("").operator == find(None).operator


def test_a_status_without_a_code_is_one_of_its_kind() -> None:
    assert find("503").category is Category.PROVIDER
    assert "503" in find("503").operator.en
    assert find("404").category is Category.OURS
    assert find("²⁰³").category is Category.OTHER


def test_ms03_hides_other_codes_and_so_closes_nothing() -> None:
    assert not find("MS03").closes_destination
    assert not find("MS03").counts_against_destination


def test_a_rail_knows_its_own_codes_and_the_shared_ones() -> None:
    assert find("AC04", "iso20022").closes_destination
    assert find("AC04", "sandbox-wallet").category is Category.OTHER
    assert find("call-timeout", "sandbox-wallet").category is Category.PROVIDER
    assert find("AC04", "a rail of a plugin").closes_destination


def test_dispatch_uses_the_same() -> None:
    assert dictionary() == used.DICTIONARY
    assert {name for name, _ in each_file()} == {
        "alipay",
        "iso20022",
        "sandbox_wallet",
        "wechat",
        "iso",
        "ours",
    }


def test_the_page_is_made_from_the_data() -> None:
    shown = (PROJECT / "docs" / "reference" / "failures.md").read_text()
    assert shown == page.reference(), "write paymaster.rails.failures.page.reference() to that file"


@pytest.mark.parametrize(
    ("header", "language"),
    [
        (None, None),
        ("", None),
        ("*", None),
        ("fr, de;q=0.5", None),
        ("zh", "zh"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-GB,zh;q=0.9", "en"),
        ("fr, zh_TW;q=0.2", "zh"),
        ("zh;q=0, en;q=0.1", "en"),
        ("zh;q=0.2,en;q=0.4", "en"),
        ("zh;q=two", None),
        ("en, zh", "en"),
    ],
)
def test_the_language_that_a_browser_asks_for(header: str | None, language: str | None) -> None:
    assert preferred(header) == language


def test_the_language_of_a_profile() -> None:
    assert [language_of(tag) for tag in ("zh-Hans-CN", "ZH", "en", "fr", None)] == [
        "zh", "zh", "en", "en", "en",
    ]  # fmt: skip
    assert LANGUAGES == ("en", "zh")
