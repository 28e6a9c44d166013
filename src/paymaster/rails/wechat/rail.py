"""The rail to WeChat Pay: one file for each verb, and this door."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from paymaster.rails.base import (
    Instruction,
    Notice,
    Outcome,
    Payee,
    Prepared,
    RailAccount,
    RailCaps,
    RemoteFile,
    Statement,
    WebhookAnswer,
)
from paymaster.rails.consent import Consent
from paymaster.rails.deps import RailDeps
from paymaster.rails.payin import (
    Charge,
    ChargeOutcome,
    Checkout,
    Method,
    PayInNotice,
    RefundOrder,
    RefundOutcome,
)
from paymaster.rails.wechat import (
    authorise,
    bills,
    cancel,
    notices,
    payin,
    payin_notices,
    payin_refunds,
    payin_settings,
    prepare,
    query,
    receipts,
    send,
    settings,
)
from paymaster.rails.yuan import CNY

NAME = "wechat-pay"


class WeChatPayRail:
    """One transfer a request; its number is the instruction's key, at every try."""

    def __init__(self, deps: RailDeps) -> None:
        self._deps = deps
        self._caps = RailCaps(
            name=NAME,
            destination_kinds=frozenset({"wechat"}),
            batch_items=1,
            # Of the four products the narrowest: the old one takes a number again for two days.
            replay_window=timedelta(hours=24),
            not_found_is_proof_after=timedelta(minutes=10),
            currencies=frozenset({CNY}),
        )

    @property
    def caps(self) -> RailCaps:
        """What is fixed about it."""
        return self._caps

    def check_account(self, account: RailAccount) -> None:
        """See ChecksAccounts."""
        settings.check(account)

    def pays_out(self, account: RailAccount) -> bool:
        """See MayOnlyTakeIn."""
        return settings.pays_out(account)

    def prepare(
        self,
        account: RailAccount,
        batch_key: str,
        batch: Sequence[Instruction],
        now: datetime,  # noqa: ARG002 - part of the interface; the order carries no time
    ) -> Prepared:
        """See Rail."""
        return prepare.prepare(account, batch_key, batch)

    async def send(self, account: RailAccount, prepared: Prepared) -> Sequence[Outcome]:
        """See Rail."""
        return await send.send(self._deps, account, prepared)

    async def query(self, account: RailAccount, key: str) -> Outcome:
        """See Queries."""
        return await query.query(self._deps, account, key)

    async def cancel(self, account: RailAccount, key: str) -> Outcome:
        """See Cancels."""
        return await cancel.cancel(self._deps, account, key)

    def read_webhook(
        self, account: RailAccount, headers: Mapping[str, str], body: bytes, now: datetime
    ) -> Sequence[Notice]:
        """See ReadsWebhooks."""
        return notices.read(self._deps, account, headers, body, now)

    def webhook_answer(self, taken: bool) -> WebhookAnswer:
        """See AnswersWebhooks."""
        return notices.answer(taken=taken)

    async def fetch(self, account: RailAccount, seen: frozenset[str]) -> Sequence[RemoteFile]:
        """See FetchesFiles."""
        return await bills.fetch(self._deps, account, seen)

    def read_file(
        self, account: RailAccount, name: str, body: bytes
    ) -> tuple[Sequence[Notice], Sequence[Statement]]:
        """See FetchesFiles."""
        return bills.read(account, name, body)

    def pay_methods(self, account: RailAccount) -> Mapping[str, Method]:
        """See TakesPayments."""
        return payin_settings.methods(account)

    def check_charge(self, account: RailAccount, charge: Charge) -> None:
        """See TakesPayments."""
        payin.check(account, charge)

    async def open_charge(self, account: RailAccount, charge: Charge) -> Checkout:
        """See TakesPayments."""
        return await payin.open_charge(self._deps, account, charge)

    async def find_charge(self, account: RailAccount, key: str) -> ChargeOutcome:
        """See TakesPayments."""
        return await payin.find_charge(self._deps, account, key)

    async def close_charge(self, account: RailAccount, key: str) -> ChargeOutcome:
        """See TakesPayments."""
        return await payin.close_charge(self._deps, account, key)

    async def refund(self, account: RailAccount, order: RefundOrder) -> RefundOutcome:
        """See TakesPayments."""
        return await payin_refunds.refund(self._deps, account, order)

    async def find_refund(self, account: RailAccount, order: RefundOrder) -> RefundOutcome:
        """See TakesPayments."""
        return await payin_refunds.find_refund(self._deps, account, order)

    def read_payin_webhook(
        self, account: RailAccount, headers: Mapping[str, str], body: bytes, now: datetime
    ) -> Sequence[PayInNotice]:
        """See TakesPayments."""
        return payin_notices.read(self._deps, account, headers, body, now)

    def payin_answer(self, taken: bool) -> WebhookAnswer:
        """See TakesPayments."""
        return payin_notices.answer(taken=taken)

    def needs_consent(self, account: RailAccount, payee: Payee) -> bool:
        """See AsksConsent."""
        ours = payee.details.get("appid") == account.settings.get("appid", "").strip()
        return ours and settings.product(account) is settings.Product.AUTHORISED

    async def ask_consent(self, account: RailAccount, payee: Payee, display_name: str) -> Consent:
        """See AsksConsent."""
        found = await authorise.authorise(
            self._deps, account, payee.details["openid"], display_name
        )
        return Consent(found.consent, found.confirmation)

    async def consent(self, account: RailAccount, payee: Payee) -> Consent:
        """See AsksConsent."""
        found = await authorise.authorisation(self._deps, account, payee.details["openid"])
        return Consent(found.consent, found.confirmation)

    async def end_consent(self, account: RailAccount, payee: Payee) -> Consent:
        """See AsksConsent."""
        found = await authorise.close(self._deps, account, payee.details["openid"])
        return Consent(found.consent)

    async def receipt(self, account: RailAccount, key: str) -> bytes | None:
        """See GivesReceipts."""
        return await receipts.get(self._deps, account, key)
