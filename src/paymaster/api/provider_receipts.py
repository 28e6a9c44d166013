"""The receipt that a provider makes out of a payment, as it made it."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter
from starlette.responses import Response

from paymaster.api.context import Call, OwnReads
from paymaster.api.door import Door
from paymaster.api.explain import WithdrawalPath, withdrawal_of
from paymaster.db.tx import CellRead
from paymaster.dispatch import accounts, batch_store
from paymaster.dispatch.answered import answered
from paymaster.dispatch.batch_store import AttemptView
from paymaster.kernel.errors import Busy, Conflict, Forbidden
from paymaster.people import users
from paymaster.rails.base import GivesReceipts
from paymaster.withdraw import view

router = APIRouter(route_class=Door, tags=["withdrawals"])
TIMEOUT_SECONDS: Final = 20.0
AGAIN_SECONDS: Final = 30
_PAID: Final = frozenset({"paid", "returned"})
_PDF: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The provider's file.",
        "content": {"application/pdf": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.get(
    "/v1/withdrawals/{withdrawal}/provider-receipt", response_class=Response, responses=_PDF
)
async def get_provider_receipt(call: OwnReads, withdrawal: WithdrawalPath) -> Response:
    """The provider's own receipt of a payment that was made (PDF), fetched now and checked.

    Providers make it when it is first asked for: until it is there the answer is 503
    `receipt-generating`, with `Retry-After`. WeChat Pay has one for payments whose name it checked.
    It holds that name, so it is for the payee and the app's server, as long as we may know it.
    """
    ref = withdrawal_of(call, withdrawal)
    if call.principal.kind == "staff":
        raise Forbidden("not-for-staff", "It names the payee; the provider's portal has it too.")
    sealer = call.deps.secrets.sealer

    async def work(tx: CellRead) -> list[AttemptView]:
        found = await view.one(tx, ref.id, user_id=call.mine)
        await users.require_key(tx, sealer, found.row.user_id)
        return await batch_store.attempts_of(tx, ref.id)

    found = await call.cell(ref.cell).read(work)
    paid = next((one for one in found if one.state in _PAID), None)
    if paid is None:
        raise Conflict("receipt-not-yet", "There is a receipt as soon as it has been paid.")
    return Response(
        await _fetched(call, paid),
        media_type="application/pdf",
        headers={"Content-Disposition": f'attachment; filename="{paid.key}.pdf"'},
    )


async def _fetched(call: Call, paid: AttemptView) -> bytes:
    known = await accounts.load(call.deps.dbs, call.environment.id)
    account = known.get(paid.rail_account_id)
    rail = None if account is None else call.deps.rails.get(account.rail.rail)
    if account is None or not isinstance(rail, GivesReceipts):
        raise Conflict("receipt-not-offered", "Its provider makes out no receipts.")
    body = await answered(
        lambda: rail.receipt(account.rail, paid.key),
        TIMEOUT_SECONDS,
        no_slug="receipt-refused",
        away_slug="receipt-unavailable",
    )
    if body is None:
        raise Busy(
            "receipt-generating", "The provider makes it now.", retry_after_seconds=AGAIN_SECONDS
        )
    return body
