"""One booked entry of a camt message, taken apart into statement lines."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import date

from paymaster.kernel.money import Money
from paymaster.rails.base import LineKind, StatementLine
from paymaster.rails.iso20022.xmlread import (
    Element,
    amount,
    child,
    children,
    day,
    first_text,
    sign,
    text,
)
from paymaster.rails.transport import malformed

FEE_CODES = frozenset({"CHRG", "FEES", "COMM", "COMT", "COMI", "TAXE"})
"""Sub-families of BkTxCd by which banks charge us (ExternalBankTransactionSubFamily1Code)."""

_OUT_FAMILIES = frozenset({"ICDT", "IRCT"})
_IN_FAMILIES = frozenset({"RCDT", "RRCT"})
_RETURN = "RRTN"
_NO_REFERENCE = frozenset({"NOTPROVIDED", "NONREF", "NOTAVAILABLE"})
_MAX_REMITTANCE = 500


@dataclass(frozen=True, slots=True)
class _Detail:
    """What is said about one transaction; `number` is its place in the entry."""

    amount: Money
    fee: Money
    reference: str | None
    servicer_reference: str | None
    codes: tuple[str | None, str | None]
    return_reason: str | None
    remittance: str | None
    counterparty: str | None = field(repr=False)


def lines(entry: Element) -> list[StatementLine]:
    """The lines of one `Ntry`; none when it is not booked. Raises Refusal `statement-malformed`.

    An entry that books several payments is taken apart when the details add up to it; otherwise
    it stays one line, whose reference is the file's, if the bank names it.
    """
    status = first_text(entry, ("Sts", "Cd"), ("Sts", "Prtry"), ("Sts",))
    if status is None:
        raise malformed("An entry has no status.")
    if status != "BOOK":
        return []
    direction = sign(entry)
    total = amount(child(entry, "Amt"))
    total = Money(direction * total.minor, total.currency)
    booked = day(child(entry, "BookgDt")) or day(child(entry, "ValDt"))
    if booked is None:
        raise malformed("A booked entry has no booking date.")
    reference = text(entry, "AcctSvcrRef") or text(entry, "NtryRef")
    transactions = [
        transaction
        for details in children(entry, "NtryDtls")
        for transaction in children(details, "TxDtls")
    ]
    taken_apart = _split(entry, transactions, total, reference)
    is_reversal = text(entry, "RvslInd") in {"true", "1"}
    return [_line(detail, booked, is_reversal) for detail in taken_apart]


def _split(
    entry: Element, transactions: list[Element], total: Money, reference: str | None
) -> list[_Detail]:
    codes = _codes(entry)
    remittance = text(entry, "AddtlNtryInf")
    if len(transactions) == 1:
        only = _detail(transactions[0], codes, total)
        fee = _included_charges(entry, transactions[0], total.currency)
        return [
            replace(
                only,
                amount=total + fee,
                fee=fee,
                servicer_reference=reference or only.servicer_reference,
                remittance=only.remittance or remittance,
            )
        ]
    amounts = [_own_amount(each, total) for each in transactions]
    whole = [each for each in amounts if each is not None]
    adds_up = sum(each.minor for each in whole) == total.minor
    if len(whole) > 1 and len(whole) == len(amounts) and adds_up:
        parts = [_detail(each, codes, own) for each, own in zip(transactions, whole, strict=True)]
        return list(_name_parts(parts, reference))
    batch = first_text(
        entry,
        ("NtryDtls", "Btch", "MsgId"),
        ("NtryDtls", "Btch", "PmtInfId"),
        ("NtryDtls", "TxDtls", "Refs", "MsgId"),
    )
    zero = Money.zero(total.currency)
    return [_Detail(total, zero, batch, reference, codes, None, remittance, None)]


def _included_charges(entry: Element, transaction: Element, currency: str) -> Money:
    """What the bank says it took for itself out of the amount it booked."""
    total = Money.zero(currency)
    for holder in (child(transaction, "Chrgs"), child(entry, "Chrgs")):
        records = children(holder, "Rcrd") or ([] if holder is None else [holder])
        for record in records:
            booked = child(record, "Amt")
            if text(record, "ChrgInclInd") not in {"true", "1"} or booked is None:
                continue
            if text(record, "CdtDbtInd") != "CRDT" and booked.get("Ccy") == currency:
                total += amount(booked)
        if total:
            break
    return total


def _own_amount(transaction: Element, total: Money) -> Money | None:
    """The transaction's amount in the account's currency, signed; None when it is not given."""
    for path in (("Amt",), ("AmtDtls", "TxAmt", "Amt")):
        found = child(transaction, *path)
        if found is not None and found.get("Ccy") == total.currency:
            has_sign = text(transaction, "CdtDbtInd") is not None
            direction = sign(transaction) if has_sign else (1 if total.minor >= 0 else -1)
            return Money(direction * amount(found).minor, total.currency)
    return None


def _name_parts(parts: list[_Detail], reference: str | None) -> Iterable[_Detail]:
    """Give every part a reference of its own: the servicer's when these differ."""
    own = [part.servicer_reference for part in parts]
    distinct = None not in own and len(set(own)) == len(own)
    for number, part in enumerate(parts, start=1):
        if distinct:
            yield part
        else:
            derived = f"{reference}/{number}" if reference else None
            yield replace(part, servicer_reference=derived)


