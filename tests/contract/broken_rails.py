"""Rails with one defect each. The suite must catch every one of them, by name.

Each is a real rail with a single change, of a kind that payment systems have really shipped with.
"""

from __future__ import annotations

from tests.contract import broken_answers, broken_orders
from tests.contract.defects import BROKEN, BrokenRail

DEFECTS = (broken_orders, broken_answers)
"""The modules whose import registers the defective rails."""

__all__ = ["BROKEN", "DEFECTS", "BrokenRail"]
