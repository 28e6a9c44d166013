"""What the ISO 20022 status codes prove.

One table serves pain.002, camt and the Open Banking APIs, which share the external code set
ExternalPaymentTransactionStatus1Code. A code that is not here proves nothing.
"""

from __future__ import annotations

from paymaster.rails.base import Verdict

_VERDICTS: dict[str, Verdict] = {
    "ACTC": Verdict.ACCEPTED,
    "ACCP": Verdict.ACCEPTED,
    "ACFC": Verdict.ACCEPTED,
    "ACSP": Verdict.ACCEPTED,
    "ACWC": Verdict.ACCEPTED,
    "ACWP": Verdict.ACCEPTED,
    "ACSC": Verdict.PAID,
    "ACCC": Verdict.PAID,
    "RJCT": Verdict.REJECTED,
    "CANC": Verdict.REJECTED,
    "RCVD": Verdict.UNKNOWN,
    "PDNG": Verdict.UNKNOWN,
    "PATC": Verdict.UNKNOWN,
    "BLCK": Verdict.UNKNOWN,
    "PART": Verdict.UNKNOWN,
}

DUPLICATE_CODES = frozenset({"AM05", "DUPL", "DU01", "DU02", "DU03", "DU04", "DU05"})
"""Reasons that mean "we had this already" (ExternalStatusReason1Code)."""


def verdict_of(status: str | None, reason: str | None) -> Verdict:
    """The verdict of a status with its reason.

    A rejection as a duplicate speaks of the second copy only: the first may well have been paid.
    Reading it as a rejection of the payment would release money that is gone.
    """
    found = _VERDICTS.get(status or "", Verdict.UNKNOWN)
    if found is Verdict.REJECTED and reason in DUPLICATE_CODES:
        return Verdict.UNKNOWN
    return found
