"""The reference page of all failure codes, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from paymaster.kernel.language import LANGUAGES
from paymaster.rails.failures import FILES, Category, Failure, Fix, advice, each_file

_INTRO = """# Failure codes

<!-- Generated from src/paymaster/rails/failures; do not edit. -->

What a provider's code means: what the earner is told, in English and Chinese, what the operator is
told, and what follows. `GET /v1/withdrawals/{withdrawal}/explain` answers with the same words; see
[Status](../integrate/status.md).

A code in the category `destination` counts against the destination: after several in a row
(`limits.destination_failures`) it is paused. One that *closes* it does so at once. One in the
category `funds` concerns our own account: the payment waits, and nobody gets money back. *Again*
means that the same request may succeed later.

The words for the earner go on with those of the fix. A code that stands nowhere here is reported
as it came, under `unknown`.
"""
_TITLES = {
    "iso20022": "Bank files",
    "alipay": "Alipay",
    "sandbox_wallet": "Sandbox wallet",
    "wechat": "WeChat Pay",
    "iso": "Shared by banks",
    "ours": "Our own",
}
_CATEGORIES: Mapping[Category, str] = {
    Category.DESTINATION: "The account or wallet cannot be paid: the earner gives another one.",
    Category.PAYEE: "The payee, or the payee's bank, does not want or may not have the money.",
    Category.FUNDS: "Our own account ran short: the payment waits.",
    Category.OURS: "Our set-up or our order is wrong.",
    Category.RULES: "Law or the provider's compliance stands in the way.",
    Category.PROVIDER: "The provider could not do it, without a fault of anybody here.",
    Category.OTHER: "The provider did not say.",
}


def reference() -> str:
    """The page."""
    return "\n".join(_lines()).rstrip() + "\n"


def _lines() -> Iterator[str]:
    yield _INTRO
    yield from ("## Categories", "", "| Category | Whose business it is |", "|---|---|")
    yield from (f"| `{one.value}` | {_CATEGORIES[one]} |" for one in Category)
    yield from ("", "## Fixes", "", "| Fix | Who | The earner is told |", "|---|---|---|")
    for fix in Fix:
        said = advice(fix)
        yield f"| `{fix.value}` | {said.who} | {said.words.en} {said.words.zh} |"
    for name, entries in each_file():
        yield from ("", f"## {_TITLES.get(name, name)}", "")
        rails = [f"`{rail}`" for rail, names in FILES.items() if name in names]
        yield f"Of the rail{'s' * (len(rails) > 1)} {', '.join(rails)}."
        yield from ("", "| Code | Category | Fix | What follows | Words |", "|---|---|---|---|---|")
        yield from map(_row, entries.values())


def _row(one: Failure) -> str:
    follows = [
        word for word, so in (("again", one.retryable), ("closes it", one.closes_destination)) if so
    ]
    earner = " ".join(one.said.text(language) for language in LANGUAGES)
    operator = " ".join(one.operator.text(language) for language in LANGUAGES)
    words = f"{earner} *{operator}*"
    cells = (f"`{one.code}`", one.category.value, f"`{one.fix.value}`", ", ".join(follows), words)
    return f"| {' | '.join(cells)} |"
