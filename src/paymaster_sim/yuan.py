"""WeChat Pay and Alipay of one run: what we have there, what goes wrong, what was really paid."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from paymaster.rails.base import RailAccount
from paymaster.rails.wechat.authorise import authorization_no
from paymaster_sandbox import World
from paymaster_sandbox.alipay import trouble
from paymaster_sandbox.alipay.apps import Options, User
from paymaster_sandbox.chassis import faults
from paymaster_sandbox.chassis.clock import SECOND, moment
from paymaster_sandbox.chassis.store import Tx
from paymaster_sandbox.wechat import mishaps, parties
from paymaster_sandbox.wechat.errors import V3Error
from paymaster_sandbox.wechat.flow import Movement
from paymaster_sim.merchants import (
    ALIPAY,
    APP_ID,
    APPID,
    CONSENT,
    HOOKS,
    MCHIDS,
    PRODUCTS,
    SCENE_ID,
    SELLER_ID,
    WECHAT,
    Merchants,
)

NOBODY_MINDS = 10**9
"""A limit that no run reaches."""

_PAID = """
    SELECT reference, openid, amount, 'paid' FROM wechat_paid
    UNION ALL SELECT out_no, openid, amount,
        CASE WHEN state IN ('FAIL', 'CANCELLED') THEN 'failed' ELSE 'pending' END
    FROM wechat_bill WHERE state <> 'SUCCESS'
    UNION ALL SELECT out_biz_no, payee, amount, CASE status WHEN 'SUCCESS' THEN 'paid'
        WHEN 'REFUND' THEN 'returned' WHEN 'FAIL' THEN 'failed' ELSE 'pending' END
    FROM alipay_transfer
"""
_DAYS = """
    SELECT DISTINCT mchid, (at + 28800000000) / 86400000000 FROM wechat_flow
    UNION SELECT DISTINCT app_id, (at + 28800000000) / 86400000000 FROM alipay_log
"""
_BILLS_AFTER = timedelta(days=1, hours=2, minutes=5)
"""So long after a day began in London its bills are there: at five past ten in Beijing."""

_EPOCH = moment(0)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A transfer that waits for its payee. `package` is what opens it in the payee's app."""

    bill_no: str
    reference: str
    openid: str
    package: str


