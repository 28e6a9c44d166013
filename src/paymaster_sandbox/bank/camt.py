"""Writes account statements (camt.053.001.08) and notices of returns (camt.054.001.08)."""

from dataclasses import dataclass

from paymaster_sandbox.bank.xml import document, leaf, tag
from paymaster_sandbox.chassis.money import format_minor
from paymaster_sandbox.chassis.store import Tx

_NAMESPACE = "urn:iso:std:iso:20022:tech:xsd:camt."

_CODES = {
    "payment": ("ICDT", "ESCT"),
    "return": ("ICDT", "RRTN"),
    "incoming": ("RCDT", "ESCT"),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One booked line. `amount` is signed minor units; the ids are those of the original order."""

    reference: str
    kind: str
    amount: int
    booked_on: str
    end_to_end_id: str | None
    party_name: str | None
    party_iban: str | None
    remittance: str | None
    code: str | None
    message_id: str | None
    block_id: str | None
    instruction_id: str | None


@dataclass(frozen=True, slots=True)
class Paper:
    """What stands on top of a statement or notice."""

    message_id: str
    created: str
    iban: str
    currency: str
    holder: str
    date: str


SELECT = (
    "SELECT e.reference, e.kind, e.amount, e.booked_on, e.end_to_end_id, e.party_name,"
    " e.party_iban, e.remittance, e.code, p.message_id, p.block_id, p.instruction_id"
    " FROM bank_entry e LEFT JOIN bank_payment p ON p.id = e.payment "
)


def entries(tx: Tx, where: str, *values: object) -> list[Entry]:
    """The entries that a condition selects, in the order of booking."""
    return [Entry(*row) for row in tx.all(f"{SELECT}{where} ORDER BY e.seq", *values)]


def write_statement(paper: Paper, number: int, opening: int, booked: list[Entry]) -> bytes:
    """A camt.053 of one account and day, with opening and closing booked balance."""
    closing = opening + sum(entry.amount for entry in booked)
    statement = tag(
        "Stmt",
        leaf("Id", f"{paper.message_id}-1"),
        leaf("ElctrncSeqNb", number),
        leaf("CreDtTm", paper.created),
        _period(paper.date),
        _account(paper),
        _balance("OPBD", opening, paper),
        _balance("CLBD", closing, paper),
        *(_entry(entry, paper) for entry in booked),
    )
    return document(
        f"{_NAMESPACE}053.001.08",
        ["<BkToCstmrStmt>", _header(paper), statement, "</BkToCstmrStmt>"],
    )


def write_notice(paper: Paper, booked: list[Entry]) -> bytes:
    """A camt.054 that tells of entries before their statement does."""
    notice = tag(
        "Ntfctn",
        leaf("Id", f"{paper.message_id}-1"),
        leaf("CreDtTm", paper.created),
        _account(paper),
        *(_entry(entry, paper) for entry in booked),
    )
    return document(
        f"{_NAMESPACE}054.001.08",
        ["<BkToCstmrDbtCdtNtfctn>", _header(paper), notice, "</BkToCstmrDbtCdtNtfctn>"],
    )


def _header(paper: Paper) -> str:
    return tag("GrpHdr", leaf("MsgId", paper.message_id), leaf("CreDtTm", paper.created))


def _period(date: str) -> str:
    return tag("FrToDt", leaf("FrDtTm", f"{date}T00:00:00Z"), leaf("ToDtTm", f"{date}T23:59:59Z"))


def _account(paper: Paper) -> str:
    return tag(
        "Acct",
        tag("Id", leaf("IBAN", paper.iban)),
        leaf("Ccy", paper.currency),
        tag("Ownr", leaf("Nm", paper.holder)),
    )


def _sign(amount: int) -> str:
    return leaf("CdtDbtInd", "DBIT" if amount < 0 else "CRDT")


def _amount(amount: int, currency: str) -> str:
    return leaf("Amt", format_minor(abs(amount), currency), Ccy=currency)


def _balance(code: str, amount: int, paper: Paper) -> str:
    return tag(
        "Bal",
        tag("Tp", tag("CdOrPrtry", leaf("Cd", code))),
        _amount(amount, paper.currency),
        _sign(amount),
        tag("Dt", leaf("Dt", paper.date)),
    )


def _entry(entry: Entry, paper: Paper) -> str:
    family, sub_family = _CODES[entry.kind]
    codes = tag("Fmly", leaf("Cd", family), leaf("SubFmlyCd", sub_family))
    return tag(
        "Ntry",
        _amount(entry.amount, paper.currency),
        _sign(entry.amount),
        tag("Sts", leaf("Cd", "BOOK")),
        tag("BookgDt", leaf("Dt", entry.booked_on)),
        tag("ValDt", leaf("Dt", entry.booked_on)),
        leaf("AcctSvcrRef", entry.reference),
        tag("BkTxCd", tag("Domn", leaf("Cd", "PMNT"), codes)),
        tag("NtryDtls", _details(entry, paper)),
    )


def _details(entry: Entry, paper: Paper) -> str:
    return tag(
        "TxDtls",
        tag(
            "Refs",
            leaf("MsgId", entry.message_id),
            leaf("AcctSvcrRef", entry.reference),
            leaf("PmtInfId", entry.block_id),
            leaf("InstrId", entry.instruction_id),
            leaf("EndToEndId", entry.end_to_end_id),
        ),
        _amount(entry.amount, paper.currency),
        _sign(entry.amount),
        tag("RltdPties", _parties(entry, paper)),
        tag("RmtInf", leaf("Ustrd", entry.remittance)),
        tag("RtrInf", tag("Rsn", leaf("Cd", entry.code))),
    )


def _parties(entry: Entry, paper: Paper) -> str:
    """Debtor and creditor of the transfer; a return names those of the original."""
    us = (paper.holder, paper.iban)
    them = (entry.party_name, entry.party_iban)
    debtor, creditor = (them, us) if entry.kind == "incoming" else (us, them)
    return _party("Dbtr", *debtor) + _party("Cdtr", *creditor)


def _party(role: str, name: str | None, iban: str | None) -> str:
    return tag(role, tag("Pty", leaf("Nm", name))) + tag(
        f"{role}Acct", tag("Id", leaf("IBAN", iban))
    )