def _codes(element: Element) -> tuple[str | None, str | None]:
    """Family and sub-family of the bank transaction code."""
    family = child(element, "BkTxCd", "Domn", "Fmly")
    return text(family, "Cd"), text(family, "SubFmlyCd")


def _detail(transaction: Element, codes: tuple[str | None, str | None], own: Money) -> _Detail:
    refs = child(transaction, "Refs")
    given = (text(refs, "EndToEndId"), text(refs, "InstrId"))
    named = next((each for each in given if each and each.upper() not in _NO_REFERENCE), None)
    family, sub_family = _codes(transaction)
    party = "Dbtr" if own.minor >= 0 else "Cdtr"
    unstructured = [each.text or "" for each in children(child(transaction, "RmtInf"), "Ustrd")]
    remittance = " ".join(" ".join(unstructured).split())[:_MAX_REMITTANCE]
    return _Detail(
        amount=own,
        fee=Money.zero(own.currency),
        reference=named,
        servicer_reference=text(refs, "AcctSvcrRef"),
        codes=(family or codes[0], sub_family or codes[1]),
        return_reason=first_text(
            transaction, ("RtrInf", "Rsn", "Cd"), ("RtrInf", "Rsn", "Prtry"), ("RtrInf", "RtrRsn")
        ),
        remittance=remittance or text(transaction, "RmtInf", "Strd", "CdtrRefInf", "Ref"),
        counterparty=first_text(
            transaction, ("RltdPties", party, "Nm"), ("RltdPties", party, "Pty", "Nm")
        ),
    )


def _kind(detail: _Detail, is_reversal: bool) -> LineKind:
    family, sub_family = detail.codes
    came_in = detail.amount.minor >= 0
    if came_in and (sub_family == _RETURN or detail.return_reason or is_reversal):
        return LineKind.RETURN
    if is_reversal or sub_family == _RETURN:
        return LineKind.OTHER
    if sub_family in FEE_CODES:
        return LineKind.FEE
    if came_in:
        return LineKind.INCOMING if family is None or family in _IN_FAMILIES else LineKind.OTHER
    return LineKind.PAYOUT if family is None or family in _OUT_FAMILIES else LineKind.OTHER


def _line(detail: _Detail, booked: date, is_reversal: bool) -> StatementLine:
    return StatementLine(
        line_id=detail.servicer_reference or "",
        kind=_kind(detail, is_reversal),
        amount=detail.amount,
        fee=detail.fee,
        booked_on=booked,
        reference=detail.reference,
        remittance=detail.remittance,
        code=detail.return_reason or detail.codes[1],
        counterparty=detail.counterparty,
    )


def with_ids(found: list[StatementLine], statement: str) -> list[StatementLine]:
    """Give every line an id that is the same whenever the same statement is read again.

    The servicer's reference where there is one; otherwise a digest of the statement's id and what
    the line says. The second of two lines that would be called the same is told apart by a count.
    """
    seen: dict[str, int] = {}
    named: list[StatementLine] = []
    for line in found:
        base = line.line_id or _digest(line, statement)
        seen[base] = seen.get(base, 0) + 1
        line_id = base if seen[base] == 1 else f"{base}#{seen[base]}"
        named.append(replace(line, line_id=line_id))
    return named


def _digest(line: StatementLine, statement: str) -> str:
    said = (
        statement,
        line.booked_on.isoformat(),
        line.amount.text(),
        line.amount.currency,
        line.kind.value,
        line.reference or "",
        line.remittance or "",
        line.code or "",
        line.counterparty or "",
    )
    return "~" + hashlib.sha256("\x1f".join(said).encode()).hexdigest()[:30]
