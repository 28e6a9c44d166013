"""The page that tells people what to do knows every reason for which something needs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from paymaster.dispatch import outcome
from paymaster.payin import outcome as payin_outcome
from paymaster.payin import refund

PAGE = Path(__file__).parents[2] / "docs" / "operate" / "unplaced.md"
OWN = {
    "notice-unmatched", "attempt-unknown", "notice-poisoned", "notice-malformed", "sealed-damaged",
    "kek-unknown", "file-unreadable", "statement-malformed", "statement-foreign",
}  # fmt: skip


@pytest.mark.parametrize(
    "slug", sorted(OWN | outcome.BREAKS | payin_outcome.BREAKS | refund.BREAKS)
)
def test_each_reason_has_a_row(slug: str) -> None:
    rows = [line.split("|")[1] for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert sum(f"`{slug}`" in row for row in rows) == 1
