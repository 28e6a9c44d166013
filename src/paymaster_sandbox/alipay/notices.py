"""What the provider tells its customers: signed forms, sent until the answer is `success`.

Changes of transfers go to the one address that the app has for messages, in GBK; changes of trades
to the address that came with the trade. A notice keeps its number through all tries.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

from cryptography.hazmat.primitives.asymmetric import rsa

from paymaster_sandbox.alipay import trouble
from paymaster_sandbox.alipay.apps import Apps, number
from paymaster_sandbox.alipay.ring import Ring
from paymaster_sandbox.alipay.signing import canonical, sign
from paymaster_sandbox.alipay.trouble import Troubles
from paymaster_sandbox.alipay.wire import beijing
from paymaster_sandbox.chassis.base import Chassis
from paymaster_sandbox.chassis.clock import SECOND
from paymaster_sandbox.chassis.notify import Addressed, Courier, Family, Heard, Outgoing
from paymaster_sandbox.chassis.store import Tx

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS alipay_told (
    app_id TEXT PRIMARY KEY, body BLOB NOT NULL
) WITHOUT ROWID;
"""

_MINUTE: Final = 60 * SECOND
DELAYS: Final = tuple(minutes * _MINUTE for minutes in (4, 10, 10, 60, 120, 360, 900))
_UNSIGNED: Final = frozenset({"sign", "sign_type"})
_LIE: Final = {"SUCCESS": "FAIL", "FAIL": "SUCCESS", "REFUND": "SUCCESS"}


class Notices:
    """Writes notices and says where they go."""

    def __init__(
        self, chassis: Chassis, courier: Courier, apps: Apps, ring: Ring, troubles: Troubles
    ) -> None:
        self._chassis = chassis
        self._courier = courier
        self._apps = apps
        self._ring = ring
        self._troubles = troubles
        self._stranger: rsa.RSAPrivateKey | None = None
        courier.family("alipay", Family(self._address, DELAYS, _acknowledges))

    def message(self, tx: Tx, app_id: str, method: str, content: Mapping[str, str]) -> None:
        """Tell an app's message address of something."""
        app = self._apps.find(tx, app_id)
        if app is None or app.options.gateway_url is None:
            return
        params = {
            "app_id": app_id,
            "notify_id": number(tx, self._chassis, "notify"),
            "utc_timestamp": str(self._machine_seconds(tx) * 1000),
            "msg_method": method,
            "version": "1.1",
            "charset": "GBK",
            "biz_content": _compact(content),
        }
        lie = {**content, "status": _LIE.get(content["status"], "SUCCESS")}
        altered = {**content, "trans_amount": f"9{content['trans_amount']}"}
        self._send(
            tx, params, app.options.gateway_url,
            forged={**params, "biz_content": _compact(lie)},
            tampered={**params, "biz_content": _compact(altered)},
        )  # fmt: skip

    def trade(self, tx: Tx, url: str, charset: str, about: Mapping[str, str]) -> None:
        """Tell of a trade, at the address that came with it."""
        params = {
            "notify_time": beijing(tx.now),
            "notify_type": "trade_status_sync",
            "notify_id": number(tx, self._chassis, "notify"),
            "version": "1.0",
            "charset": charset,
            "auth_app_id": about["app_id"],
            **about,
        }
        lie = "TRADE_SUCCESS" if about["trade_status"] == "TRADE_CLOSED" else "TRADE_CLOSED"
        self._send(
            tx, params, url, forged={**params, "trade_status": lie},
            tampered={**params, "total_amount": f"9{about['total_amount']}"},
        )  # fmt: skip

    def _machine_seconds(self, tx: Tx) -> int:
        """The provider's own time, with which receivers compare theirs; not the virtual one."""
        wrong = trouble.setting(tx, "skew_seconds") // SECOND
        return self._chassis.clock.transport_seconds() + wrong

    def _send(
        self, tx: Tx, params: dict[str, str], url: str, *, forged: dict[str, str],
        tampered: dict[str, str],
    ) -> None:  # fmt: skip
        """Queue the true notice as the knobs say, and beside it what they plant."""
        body = _compact({"url": url, "params": params}).encode()
        strikes = self._troubles.strikes
        late = trouble.setting(tx, "notice_late_seconds") if strikes(tx, "notice_late") else 0
        copies = max(1, trouble.setting(tx, "notice_copies"))
        after = () if strikes(tx, "notice_lose") else (late,) * copies
        self._courier.queue(tx, params["notify_id"], _channel(params), body, after=after)
        if strikes(tx, "notice_forge"):
            self._plant(tx, url, forged, flaw="stranger")
        if strikes(tx, "notice_tamper"):
            self._plant(tx, url, params, shown=tampered)
        if strikes(tx, "notice_wrong_app"):
            self._plant(tx, url, {**params, "app_id": "2021000000000001"})
        told = tx.one("SELECT body FROM alipay_told WHERE app_id = ?", params["app_id"])
        if told is not None and strikes(tx, "notice_replay"):
            again = f"{params['notify_id']}R"
            self._courier.queue(tx, again, _channel(params), told[0], genuine=False)
        if told is None:
            tx.run("INSERT INTO alipay_told (app_id, body) VALUES (?, ?)", params["app_id"], body)

    def _plant(
        self, tx: Tx, url: str, params: dict[str, str], *, flaw: str = "",
        shown: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        """Queue something that must not be believed."""
        planted = {**params, "notify_id": number(tx, self._chassis, "notify")}
        content: dict[str, Any] = {"url": url, "params": planted, "flaw": flaw}
        if shown is not None:
            content["shown"] = {**shown, "notify_id": planted["notify_id"]}
        self._courier.queue(
            tx, planted["notify_id"], _channel(params), _compact(content).encode(), genuine=False
        )

    def _address(self, tx: Tx, out: Outgoing) -> Addressed | None:
        """The form as it is sent now: signed anew at every try."""
        content: dict[str, Any] = json.loads(out.body)
        params: dict[str, str] = content["params"]
        charset = params["charset"]
        message = canonical(params, without=_UNSIGNED).encode(charset)
        if content.get("flaw") == "stranger":
            signature = sign(self._strange_key(), message)
        else:
            signature, _ = self._ring.sign(tx, message)
        shown = {**content.get("shown", params), "sign_type": "RSA2", "sign": signature}
        return Addressed(
            content["url"],
            {"Content-Type": f"application/x-www-form-urlencoded; charset={charset}"},
            urlencode(shown, encoding=charset).encode("ascii"),
        )

    def _strange_key(self) -> rsa.RSAPrivateKey:
        """A key that is nobody's."""
        if self._stranger is None:
            self._stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        return self._stranger


def _channel(params: Mapping[str, str]) -> str:
    return f"alipay/{params['app_id']}"


def _acknowledges(heard: Heard) -> bool:
    """Nothing else but the word counts, whatever the status."""
    return heard.status == 200 and heard.body == b"success"


def _compact(content: Mapping[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))
