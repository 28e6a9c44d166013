"""A payee's consent to payments without a further act: asked for once, at the provider.

What opens the provider's page is shown to the payee, and to the app's server that hands it to the
payee's app; never to the staff.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from fastapi import APIRouter
from pydantic import Field, StringConstraints

from paymaster.api.context import Call, OwnUsers
from paymaster.api.destinations import DestinationPath
from paymaster.api.door import Door
from paymaster.api.models import Body, Reply, Text
from paymaster.api.shapes_links import ConsentOut
from paymaster.db import audit
from paymaster.db.tx import CellRead, CellTx
from paymaster.dispatch import accounts, consent
from paymaster.dispatch.consent import Asking
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import Conflict, Forbidden, NotFound, Unprocessable
from paymaster.kernel.ids import Ref
from paymaster.people import destinations
from paymaster.people.links.store import links
from paymaster.people.views import DestinationView
from paymaster.rails.base import Payee
from paymaster.rails.consent import Consent

router = APIRouter(route_class=Door, tags=["destinations"])
_Prints = Mapping[int, Sequence[bytes]]


class AskConsent(Body):
    """How the provider's page shows the payee."""

    display_name: Annotated[
        Text,
        StringConstraints(min_length=1, max_length=32),
        Field(description="A name that the payee knows as his own, such as that in the app."),
    ]


@router.post("/v1/destinations/{destination}/consent", response_model=ConsentOut, status_code=200)
async def ask_consent(call: OwnUsers, destination: DestinationPath, body: AskConsent) -> Reply:
    """Ask the payee, at the provider, to agree to payments once and for all.

    While `state` is `waiting`, `public` and `package` go to the provider's own function in the
    app. Asking again is asking for the same. Until it is `in_effect` payments are refused.
    """
    ref, asked = await _asking(call, destination)
    found = await asked.ask(body.display_name)
    await _note(call, ref, "destination.consent_ask")
    return _shown(destination, found)


@router.get("/v1/destinations/{destination}/consent", response_model=ConsentOut)
async def get_consent(call: OwnUsers, destination: DestinationPath) -> Reply:
    """What became of the payee's consent, as the provider says now."""
    _, asked = await _asking(call, destination)
    return _shown(destination, await asked.look())


@router.delete("/v1/destinations/{destination}/consent", response_model=ConsentOut)
async def end_consent(call: OwnUsers, destination: DestinationPath) -> Reply:
    """End the payee's consent at the provider; payments are refused from then on.

    Closing the destination, or unlinking it, does not end it by itself.
    """
    ref, asked = await _asking(call, destination)
    found = await asked.end()
    await _note(call, ref, "destination.consent_end")
    return _shown(destination, found)


async def _asking(call: Call, destination: str) -> tuple[Ref, Asking]:
    """The destination, opened, at the account that pays it by consent."""
    if call.principal.kind == "staff":
        raise Forbidden("not-for-staff", "Only the payee opens the provider's page.")
    ref = call.ref("de", destination)
    own, sealer = call.principal.user, call.deps.secrets.sealer
    if own is not None and own.cell != ref.cell:
        raise NotFound("destination-unknown", "There is no such destination.")

    async def work(tx: CellRead) -> tuple[DestinationView, Payee | None, _Prints | None]:
        view = await destinations.get(tx, ref.id)
        if call.mine not in (None, view.user_id):
            raise NotFound("destination-unknown", "There is no such destination.")
        opened = await destinations.open_payees(tx, sealer, [ref.id])
        theirs = call.mine is None or any(
            link.destination_id == ref.id for link in await links(tx, view.user_id)
        )
        prints = None if theirs else await destinations.fingerprints_of(tx, sealer, [ref.id])
        return view, opened.get(ref.id), prints

    view, payee, prints = await call.cell(ref.cell).read(work)
    if view.state == "closed" or payee is None:
        raise Unprocessable("destination-closed", "It was closed; a closed one is not opened.")
    if prints is not None:
        await _refuse_shared(call, prints)
    known = await accounts.load(call.deps.dbs, call.environment.id)
    return ref, consent.asking(list(known.values()), call.deps.rails, payee, view.currency)


async def _refuse_shared(call: Call, prints: _Prints) -> None:
    """A consent is the account's: who has only claimed it sees and ends no other user's."""
    found = await call.look(lambda tx: destinations.shared_by(tx, call.environment.id, prints))
    if any(users > 1 for users in found.values()):
        raise Conflict("destination-shared", "Others use this account too: link it first.")


async def _note(call: Call, ref: Ref, act: str) -> None:
    async def work(tx: CellTx) -> None:
        view = await destinations.get(tx, ref.id)
        await audit.record(tx, [audit.Act(act, view.id, None)])

    await call.write(call.cell(ref.cell), work)


def _shown(destination: str, found: Consent) -> Reply:
    way = found.confirmation
    return Reply(
        {
            "destination": destination,
            "state": found.state.value,
            "package": None if way is None else way.package,
            "expires_at": None if way is None else rfc3339(way.expires_at),
            "public": {} if way is None else dict(way.public),
        }
    )
