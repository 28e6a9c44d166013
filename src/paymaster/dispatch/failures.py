"""What a provider's code means for what dispatch does next; the dictionary is with the rails."""

from __future__ import annotations

from paymaster.rails.failures import Category, Failure, Fix, dictionary, find

__all__ = ["DICTIONARY", "Category", "Failure", "Fix", "find", "waits_for_funds"]

DICTIONARY = dictionary()
"""Every known code of every rail."""


def waits_for_funds(code: str | None) -> bool:
    """Whether this definite no is about our money alone, so that the payment may be made anew."""
    return find(code).category is Category.FUNDS
