"""Reads a payment order as strictly as a bank does: pain.001.001.09 and pain.001.001.03.

Faults of the file as a whole are raised; faults of one payment are noted on it, so that the rest
of the file can still be executed.
"""

import re
from dataclasses import dataclass, replace
from datetime import date

from paymaster_sandbox.bank.xml import Node, NotXmlError, read
from paymaster_sandbox.chassis.money import exponent, parse_decimal

NAMESPACE = "urn:iso:std:iso:20022:tech:xsd:pain.001.001."
VERSIONS = ("09", "03")

_HEADER = ("MsgId", "CreDtTm", "Authstn", "NbOfTxs", "CtrlSum", "InitgPty", "FwdgAgt")
_BLOCK = (
    "PmtInfId", "PmtMtd", "BtchBookg", "NbOfTxs", "CtrlSum", "PmtTpInf", "ReqdExctnDt",
    "PoolgAdjstmntDt", "Dbtr", "DbtrAcct", "DbtrAgt", "DbtrAgtAcct", "InstrForDbtrAgt",
    "UltmtDbtr", "ChrgBr", "ChrgsAcct", "ChrgsAcctAgt", "CdtTrfTxInf",
)  # fmt: skip
_TRANSFER = (
    "PmtId", "PmtTpInf", "Amt", "XchgRateInf", "ChrgBr", "ChqInstr", "UltmtDbtr", "IntrmyAgt1",
    "IntrmyAgt1Acct", "IntrmyAgt2", "IntrmyAgt2Acct", "IntrmyAgt3", "IntrmyAgt3Acct", "CdtrAgt",
    "CdtrAgtAcct", "Cdtr", "CdtrAcct", "UltmtCdtr", "InstrForCdtrAgt", "InstrForDbtrAgt", "Purp",
    "RgltryRptg", "Tax", "RltdRmtInf", "RmtInf", "SplmtryData",
)  # fmt: skip
_PAYMENT_ID = ("InstrId", "EndToEndId", "UETR")
_IDENTIFIER = re.compile(r"(?!/)(?!.*//)[A-Za-z0-9/\-?:().,'+ ]{1,35}(?<!/)")
_TEXT = re.compile(r"[A-Za-z0-9/\-?:().,'+ ]+")
_IBAN = re.compile(r"[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}")


