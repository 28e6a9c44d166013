"""Writing a pain.001 customer credit transfer initiation, versions 09 and 03.

The bytes are a pure function of the arguments: a file is made once, stored, and only then sent.
Rules beyond the schema are the SEPA rulebook's customer-to-bank guidelines (EPC132-08).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from xml.sax.saxutils import escape

from paymaster.kernel.errors import Broken, Problem, RailRefused
from paymaster.kernel.money import Money
from paymaster.rails.base import Instruction
from paymaster.rails.destinations import MAX_HOLDER, compact, iban_fault
from paymaster.rails.latin import transliterate

NAMESPACES = {
    "09": "urn:iso:std:iso:20022:tech:xsd:pain.001.001.09",
    "03": "urn:iso:std:iso:20022:tech:xsd:pain.001.001.03",
}
MAX_SEPA = Money(99_999_999_999, "EUR")
"""The largest SEPA credit transfer: 999,999,999.99 (EPC125-05)."""

_MAX_DIGITS = 18
_MAX_REMITTANCE = 140
_ID = re.compile(r"[0-9A-Za-z](?:[0-9A-Za-z-]{0,30}[0-9A-Za-z])?\Z", re.ASCII)
_BIC = re.compile(r"[A-Z0-9]{4}[A-Z]{2}[A-Z0-9]{2}(?:[A-Z0-9]{3})?\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Debtor:
    """Our side: whose account is debited, and how the bank wants its file.

    `charge_bearer` is used for other currencies than EUR; SEPA knows only SLEV.
    """

    holder: str
    iban: str
    bic: str | None
    currency: str
    version: str = "09"
    charge_bearer: str = "SHAR"
    instant: bool = False


def write(
    debtor: Debtor, message_id: str, batch: Sequence[Instruction], created: datetime, on: date
) -> bytes:
    """One file with one payment block: `batch` debited from one account on one day.

    MsgId is `message_id`; PmtInfId is the cell (the first two characters of our keys), a hyphen,
    and `message_id`; InstrId and EndToEndId are the instruction's key.

    Raises RailRefused `instruction-refused` naming what cannot go, Broken `batch-malformed`.
    """
    _check_batch(message_id, batch)
    problems = [
        Problem("/" + instruction.key, fault)
        for instruction in batch
        if (fault := _fault(debtor, instruction)) is not None
    ]
    if problems:
        raise RailRefused(
            "instruction-refused",
            f"{len(problems)} of {len(batch)} payments cannot be written into a bank file.",
            problems=problems,
        )
    total = Money(sum(item.amount.minor for item in batch), debtor.currency).text()
    if sum(letter.isdigit() for letter in total) > _MAX_DIGITS:
        raise Broken("batch-malformed", "The control sum has more than 18 digits.")
    holder = transliterate(debtor.holder)[:MAX_HOLDER].rstrip()
    sums = f"<NbOfTxs>{len(batch)}</NbOfTxs><CtrlSum>{total}</CtrlSum>"
    moment = created.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    parts = [
        '<?xml version="1.0" encoding="UTF-8"?>\n',
        f'<Document xmlns="{NAMESPACES[debtor.version]}"><CstmrCdtTrfInitn>\n',
        f"<GrpHdr><MsgId>{message_id}</MsgId><CreDtTm>{moment}</CreDtTm>{sums}",
        f"<InitgPty><Nm>{escape(holder)}</Nm></InitgPty></GrpHdr>\n",
        f"<PmtInf><PmtInfId>{batch[0].key[:2]}-{message_id}</PmtInfId><PmtMtd>TRF</PmtMtd>",
        f"<BtchBookg>false</BtchBookg>{sums}{_payment_type(debtor)}{_execution(debtor, on)}\n",
        f"<Dbtr><Nm>{escape(holder)}</Nm></Dbtr>",
        f"<DbtrAcct><Id><IBAN>{compact(debtor.iban)}</IBAN></Id><Ccy>{debtor.currency}</Ccy>",
        f"</DbtrAcct><DbtrAgt>{_agent(debtor, debtor.bic, required=True)}</DbtrAgt>",
        f"<ChrgBr>{_charges(debtor)}</ChrgBr>\n",
        *(_transfer(debtor, item) for item in batch),
        "</PmtInf>\n</CstmrCdtTrfInitn></Document>\n",
    ]
    return "".join(parts).encode("utf-8")


def _check_batch(message_id: str, batch: Sequence[Instruction]) -> None:
    keys = {item.key for item in batch}
    if not batch or len(keys) != len(batch):
        raise Broken("batch-malformed", "A batch is empty or names one payment twice.")
    if len({key[:2] for key in keys}) != 1:
        raise Broken("batch-malformed", "The payments of one file are all of one cell.")
    if not all(_ID.match(each) and "--" not in each for each in (message_id, *keys)):
        raise Broken("batch-malformed", f"{message_id!r} or a key in it cannot be an identifier.")


def _fault(debtor: Debtor, item: Instruction) -> str | None:
    """Why this payment cannot be written; None when it can."""
    details = item.payee.details
    if item.payee.kind != "iban":
        return f"A bank file cannot pay a destination of kind {item.payee.kind!r}."
    if item.amount.currency != debtor.currency:
        return f"The account is in {debtor.currency}, the payment in {item.amount.currency}."
    if item.amount.minor <= 0 or len(str(item.amount.minor)) > _MAX_DIGITS:
        return "The amount is not positive, or has more than 18 digits."
    if debtor.currency == MAX_SEPA.currency and item.amount > MAX_SEPA:
        return f"A SEPA credit transfer is at most {MAX_SEPA}."
    fault = iban_fault(compact(details.get("iban", "")))
    if fault is not None:
        return fault
    bic = details.get("bic")
    if bic and not _BIC.match(compact(bic)):
        return "The BIC is not 8 or 11 letters and digits."
    name = transliterate(details.get("holder", ""))
    if not any(letter.isalnum() for letter in name):
        return "The holder's name cannot be written in Latin letters."
    return None if len(name) <= MAX_HOLDER else "The holder's name is longer than 70 characters."


def _payment_type(debtor: Debtor) -> str:
    if debtor.currency != MAX_SEPA.currency:
        return ""
    local = "<LclInstrm><Cd>INST</Cd></LclInstrm>" if debtor.instant else ""
    return f"<PmtTpInf><SvcLvl><Cd>SEPA</Cd></SvcLvl>{local}</PmtTpInf>"


def _execution(debtor: Debtor, on: date) -> str:
    written = on.isoformat() if debtor.version == "03" else f"<Dt>{on.isoformat()}</Dt>"
    return f"<ReqdExctnDt>{written}</ReqdExctnDt>"


def _charges(debtor: Debtor) -> str:
    return "SLEV" if debtor.currency == MAX_SEPA.currency else debtor.charge_bearer


def _agent(debtor: Debtor, bic: str | None, *, required: bool) -> str:
    if bic:
        tag = "BIC" if debtor.version == "03" else "BICFI"
        return f"<FinInstnId><{tag}>{compact(bic)}</{tag}></FinInstnId>"
    # The schema demands an agent for the debtor; SEPA banks expect this text in place of a BIC.
    return "<FinInstnId><Othr><Id>NOTPROVIDED</Id></Othr></FinInstnId>" if required else ""


def _transfer(debtor: Debtor, item: Instruction) -> str:
    details = item.payee.details
    agent = _agent(debtor, details.get("bic"), required=False)
    remittance = transliterate(item.purpose)[:_MAX_REMITTANCE].rstrip(" /")
    return "".join(
        (
            f"<CdtTrfTxInf><PmtId><InstrId>{item.key}</InstrId>",
            f"<EndToEndId>{item.key}</EndToEndId></PmtId>",
            f'<Amt><InstdAmt Ccy="{debtor.currency}">{item.amount.text()}</InstdAmt></Amt>',
            f"<CdtrAgt>{agent}</CdtrAgt>" if agent else "",
            f"<Cdtr><Nm>{escape(transliterate(details['holder']))}</Nm></Cdtr>",
            f"<CdtrAcct><Id><IBAN>{compact(details['iban'])}</IBAN></Id></CdtrAcct>",
            f"<RmtInf><Ustrd>{escape(remittance)}</Ustrd></RmtInf>" if remittance else "",
            "</CdtTrfTxInf>\n",
        )
    )


def account_problems(settings: dict[str, str]) -> list[Problem]:
    """What is wrong with the settings that a debtor is made of."""
    problems: list[Problem] = []
    iban, bic = compact(settings.get("iban", "")), settings.get("bic")
    if iban and (fault := iban_fault(iban)) is not None:
        problems.append(Problem("/settings/iban", fault))
    if bic and not _BIC.match(compact(bic)):
        problems.append(Problem("/settings/bic", "A BIC has 8 or 11 letters and digits."))
    if settings.get("version", "09") not in NAMESPACES:
        problems.append(Problem("/settings/version", "Versions of pain.001 are 09 and 03."))
    if settings.get("charge_bearer", "SHAR") not in {"SHAR", "DEBT", "CRED", "SLEV"}:
        problems.append(Problem("/settings/charge_bearer", "Use SHAR, DEBT, CRED or SLEV."))
    return problems