class Yuan:
    """Both providers, for a run that uses them."""

    def __init__(self, world: World, ours: Merchants) -> None:
        self._world = world
        self._ours = ours
        self._keys: dict[str, str] = {}

    def secret(self, name: str) -> str | None:
        """What our store holds under a name: the providers' keys as they were last looked up."""
        return self._keys.get(name) or self._ours.secret(name)

    # ------------------------------------------------------------------------ what is there first

    def open(self, minor: int, payees: Sequence[tuple[str, str]], *, agreed: bool) -> None:
        """Our accounts with so much on each, and everybody whom we pay, by openid and user id.

        With `agreed` all of them have agreed to WeChat's transfers once and for all.
        """
        ours = CONSENT if agreed else WECHAT
        with self._world.chassis.tx() as tx:
            self._merchant(tx, ours)
            options = Options(
                gateway_url=HOOKS + ALIPAY, day_limit=NOBODY_MINDS, payee_day_limit=NOBODY_MINDS
            )
            alipay = self._world.alipay.apps
            alipay.open(tx, APP_ID, self._ours.app_certificate, SELLER_ID, 0, options)
            for number, (openid, user_id) in enumerate(payees):
                person = f"p{number}"
                parties.keep_user(
                    tx, parties.User(openid, APPID, person, "王小明", f"u{number}", False, "wait")
                )
                alipay.add_user(
                    tx, User(user_id, f"{person}@sim", "王小明", verified=True, blocked=False)
                )
                if agreed:
                    self._agree(tx, openid)
        for name in (ours, ALIPAY):
            self.top_up(name, minor)
        self.learn()

    def _merchant(self, tx: Tx, name: str) -> None:
        kept = parties.Merchant(
            mchid=MCHIDS[name],
            name="Zahlstelle",
            public_key=self._ours.public,
            serial=self._ours.serials[name],
            certificate=self._ours.certificates[name],
            apiv3_key=self._ours.apiv3_key,
            apiv2_key="",
            product=PRODUCTS[name],
            platform="both",
            mixed_percent=30,
            addresses=None,
            account="OPERATION",
            notify_url=None,
            least=1,
            most=NOBODY_MINDS,
            payee_day=NOBODY_MINDS,
            payee_day_count=NOBODY_MINDS,
            merchant_day=NOBODY_MINDS,
            scenes=None,
        )
        parties.keep_merchant(tx, kept, [APPID])

    def _agree(self, tx: Tx, openid: str) -> None:
        """A payee lets one of our merchants transfer without asking, for the first time or anew."""
        merchant = parties.merchant(tx, MCHIDS[CONSENT])
        if merchant is None:
            raise AssertionError("the merchant is missing")
        account = RailAccount(0, CONSENT, "", "", {"appid": APPID, "scene_id": SCENE_ID}, {})
        count = "SELECT count(*) FROM wechat_authorization WHERE openid = ?"
        self._world.wechat.hand.agree_at_once(
            tx, merchant, APPID, openid, SCENE_ID,
            authorization_no(account, openid, int(tx.value(count, openid))),
        )  # fmt: skip

    # ----------------------------------------------------------------------------- what goes on

    def learn(self) -> None:
        """An operator copies the providers' keys into our store."""
        wechat, alipay = self._world.wechat, self._world.alipay.ring
        with self._world.chassis.tx() as tx:
            for name, mchid in MCHIDS.items():
                merchant = parties.merchant(tx, mchid)
                if merchant is None:
                    continue
                ring = wechat.platform.ring(tx, merchant).items()
                found = {serial: key.certificate or key.public_pem for serial, key in ring}
                self._keys[f"yuan-keys-{name}"] = json.dumps(found)
            newest = range(1, alipay.newest(tx) + 1)
            certificates = [alipay.certificates.certificate(number) for number in newest]
            self._keys[f"yuan-keys-{ALIPAY}"] = json.dumps(certificates)

    def rotate(self, kind: str) -> None:
        """A provider signs with a new key: of WeChat's two kinds, or Alipay's."""
        with self._world.chassis.tx() as tx:
            if kind == ALIPAY:
                self._world.alipay.ring.newest(tx)
                self._world.alipay.ring.rotate(tx)
            else:
                self._world.wechat.platform.rotate(tx, kind)

    def top_up(self, name: str, minor: int) -> None:
        """Our own money arrives at one of them."""
        with self._world.chassis.tx() as tx:
            if name == ALIPAY:
                self._world.alipay.apps.top_up(tx, APP_ID, minor)
                return
            number = self._world.wechat.flow.number(tx, "7")
            movement = Movement(
                mchid=MCHIDS[name], account="OPERATION", amount=minor, kind="topup",
                business_no=number,
            )  # fmt: skip
            self._world.wechat.flow.book(tx, movement, "wechat/outside")

    def mishap(self, call: str, what: str, times: int, number: int = 0) -> None:
        """Something will go wrong with a kind of call of WeChat's, or with its notices."""
        with self._world.chassis.tx() as tx:
            mishaps.arm(tx, call, what, times=times, percent=100, text="", number=number)

    def knobs(self, values: dict[str, int]) -> None:
        """The same at Alipay, by the names of its faults; those named seconds are in seconds."""
        scaled = {
            f"{trouble.NAME}.{name}": value * SECOND if name.endswith("_seconds") else value
            for name, value in values.items()
        }
        with self._world.chassis.tx() as tx:
            faults.arm(tx, scaled, None)

    def setting(self, name: str, value: float) -> None:
        """Something lasting about WeChat."""
        with self._world.chassis.tx() as tx:
            mishaps.set_to(tx, name, value)

    def calm(self) -> None:
        """No fault strikes any more, and our keys are theirs."""
        with self._world.chassis.tx() as tx:
            mishaps.clear(tx)
            for name, value in mishaps.SETTINGS.items():
                mishaps.set_to(tx, name, value)
            tx.run("DELETE FROM fault WHERE name LIKE ?", f"{trouble.NAME}.%")
        self.learn()

    # ------------------------------------------------------------------------------- people's acts

    def waiting(self) -> list[Waiting]:
        """What waits for its payee, oldest first."""
        with self._world.chassis.tx() as tx:
            rows = tx.all(
                "SELECT bill_no, out_no, openid, package FROM wechat_bill"
                " WHERE state = 'WAIT_USER_CONFIRM' ORDER BY created, bill_no"
            )
        return [Waiting(*row) for row in rows]

    def act(self, bill_no: str, what: str) -> bool:
        """A payee confirms or refuses; False if the provider lets it be done no more."""
        with self._world.chassis.tx() as tx:
            try:
                self._world.wechat.hand.act(tx, "transfer", bill_no, what, None)
            except V3Error:
                return False
        return True

    def consent(self, openid: str, *, given: bool) -> None:
        """A payee withdraws the agreement, or gives another."""
        hand = self._world.wechat.hand
        with self._world.chassis.tx() as tx:
            row = tx.one(
                "SELECT id FROM wechat_authorization WHERE openid = ? AND state = 'TAKING_EFFECT'",
                openid,
            )
            if given and row is None:
                self._agree(tx, openid)
            elif not given and row is not None:
                hand.act(tx, "authorization", row[0], "withdraw", None)

    def packages(self) -> list[str]:
        """Everything that has ever opened a transfer in a payee's app."""
        with self._world.chassis.tx() as tx:
            rows = tx.all("SELECT package FROM wechat_bill WHERE package IS NOT NULL")
        return [row[0] for row in rows]

    # ---------------------------------------------------------------------------- what is so there

    def paid(self) -> list[tuple[str, str, int, str]]:
        """Reference, payee, amount and state of every order; one row each time it was paid."""
        with self._world.chassis.tx() as tx:
            return tx.all(_PAID)

    def balances(self) -> dict[str, int]:
        """What we have there, by account."""
        with self._world.chassis.tx() as tx:
            found = {n: parties.balance(tx, mchid, "OPERATION") for n, mchid in MCHIDS.items()}
            return {**found, ALIPAY: self._world.alipay.apps.balance(tx, APP_ID)}

    def bills(self, now: datetime) -> tuple[int, datetime | None]:
        """How many days' bills with something in them there are, and when the next one is."""
        with self._world.chassis.tx() as tx:
            rows = tx.all(_DAYS)
        ready = [_EPOCH + timedelta(days=day) + _BILLS_AFTER for _, day in rows]
        return sum(at <= now for at in ready), min((at for at in ready if at > now), default=None)
