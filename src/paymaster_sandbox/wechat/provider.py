"""WeChat Pay as one object, as the world mounts it."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.applications import Starlette

from paymaster_sandbox.wechat import (
    authorisations,
    batches,
    bills,
    enterprise,
    envelope,
    flow,
    linking,
    mishaps,
    orders,
    parties,
    payouts,
    platform,
    receipts,
    refunds,
    transfers,
)
from paymaster_sandbox.wechat.authorisations import Authorisations
from paymaster_sandbox.wechat.authorised_api import AuthorisedApi
from paymaster_sandbox.wechat.batches import Batches
from paymaster_sandbox.wechat.bill_api import BillApi
from paymaster_sandbox.wechat.bills import Bills
from paymaster_sandbox.wechat.control import Control
from paymaster_sandbox.wechat.enterprise import Enterprise
from paymaster_sandbox.wechat.envelope import Call, Envelope, Reply
from paymaster_sandbox.wechat.envelope2 import Envelope2
from paymaster_sandbox.wechat.flow import Flow
from paymaster_sandbox.wechat.hand import Hand
from paymaster_sandbox.wechat.keys import Keys
from paymaster_sandbox.wechat.linking import Linking
from paymaster_sandbox.wechat.notices import Notices
from paymaster_sandbox.wechat.order_api import OrderApi
from paymaster_sandbox.wechat.order_api2 import OrderApi2
from paymaster_sandbox.wechat.orders import Orders
from paymaster_sandbox.wechat.platform import Platform
from paymaster_sandbox.wechat.receipts import Receipts
from paymaster_sandbox.wechat.refunds import Refunds
from paymaster_sandbox.wechat.transfer_api import TransferApi
from paymaster_sandbox.wechat.transfers import Transfers

if TYPE_CHECKING:
    from starlette.routing import Route

    from paymaster_sandbox.chassis.base import Chassis
    from paymaster_sandbox.chassis.notify import Courier
    from paymaster_sandbox.chassis.schedule import Schedule
    from paymaster_sandbox.chassis.store import Tx


class Wechat:
    """The provider. Its keys are made when they are first needed."""

    SCHEMAS = (
        authorisations.SCHEMA,
        batches.SCHEMA,
        bills.SCHEMA,
        enterprise.SCHEMA,
        envelope.SCHEMA,
        flow.SCHEMA,
        linking.SCHEMA,
        mishaps.SCHEMA,
        orders.SCHEMA,
        parties.SCHEMA,
        payouts.SCHEMA,
        platform.SCHEMA,
        receipts.SCHEMA,
        refunds.SCHEMA,
        transfers.SCHEMA,
    )

    def __init__(self, chassis: Chassis, schedule: Schedule, courier: Courier, data: Path) -> None:
        self.chassis = chassis
        self.keys = Keys(data / "wechat", chassis.clock)
        self.platform = Platform(chassis, self.keys)
        self.flow = Flow(chassis)
        notices = Notices(chassis, courier, self.platform)
        transferring = Transfers(chassis, schedule, self.flow, notices)
        agreements = Authorisations(chassis, schedule, self.flow, notices)
        transferring.when_confirmed(agreements.agree_with)
        payments = Orders(chassis, self.flow)
        back = Refunds(schedule, self.flow, payments)
        self.hand = Hand(transferring, agreements, payments)
        box = Envelope(chassis, self.platform)
        files = Bills(chassis)
        old_box = Envelope2(chassis)
        transfer_api = TransferApi(transferring, self.platform)
        routes = [
            box.route("GET", "/v3/certificates", "certificates", self._certificates),
            *transfer_api.routes(box),
            *AuthorisedApi(transferring, transfer_api, agreements).routes(box),
            *Batches(schedule, self.flow, notices, self.platform).routes(box),
            *Enterprise(schedule, self.flow).routes(old_box),
            *OrderApi(payments, back, notices).routes(box),
            *BillApi(files).routes(box, old_box),
            *Receipts(schedule, transferring, files).routes(box),
            *OrderApi2(chassis, payments, back, notices).routes(old_box),
        ]
        self.linking = Linking(chassis)
        self.app = Starlette(routes=[*routes, *self.linking.routes()])

    @property
    def tls_ca_path(self) -> Path:
        """The file of `tls_ca`."""
        return self.keys.tls_ca_path

    @property
    def tls_ca(self) -> str:
        """The certificate that proves the TLS address, in PEM."""
        return self.keys.tls_ca_path.read_text()

    def tls(self) -> ssl.SSLContext:
        """What the TLS address demands and shows."""
        return self.keys.tls()

    def control_routes(self) -> list[Route]:
        """The knobs."""
        return Control(self).routes()

    def _certificates(self, tx: Tx, call: Call) -> Reply:
        return Reply(self.platform.certificates(tx, call.merchant))
