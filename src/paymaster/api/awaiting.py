"""Payments that their payee has to accept with the provider: the way to its page.

Whoever has the package can open the page, so it is shown to the payee, and to the app's server that
hands it to the payee's app; never to the staff, and in no event.
"""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter

from paymaster.api.context import Call, OwnWithdrawals
from paymaster.api.door import Door
from paymaster.api.explain import WithdrawalPath, own_user, withdrawal_of
from paymaster.api.models import Reply
from paymaster.api.shapes_status import ConfirmationOut
from paymaster.dispatch import accounts, confirmation
from paymaster.kernel.errors import Forbidden
from paymaster.kernel.ids import Ref
from paymaster.rails.base import Cancels

router = APIRouter(route_class=Door, tags=["withdrawals"])


@router.get("/v1/me/withdrawals/{withdrawal}/confirmation", response_model=ConfirmationOut)
async def get_own_confirmation(call: OwnWithdrawals, withdrawal: WithdrawalPath) -> Reply:
    """What the earner's app needs to let the earner accept a payment, until `expires_at`.

    `public` and `package` go to the provider's own function in the app. Only for an earner's token.
    """
    ref = withdrawal_of(call, withdrawal)
    own_user(call)
    return await _shown(call, ref)


@router.get("/v1/withdrawals/{withdrawal}/confirmation", response_model=ConfirmationOut)
async def get_confirmation(call: OwnWithdrawals, withdrawal: WithdrawalPath) -> Reply:
    """The same for the app's server, which hands it to the payee and to nobody else."""
    if call.principal.kind == "staff":
        raise Forbidden("not-for-staff", "Only the payee opens the provider's page.")
    return await _shown(call, withdrawal_of(call, withdrawal))


async def _shown(call: Call, ref: Ref) -> Reply:
    await call.now()
    sealer = call.deps.secrets.sealer
    found = await call.cell(ref.cell).read(
        lambda tx: confirmation.show(tx, sealer, ref.id, user_id=call.mine)
    )
    return Reply(found.wire())


async def can_take_back(call: Call) -> Callable[[int], bool]:
    """Whether the provider of a rail account can be asked to take a payment back."""
    known = await accounts.load(call.deps.dbs, call.environment.id)

    def can(account_id: int) -> bool:
        account = known.get(account_id)
        rail = None if account is None else call.deps.rails.get(account.rail.rail)
        return isinstance(rail, Cancels)

    return can