class FileRejectedError(Exception):
    """The file as a whole is refused. `code` is an ISO 20022 status reason."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@dataclass(frozen=True, slots=True)
class Transfer:
    """One credit transfer. `problem` is the status reason it must be refused with, if any."""

    instruction_id: str | None
    end_to_end_id: str
    uetr: str | None
    amount: int
    currency: str
    creditor_name: str
    creditor_iban: str
    remittance: str
    problem: str | None


@dataclass(frozen=True, slots=True)
class Block:
    """One PmtInf: transfers from one account."""

    id: str
    debtor_iban: str
    control_sum: str | None
    transfers: tuple[Transfer, ...]


@dataclass(frozen=True, slots=True)
class Order:
    """A readable file. `fault` is why it is refused as a whole, after the ids could be read."""

    version: str
    message_id: str
    count: str
    control_sum: str | None
    blocks: tuple[Block, ...]
    fault: FileRejectedError | None = None


def iban_valid(iban: str) -> bool:
    """Shape and check digits (ISO 13616, modulus 97)."""
    if _IBAN.fullmatch(iban) is None:
        return False
    return int("".join(str(int(char, 36)) for char in iban[4:] + iban[:4])) % 97 == 1


def parse(body: bytes) -> Order:
    """Read an order.

    Raises:
        FileRejectedError: nothing can be answered to by its MsgId (FF01, CH16).
    """
    try:
        namespace, root = read(body)
    except NotXmlError as error:
        raise FileRejectedError("FF01", str(error)) from error
    version = namespace.removeprefix(NAMESPACE)
    if namespace == version or version not in VERSIONS:
        raise FileRejectedError("FF01", f"unknown message {namespace or 'without namespace'}")
    order = root.find("CstmrCdtTrfInitn") if root.name == "Document" else None
    header = order.find("GrpHdr") if order else None
    message_id = header.read("MsgId") if header else None
    if order is None or header is None or message_id is None:
        raise FileRejectedError("FF01", "CstmrCdtTrfInitn/GrpHdr/MsgId is missing")
    if _IDENTIFIER.fullmatch(message_id) is None:
        raise FileRejectedError("CH16", "MsgId is not 1 to 35 permitted characters")
    read_order = Order(
        version, message_id, header.read("NbOfTxs") or "0", header.read("CtrlSum"), ()
    )
    try:
        return replace(read_order, blocks=_blocks(read_order, order, header))
    except FileRejectedError as fault:
        return replace(read_order, fault=fault)


def _blocks(order: Order, node: Node, header: Node) -> tuple[Block, ...]:
    _in_order(node, ("GrpHdr", "PmtInf", "SplmtryData"))
    _in_order(header, _HEADER)
    for needed in ("CreDtTm", "NbOfTxs", "InitgPty"):
        _need(header, needed)
    blocks = tuple(_block(block, order.version) for block in node.each("PmtInf"))
    if not blocks:
        raise FileRejectedError("FF01", "there is no PmtInf")
    if len({block.id for block in blocks}) < len(blocks):
        raise FileRejectedError("AM05", "PmtInfId is used twice in the file")
    transfers = [transfer for block in blocks for transfer in block.transfers]
    _check_totals("GrpHdr", order.count, order.control_sum, transfers)
    return blocks


def _block(node: Node, version: str) -> Block:
    _in_order(node, _BLOCK)
    name = _need(node, "PmtInfId")
    if _IDENTIFIER.fullmatch(name) is None:
        raise FileRejectedError("CH16", "PmtInfId is not 1 to 35 permitted characters")
    if _need(node, "PmtMtd") != "TRF":
        raise FileRejectedError("FF01", "PmtMtd must be TRF")
    asked = _need(node, "ReqdExctnDt/Dt" if version == "09" else "ReqdExctnDt")
    try:
        date.fromisoformat(asked)
    except ValueError as error:
        raise FileRejectedError("DT01", f"ReqdExctnDt {asked!r} is no date") from error
    _need(node, "Dbtr")
    if node.find("DbtrAgt/FinInstnId") is None:
        raise FileRejectedError("FF01", "DbtrAgt/FinInstnId is missing")
    debtor = _need(node, "DbtrAcct/Id/IBAN")
    transfers = tuple(_transfer(transfer) for transfer in node.each("CdtTrfTxInf"))
    if not transfers:
        raise FileRejectedError("FF01", f"{name} has no CdtTrfTxInf")
    count, control_sum = node.read("NbOfTxs"), node.read("CtrlSum")
    _check_totals(name, count or str(len(transfers)), control_sum, transfers)
    return Block(name, debtor, control_sum, transfers)


def _transfer(node: Node) -> Transfer:
    _in_order(node, _TRANSFER)
    payment_id = node.find("PmtId")
    if payment_id is None:
        raise FileRejectedError("FF01", "PmtId is missing")
    _in_order(payment_id, _PAYMENT_ID)
    end_to_end_id = _need(payment_id, "EndToEndId")
    amount = node.find("Amt/InstdAmt")
    if amount is None or "Ccy" not in amount.attributes:
        raise FileRejectedError("FF01", f"Amt/InstdAmt of {end_to_end_id} is missing")
    currency = amount.attributes["Ccy"]
    try:
        minor = parse_decimal(amount.text, currency)
    except ValueError:
        minor = 0
    transfer = Transfer(
        instruction_id=payment_id.read("InstrId"),
        end_to_end_id=end_to_end_id,
        uetr=payment_id.read("UETR"),
        amount=minor,
        currency=currency,
        creditor_name=_need(node, "Cdtr/Nm"),
        creditor_iban=_need(node, "CdtrAcct/Id/IBAN"),
        remittance=node.read("RmtInf/Ustrd") or "",
        problem=None,
    )
    return replace(transfer, problem=_problem(transfer))


def _problem(transfer: Transfer) -> str | None:
    """What is wrong with one transfer, as a status reason."""
    ids = (transfer.end_to_end_id, transfer.instruction_id)
    texts = (transfer.creditor_name, transfer.remittance)
    if any(text is not None and _IDENTIFIER.fullmatch(text) is None for text in ids):
        return "CH16"
    if any(text and _TEXT.fullmatch(text) is None for text in texts):
        return "CH16"
    if not transfer.creditor_name or len(transfer.creditor_name) > 70:
        return "CH16"
    if len(transfer.remittance) > 140:
        return "CH16"
    if transfer.amount <= 0:
        return "AM12"
    return None if iban_valid(transfer.creditor_iban) else "AC01"


def _check_totals(
    where: str,
    count: str,
    control_sum: str | None,
    transfers: list[Transfer] | tuple[Transfer, ...],
) -> None:
    """Raises FileRejectedError AM18 for a wrong number, AM10 for a wrong or missing control sum."""
    if count != str(len(transfers)):
        raise FileRejectedError(
            "AM18", f"{where} says {count} transactions, {len(transfers)} found"
        )
    if control_sum is None:
        raise FileRejectedError("AM10", f"{where} has no control sum")
    scale = max(exponent(transfer.currency) for transfer in transfers)
    total = sum(
        transfer.amount * 10 ** (scale - exponent(transfer.currency)) for transfer in transfers
    )
    whole, _, fraction = control_sum.partition(".")
    exact = f"{whole}{fraction.rstrip('0').ljust(scale, '0')}"
    if not exact.isdecimal() or int(exact) != total:
        raise FileRejectedError("AM10", f"{where} says a sum of {control_sum}, which is not so")


def _need(node: Node, path: str) -> str:
    """The text at a path; raises FileRejectedError if there is nothing there."""
    found = node.find(path)
    if found is None or not (found.text or found.children):
        raise FileRejectedError("FF01", f"{node.name}/{path} is missing")
    return found.text


def _in_order(node: Node, known: tuple[str, ...]) -> None:
    """Raises FileRejectedError if a child is unknown or stands in the wrong place."""
    place = 0
    for child in node.children:
        if child.name not in known:
            raise FileRejectedError("FF01", f"{node.name}/{child.name} is not known")
        here = known.index(child.name)
        if here < place:
            raise FileRejectedError("FF01", f"{node.name}/{child.name} is out of order")
        place = here
