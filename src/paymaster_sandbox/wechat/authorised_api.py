"""The calls about agreements, and transfers that need no confirmation because of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from paymaster_sandbox.wechat import scenes
from paymaster_sandbox.wechat.authorisations import Authorisations, Wanted
from paymaster_sandbox.wechat.envelope import Call, Envelope, Reply
from paymaster_sandbox.wechat.errors import wrong
from paymaster_sandbox.wechat.fields import ORDER_NO
from paymaster_sandbox.wechat.times import beijing
from paymaster_sandbox.wechat.transfer_api import (
    BASE,
    TransferApi,
    check_payee,
    check_payer,
    described,
)

if TYPE_CHECKING:
    from starlette.routing import Route

    from paymaster_sandbox.chassis.store import Tx
    from paymaster_sandbox.wechat.fields import Fields
    from paymaster_sandbox.wechat.transfers import Transfers

ASK: Final = "/v3/fund-app/mch-transfer/user-confirm-authorization"


class AuthorisedApi:
    """The public face of `Authorisations`."""

    def __init__(
        self, transfers: Transfers, api: TransferApi, authorisations: Authorisations
    ) -> None:
        self._transfers = transfers
        self._api = api
        self._authorisations = authorisations

    def routes(self, envelope: Envelope) -> list[Route]:
        """The paths."""
        one = f"{ASK}/out-authorization-no/{{out_no}}"
        return [
            envelope.route("POST", ASK, "authorization.create", self._ask),
            envelope.route("GET", one, "authorization.query", self._query),
            envelope.route("POST", f"{one}/close", "authorization.close", self._close),
            envelope.route("POST", f"{BASE}/transfer", "transfer.authorized", self._transfer),
            envelope.route(
                "POST", f"{BASE}/pre-transfer-with-authorization", "transfer.create", self._both
            ),
        ]

    def _ask(self, tx: Tx, call: Call) -> Reply:
        check_payer(call, "authorised")
        given = call.fields()
        out_no = given.text("out_authorization_no", 32, ORDER_NO)
        appid, openid = given.text("appid", 32), given.text("openid", 64)
        check_payee(tx, call.merchant, appid, openid)
        scene_id, perception = _scene(call, given)
        wanted = Wanted(
            out_no=out_no, appid=appid, openid=openid, scene=scene_id,
            display=given.text("user_display_name", 32), perception=perception,
            notify_url=given.text("authorization_notify_url", 256),
        )  # fmt: skip
        if given.has("scene_info"):
            _scene_info(given.group("scene_info"))
        given.done()
        made = self._authorisations.ask(tx, call.merchant, wanted)
        content: dict[str, object] = {
            "out_authorization_no": made.out_no,
            "state": made.state,
            "create_time": beijing(made.created),
        }
        if made.state == "WAIT_USER_CONFIRM":
            content["package_info"] = made.package
        return Reply(content)

    def _query(self, tx: Tx, call: Call) -> Reply:
        return Reply(self._authorisations.shown(tx, call.merchant, call.part("out_no")).public())

    def _close(self, tx: Tx, call: Call) -> Reply:
        call.no_body()
        found = self._authorisations.shown(tx, call.merchant, call.part("out_no"))
        return Reply(self._authorisations.close(tx, found, "CLOSE_VIA_MCH_API").public())

    def _transfer(self, tx: Tx, call: Call) -> Reply:
        """Pay somebody who has agreed; a number that paid before needs the agreement no more."""
        check_payer(call, "authorised")
        given = call.fields()
        number = given.maybe("authorization_id", 64)
        out_no = given.maybe("out_authorization_no", 32)
        if (number is None) == (out_no is None):
            raise wrong("authorization_id", "与out_authorization_no必填其一")
        scene_id = given.text("transfer_scene_id", 36)
        known = self._transfers.known(tx, call.merchant, given.text("out_bill_no", 32, ORDER_NO))
        if known is not None:
            payee = (known.appid, known.openid)
        else:
            agreed = self._authorisations.effective(
                tx, call.merchant, scene_id, number=number, out_no=out_no
            )
            payee = (agreed.appid, agreed.openid)
        if given.text("appid", 32) != payee[0]:
            raise wrong("appid", "与授权不一致")
        bill = self._api.read(tx, call, given, payee)
        given.done()
        self._api.take(tx, call.merchant, bill)
        return described(self._transfers.found(tx, call.merchant, bill.out_no), call)

    def _both(self, tx: Tx, call: Call) -> Reply:
        """A transfer to confirm that asks for the agreement in the same step."""
        check_payer(call, "authorised")
        given = call.fields()
        info = given.group("authorization_info") if given.has("authorization_info") else None
        scene_id = given.text("transfer_scene_id", 36)
        bill = self._api.read(tx, call, given)
        wanted: Wanted | None = None
        if info is not None:
            wanted = Wanted(
                out_no=info.text("out_authorization_no", 32, ORDER_NO), appid=bill.appid,
                openid=bill.openid, scene=scene_id, display=info.text("user_display_name", 32),
                perception=given.maybe("user_recv_perception", 32),
                notify_url=info.text("authorization_notify_url", 256), bill_no=bill.bill_no,
            )  # fmt: skip
            info.done()
        given.done()
        reply = self._api.take(tx, call.merchant, bill)
        if wanted is None:
            return reply
        asked = self._authorisations.ask(tx, call.merchant, wanted)
        assert reply.content is not None
        return Reply(
            {
                **reply.content,
                "user_display_name": asked.display,
                "out_authorization_no": asked.out_no,
            }
        )


def _scene(call: Call, given: Fields) -> tuple[str, str | None]:
    scene_id = given.text("transfer_scene_id", 36)
    scene = scenes.check_scene(scene_id, call.merchant.scenes)
    perception = given.maybe("user_recv_perception", 32)
    scenes.check_perception(scene, perception)
    return scene_id, perception


def _scene_info(info: Fields) -> None:
    for name in ("client_ip", "device_id", "device_type"):
        info.maybe(name, 64)
    info.done()
