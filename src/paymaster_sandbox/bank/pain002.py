"""Writes the bank's answer to a payment file: pain.002.001.10 for .09, pain.002.001.03 for .03."""

from dataclasses import dataclass

from paymaster_sandbox.bank.pain001 import Transfer
from paymaster_sandbox.bank.xml import document, leaf, tag

_NAMESPACE = "urn:iso:std:iso:20022:tech:xsd:pain.002.001."
_VERSION = {"09": "10", "03": "03"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one transfer; `code` is the reason it was rejected, None if accepted."""

    transfer: Transfer
    code: str | None


@dataclass(frozen=True, slots=True)
class BlockVerdict:
    """What became of one PmtInf."""

    id: str
    control_sum: str | None
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """Everything that a pain.002 says. `code` and `text` are set for a file refused as a whole."""

    message_id: str
    created: str
    version: str
    original_message_id: str
    original_count: str | None
    original_sum: str | None
    blocks: tuple[BlockVerdict, ...] = ()
    code: str | None = None
    text: str | None = None

    @property
    def status(self) -> str:
        """GrpSts: ACCP, PART or RJCT."""
        if self.code is not None:
            return "RJCT"
        return _status([verdict for block in self.blocks for verdict in block.verdicts])


def write(answer: Answer) -> bytes:
    """The document."""
    group = tag(
        "OrgnlGrpInfAndSts",
        leaf("OrgnlMsgId", answer.original_message_id),
        leaf("OrgnlMsgNmId", f"pain.001.001.{answer.version}"),
        leaf("OrgnlNbOfTxs", answer.original_count),
        leaf("OrgnlCtrlSum", answer.original_sum),
        leaf("GrpSts", answer.status),
        _reason(answer.code, answer.text),
    )
    header = tag("GrpHdr", leaf("MsgId", answer.message_id), leaf("CreDtTm", answer.created))
    blocks = [_block(block, answer.version) for block in answer.blocks]
    parts = ["<CstmrPmtStsRpt>", header, group, *blocks, "</CstmrPmtStsRpt>"]
    return document(_NAMESPACE + _VERSION[answer.version], parts)


def _status(verdicts: list[Verdict] | tuple[Verdict, ...]) -> str:
    refused = sum(verdict.code is not None for verdict in verdicts)
    return "ACCP" if not refused else "RJCT" if refused == len(verdicts) else "PART"


def _reason(code: str | None, text: str | None = None) -> str:
    if code is None:
        return ""
    info = leaf("AddtlInf", None if text is None else text[:105])
    return tag("StsRsnInf", tag("Rsn", leaf("Cd", code)), info)


def _block(block: BlockVerdict, version: str) -> str:
    return tag(
        "OrgnlPmtInfAndSts",
        leaf("OrgnlPmtInfId", block.id),
        leaf("OrgnlNbOfTxs", len(block.verdicts)),
        leaf("OrgnlCtrlSum", block.control_sum),
        leaf("PmtInfSts", _status(block.verdicts)),
        *(_transaction(verdict, version) for verdict in block.verdicts),
    )


def _transaction(verdict: Verdict, version: str) -> str:
    transfer = verdict.transfer
    return tag(
        "TxInfAndSts",
        leaf("OrgnlInstrId", transfer.instruction_id),
        leaf("OrgnlEndToEndId", transfer.end_to_end_id),
        leaf("OrgnlUETR", transfer.uetr if version == "09" else None),
        leaf("TxSts", "ACSP" if verdict.code is None else "RJCT"),
        _reason(verdict.code),
    )
