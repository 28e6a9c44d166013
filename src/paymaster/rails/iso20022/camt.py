"""Reading camt.053 statements, camt.054 notifications and camt.052 intraday reports.

Only a camt.053 proves a day: its booked balances and entries must add up. The other two bring
news early; their lines become notices and nothing more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date

from paymaster.kernel.errors import Refusal
from paymaster.kernel.money import Money
from paymaster.rails.base import (
    LineKind,
    Notice,
    Outcome,
    RailAccount,
    Statement,
    StatementLine,
    Verdict,
)
from paymaster.rails.destinations import compact
from paymaster.rails.iso20022.entry import lines, with_ids
from paymaster.rails.iso20022.xmlread import (
    Element,
    amount,
    child,
    day,
    elements,
    first_text,
    local,
    sign,
    text,
)
from paymaster.rails.transport import malformed

MESSAGES = {
    "BkToCstmrStmt": "Stmt",
    "BkToCstmrDbtCdtNtfctn": "Ntfctn",
    "BkToCstmrAcctRpt": "Rpt",
}
"""Message element -> its repeated part: camt.053, camt.054, camt.052."""

_PARTS = frozenset(MESSAGES.values())
_WATCHED = frozenset({*MESSAGES, *_PARTS, "Acct", "Bal", "Ntry", "Id", "GrpHdr", "FrToDt"})
_OPENING, _CLOSING = ("OPBD", "PRCD"), ("CLBD",)


@dataclass(slots=True)
class _Part:
    """A statement, notification or report while it is being read."""

    identifier: str | None = None
    account: str | None = None
    currency: str | None = None
    to_day: date | None = None
    balances: dict[str, list[tuple[date | None, Money]]] = field(
        default_factory=dict[str, list[tuple[date | None, Money]]]
    )
    lines: list[StatementLine] = field(default_factory=list[StatementLine])


def read(account: RailAccount, body: bytes) -> tuple[list[Notice], list[Statement]]:
    """Notices and statements of the account that a message is about.

    A bank may put several accounts into one message; those of others are left alone as long as
    ours is among them. Raises Refusal `statement-malformed` or `statement-foreign`.
    """
    parts = list(_parts(body))
    ours = [(part, kind) for part, kind in parts if _is_ours(account, part)]
    if not ours:
        raise Refusal("statement-foreign", f"The file is not about the account {account.name}.")
    notices: list[Notice] = []
    statements: list[Statement] = []
    for part, kind in ours:
        part.lines = with_ids(part.lines, part.identifier or "")
        _check_currency(account, part)
        if kind == "Stmt":
            statements.append(_statement(part))
        notices.extend(_notices(part))
    return notices, statements


def _parts(body: bytes) -> Iterable[tuple[_Part, str]]:
    """Walk the message once, dropping every entry as soon as it is read."""
    part: _Part | None = None
    complete = False
    for event, name, element in elements(body, _WATCHED):
        if event == "start":
            if name in _PARTS and _parent(element) in MESSAGES:
                part = _Part()
            continue
        if name == "GrpHdr":
            _refuse_pages(element)
        elif name in MESSAGES:
            complete = True
        elif part is not None and name in _PARTS and _parent(element) in MESSAGES:
            yield part, name
            part = None
            element.clear()
        elif part is not None and _parent(element) in _PARTS:
            _take(part, name, element)
    if not complete:
        raise malformed("This is no complete camt.052, camt.053 or camt.054 message.")


def _take(part: _Part, name: str, element: Element) -> None:
    if name == "Id":
        part.identifier = text(element)
    elif name == "Acct":
        found = first_text(element, ("Id", "IBAN"), ("Id", "Othr", "Id"))
        part.account, part.currency = compact(found or ""), text(element, "Ccy")
    elif name == "FrToDt":
        written = first_text(element, ("ToDtTm",), ("ToDt",))
        part.to_day = _day_of(written)
    elif name == "Bal":
        code = text(element, "Tp", "CdOrPrtry", "Cd") or ""
        found_amount = amount(child(element, "Amt"))
        balance = Money(sign(element) * found_amount.minor, found_amount.currency)
        part.balances.setdefault(code, []).append((day(child(element, "Dt")), balance))
    elif name == "Ntry":
        part.lines.extend(lines(element))
        element.clear()


def _parent(element: Element) -> str:
    parent = element.getparent()
    return "" if parent is None else local(parent)


def _day_of(written: str | None) -> date | None:
    try:
        return date.fromisoformat(written[:10]) if written else None
    except ValueError:
        raise malformed(f"{(written or '')[:40]!r} is not a date.") from None


def _refuse_pages(header: Element) -> None:
    pages = child(header, "MsgPgntn")
    if pages is None:
        return
    if text(pages, "PgNb") not in {"1", "00001"} or text(pages, "LastPgInd") not in {"true", "1"}:
        raise malformed("The message is one page of several: ask the bank for whole statements.")


def _is_ours(account: RailAccount, part: _Part) -> bool:
    """Whether the part is about our account; `account_id` serves banks without IBANs."""
    named = {compact(account.settings.get(name, "")) for name in ("iban", "account_id")} - {""}
    return part.account in named and part.currency in {None, account.currency}


def _check_currency(account: RailAccount, part: _Part) -> None:
    found = {line.amount.currency for line in part.lines}
    found |= {money.currency for each in part.balances.values() for _, money in each}
    if found - {account.currency}:
        raise Refusal(
            "statement-foreign", f"Amounts are in {', '.join(sorted(found))}, not only ours."
        )


def _statement(part: _Part) -> Statement:
    opening = next((part.balances[code][0] for code in _OPENING if code in part.balances), None)
    closing = next((part.balances[code][-1] for code in _CLOSING if code in part.balances), None)
    if opening is None or closing is None:
        raise malformed("The statement lacks the booked opening (OPBD) or closing (CLBD) balance.")
    on = closing[0] or part.to_day
    if on is None or part.identifier is None:
        raise malformed("The statement has no identification or no date.")
    statement = Statement(
        statement_id=part.identifier,
        account=part.account or "",
        day=on,
        opening=opening[1],
        closing=closing[1],
        lines=tuple(part.lines),
    )
    if statement.difference:
        raise malformed(
            f"Opening balance and entries miss the closing balance by {statement.difference}."
        )
    return statement


def _notices(part: _Part) -> Iterable[Notice]:
    """What booked lines prove about payments: a debit was paid, a return came back."""
    verdicts = {LineKind.PAYOUT: Verdict.PAID, LineKind.RETURN: Verdict.RETURNED}
    for line in part.lines:
        verdict = verdicts.get(line.kind)
        if verdict is None or line.reference is None:
            continue
        yield Notice(
            event_id=f"camt/{part.account}/{line.line_id}/{verdict.value}",
            outcome=Outcome(
                key=line.reference,
                verdict=verdict,
                provider_id=line.line_id,
                code=line.code if verdict is Verdict.RETURNED else None,
                detail=line.remittance if verdict is Verdict.RETURNED else None,
                amount=Money(abs(line.amount.minor), line.amount.currency),
            ),
        )
