"""What each error of the provider proves about an order that has just been sent.

    refused    listed, and about this order alone: nothing was paid, and nothing will be
    later      turned away unread: our funds, rates or set-up; the same number goes again
    unknown    everything else, and everything that is not in a list

SYSTEM_ERROR, REQUEST_PROCESSING and "already used for another order" are unknown: the number is
asked about. Sentences (`sub_msg`, `message`) decide nothing: they change.
"""

from __future__ import annotations

from typing import Final

from paymaster.kernel.errors import RailError
from paymaster.rails import meaning
from paymaster.rails.alipay.calls import Said
from paymaster.rails.meaning import Kind
from paymaster.rails.yuan import extra_of, no_error

REFUSED: Final = frozenset({
    "BLOCK_USER_FORBBIDEN_RECIEVE", "EXCEED_LIMIT_DC_RECEIVED", "EXCEED_LIMIT_ENT_SM_AMOUNT",
    "EXCEED_LIMIT_PERSONAL_SM_AMOUNT", "EXCEED_LIMIT_SM_AMOUNT", "EXCEED_LIMIT_SM_MIN_AMOUNT",
    "EXCEED_LIMIT_UNRN_DM_AMOUNT", "INVALID_PARAMETER", "MEMO_REQUIRED_IN_TRANSFER_ERROR",
    "PAYEE_ACC_OCUPIED", "PAYEE_NOT_EXIST", "PAYEE_NOT_RELNAME_CERTIFY", "PAYEE_USER_INFO_ERROR",
    "PERMIT_CHECK_PERM_LIMITED", "PERMIT_NON_BANK_LIMIT_PAYEE", "PERM_AML_NOT_REALNAME_REV",
    "REMARK_HAS_SENSITIVE_WORD", "SECURITY_CHECK_FAILED", "USER_RISK_FREEZE",
})  # fmt: skip
"""Read, and refused before anything was made of it."""

DOOR: Final = frozenset({
    "APP_CERT_NOT_EXIST", "INSUFFICIENT_ISV_PERMISSIONS", "INVALID_ALIPAY_ROOT_CERT_SN",
    "INVALID_APP_ID", "INVALID_NONCE", "INVALID_SIGNATURE", "INVALID_SIGNATURE_TYPE",
    "INVALID_TIMESTAMP", "MISSING_ALIPAY_ROOT_CERT_SN", "MISSING_APP_CERT_SN", "MISSING_APP_ID",
    "MISSING_SIGNATURE",
})  # fmt: skip
"""Said before the provider knows who asks, so without a signature."""

LATER: Final = DOOR | {
    "APP_CALL_LIMITED", "BALANCE_IS_NOT_ENOUGH", "EXCEED_LIMIT_DM_AMOUNT",
    "EXCEED_LIMIT_DM_MAX_AMOUNT", "EXCEED_LIMIT_MM_AMOUNT", "EXCEED_LIMIT_MM_MAX_AMOUNT",
    "ISV_AUTH_ERROR", "NO_PERMISSION_ACCOUNT", "PAYER_BALANCE_NOT_ENOUGH", "PRODUCT_NOT_SIGN",
    "RESOURCE_LIMIT_EXCEED", "TRANSFER_SCENE_INFO_ERROR", "TRANSFER_SCENE_NOT_SIGN",
}  # fmt: skip
"""Our balance, our limits, our keys and contracts: the rail stops until they are in order."""

NOT_FOUND: Final = frozenset({"ORDER_NOT_EXIST"})


def failure(said: Said) -> RailError:
    """What an answer other than success means for an order."""
    extra = extra_of(said.code or str(said.status), said.retry_after)
    if (answer := no_error(said.status, extra)) is not None:
        return answer
    believed = said.genuine or said.code in DOOR
    if not believed or said.status >= 500 or said.code is None:
        kind = meaning.of_status(said.status, explained=False)
        if kind is Kind.TURNED_AWAY:
            kind = Kind.UNEXPLAINED
        return meaning.error(kind, f"The provider answered {said.code or said.status}.", extra)
    if said.code in LATER:
        return meaning.error(Kind.NOT_NOW, f"The provider turned us away: {said.code}.", extra)
    if said.code in REFUSED:
        return meaning.error(Kind.SAYS_NO, f"The provider refused: {said.code}.", extra)
    return meaning.error(Kind.UNEXPLAINED, f"The provider answered {said.code}.", extra)
