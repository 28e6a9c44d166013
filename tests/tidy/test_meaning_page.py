"""The table of what each failure means: shown as it is, and used by whoever raises."""

from __future__ import annotations

import re
from pathlib import Path

from paymaster.rails import meaning

PROJECT = Path(__file__).resolve().parents[2]
RAILS = PROJECT / "src" / "paymaster" / "rails"
ELSEWHERE = {
    "alipay/prepare.py", "iso20022/pain001.py", "sandbox_wallet/rail.py", "wechat/prepare.py",
}  # fmt: skip
"""Where payments are refused one by one, with a problem for each: `instruction-refused`."""


def test_the_page_shows_the_table() -> None:
    page = (PROJECT / "docs" / "concepts" / "dispatch.md").read_text()
    assert meaning.page() in page, "put what `meaning.page()` gives into the page"


def test_no_rail_decides_by_itself_what_a_failure_means() -> None:
    raised = re.compile(r"\b(NeverSent|RailUnknown|RailRefused)\(\s*\"([a-z-]+)\"")
    found = {
        (str(file.relative_to(RAILS)), match[2])
        for file in RAILS.rglob("*.py")
        for match in raised.finditer(file.read_text())
    }
    assert found <= {(name, "instruction-refused") for name in ELSEWHERE}
