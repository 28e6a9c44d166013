"""Why a withdrawal stands as it does, and its receipt."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Query
from starlette.responses import Response

from paymaster.api.context import Call, OwnReads
from paymaster.api.door import Door
from paymaster.api.models import Reply
from paymaster.api.shapes_status import ExplainedOut, ReceiptOut
from paymaster.dispatch import accounts
from paymaster.dispatch.accounts import PayoutAccount
from paymaster.dispatch.expected import expected_by
from paymaster.kernel.errors import Conflict, Forbidden, NotFound
from paymaster.kernel.ids import Ref
from paymaster.kernel.language import TAGS, Language, language_of, preferred
from paymaster.people import users
from paymaster.withdraw import explain, receipt
from paymaster.withdraw.explain import Expected, Explained
from paymaster.withdraw.machine import State

router = APIRouter(route_class=Door, tags=["withdrawals"])
WithdrawalPath = Annotated[str, Path(max_length=40, description="`wd_...`")]
Accepted = Annotated[
    str | None,
    Header(alias="Accept-Language", max_length=200, description="`en` or `zh-CN`, as RFC 9110."),
]


async def language_for(call: Call, user: Ref, header: str | None) -> Language:
    """What the request asks for; else what the user's profile says; else English."""
    asked = preferred(header)
    if asked is not None:
        return asked
    sealer = call.deps.secrets.sealer
    found = await call.cell(user.cell).read(lambda tx: users.profiles(tx, sealer, [user.id]))
    profile = found.get(user.id)
    return language_of(None if profile is None else profile.language)


def own_user(call: Call) -> Ref:
    """The earner who calls. Raises Forbidden `earners-only`."""
    user = call.principal.user
    if user is None:
        raise Forbidden("earners-only", "Only an earner with a token has money of their own here.")
    return user


def withdrawal_of(call: Call, text: str) -> Ref:
    """Where a withdrawal is. For an earner there are none outside his cell."""
    ref = call.ref("wd", text)
    own = call.principal.user
    if own is not None and own.cell != ref.cell:
        raise NotFound("not-found", "There is no such withdrawal.")
    return ref


class Accounts:
    """The rail accounts of the caller's environment, read once for a request."""

    def __init__(self, call: Call, found: dict[int, PayoutAccount]) -> None:
        self._call = call
        self._found = found

    @classmethod
    async def load(cls, call: Call) -> Accounts:
        """Read them."""
        return cls(call, await accounts.load(call.deps.dbs, call.environment.id))

    def rail(self, account_id: int | None) -> str | None:
        """The rail of an account."""
        account = self._found.get(account_id or 0)
        return None if account is None else account.rail.rail

    def expected(self, one: Explained) -> Expected:
        """When it should arrive."""
        row, now = one.summary.row, self._call.clock.now()
        ours = one.stands.money == "set-aside" and one.next(None) == "operator"
        by = expected_by(
            self._found,
            self._call.deps.rails,
            "" if ours else row.state,
            kind=row.destination_kind,
            currency=row.payout_asset,
            account_id=row.rail_account_id,
            sent_at=one.sent_at,
            now=now,
        )
        return Expected(by, now)

    def expected_now(self, kind: str, currency: str) -> Expected:
        """When it would arrive if it were asked for now, and nobody had to look at it."""
        now = self._call.clock.now()
        by = expected_by(
            self._found,
            self._call.deps.rails,
            State.REQUESTED,
            kind=kind,
            currency=currency,
            account_id=None,
            sent_at=None,
            now=now,
        )
        return Expected(by, now)


@router.get("/v1/withdrawals/{withdrawal}/explain", response_model=ExplainedOut)
async def explain_withdrawal(
    call: OwnReads,
    withdrawal: WithdrawalPath,
    language: Accepted = None,
    whom: Annotated[
        Literal["earner", "staff"] | None,
        Query(alias="for", description="Whose words: the staff's only for who is no earner."),
    ] = None,
) -> Reply:
    """What happened, where the money is, who acts next, by when, and what to do if it failed.

    In the language of `Accept-Language`, or of the user's profile. A person of the staff gets the
    staff's words, everybody else the earner's, unless `for` says otherwise; an earner always gets
    the earner's.
    """
    ref = withdrawal_of(call, withdrawal)
    await call.now()
    found = await call.cell(ref.cell).read(lambda tx: explain.gather(tx, ref.id, user_id=call.mine))
    default = "staff" if call.principal.kind == "staff" else "earner"
    staff = call.mine is None and (whom or default) == "staff"
    tongue = await language_for(call, Ref(ref.cell, found.summary.row.user_id), language)
    accounts_here = await Accounts.load(call)
    said = found.wire(
        tongue,
        staff=staff,
        rail=accounts_here.rail(found.summary.row.rail_account_id),
        expected=accounts_here.expected(found),
    )
    if staff and call.principal.scopes.isdisjoint(("operate", "risk")):
        said["staff"]["order"] = None
    return in_language(tongue, said)


def in_language(language: Language, said: dict[str, Any]) -> Reply:
    """An answer that says in which language it is."""
    reply = Reply({"language": TAGS[language], **said})
    reply.headers["Content-Language"] = TAGS[language]
    reply.headers["Vary"] = "Accept-Language"
    return reply


_FILE = {"schema": {"type": "string", "format": "binary"}}
_RECEIPT: dict[int | str, dict[str, Any]] = {
    200: {"description": "The receipt.", "content": {"application/pdf": _FILE}}
}


@router.get("/v1/withdrawals/{withdrawal}/receipt", response_model=ReceiptOut, responses=_RECEIPT)
async def get_receipt(
    call: OwnReads,
    withdrawal: WithdrawalPath,
    file: Annotated[Literal["json", "pdf"], Query(alias="format")] = "json",
) -> Response:
    """The receipt of a withdrawal that was paid, also when it came back later.

    The PDF is in English.
    """
    ref = withdrawal_of(call, withdrawal)
    found = await call.cell(ref.cell).read(lambda tx: explain.gather(tx, ref.id, user_id=call.mine))
    made = receipt.of(found)
    if made is None:
        raise Conflict("receipt-not-yet", "There is a receipt as soon as it has been paid.")
    if file == "json":
        return Reply(made.wire())
    body = await asyncio.to_thread(made.pdf, call.environment.mode == "test")
    name = f"receipt-{made.withdrawal}.pdf"
    return Response(
        body,
        media_type="application/pdf",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )
