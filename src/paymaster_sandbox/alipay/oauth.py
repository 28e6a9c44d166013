"""People who let an app know who they are: codes that are good once, and tokens."""

from __future__ import annotations

import secrets
from typing import Final

from paymaster_sandbox.alipay.apps import App, Apps, Call
from paymaster_sandbox.alipay.wire import ProblemError, missing, text
from paymaster_sandbox.chassis import journal
from paymaster_sandbox.chassis.clock import SECOND
from paymaster_sandbox.chassis.store import Tx

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS alipay_code (
    code TEXT PRIMARY KEY, app_id TEXT NOT NULL, user_id TEXT NOT NULL, scope TEXT NOT NULL,
    until INTEGER NOT NULL, used INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS alipay_token (
    refresh TEXT PRIMARY KEY, access TEXT NOT NULL, app_id TEXT NOT NULL, user_id TEXT NOT NULL,
    scope TEXT NOT NULL, until INTEGER NOT NULL, refresh_until INTEGER NOT NULL
) WITHOUT ROWID;
"""

SCOPES: Final = frozenset({"auth_base", "auth_user"})
_CODE_SECONDS: Final = 600
_TOKEN_SECONDS: Final = 1_296_000
_REFRESH_SECONDS: Final = 2_592_000


class OAuth:
    """Codes and tokens. They are secrets, so they come from real chance and not from the seed."""

    def __init__(self, apps: Apps) -> None:
        self._apps = apps

    def agree(self, tx: Tx, app: App, user_id: str, scope: str) -> str:
        """A person agrees; the code for the app."""
        code = secrets.token_hex(16)
        tx.run(
            "INSERT INTO alipay_code (code, app_id, user_id, scope, until, used)"
            " VALUES (?, ?, ?, ?, ?, 0)",
            code, app.app_id, user_id, scope, tx.now + _CODE_SECONDS * SECOND,
        )  # fmt: skip
        journal.note(tx, "alipay.agreed", app=app.app_id, user=user_id, scope=scope)
        return code

    def token(self, tx: Tx, call: Call) -> dict[str, object]:
        """A code or a refresh token for tokens (`alipay.system.oauth.token`)."""
        call.needs("oauth")
        grant = text(call.fields, "grant_type", 32)
        if grant == "authorization_code":
            user_id, scope = self._redeem(tx, call)
        elif grant == "refresh_token":
            user_id, scope = self._refresh(tx, call)
        else:
            raise ProblemError("40002", "isv.grant-type-invalid", "授权类型无效")
        return self._issue(tx, call.app, user_id, scope)

    def _redeem(self, tx: Tx, call: Call) -> tuple[str, str]:
        if not call.fields.get("code"):
            raise missing("code")
        row = tx.one(
            "SELECT user_id, scope FROM alipay_code"
            " WHERE code = ? AND app_id = ? AND used = 0 AND until >= ?",
            str(call.fields["code"]), call.app.app_id, tx.now,
        )  # fmt: skip
        if row is None:
            raise ProblemError("40002", "isv.code-invalid", "授权码code无效")
        tx.run("UPDATE alipay_code SET used = 1 WHERE code = ?", str(call.fields["code"]))
        return row[0], row[1]

    def _refresh(self, tx: Tx, call: Call) -> tuple[str, str]:
        if not call.fields.get("refresh_token"):
            raise missing("refresh_token")
        row = tx.one(
            "SELECT user_id, scope, refresh_until FROM alipay_token"
            " WHERE refresh = ? AND app_id = ?",
            str(call.fields["refresh_token"]), call.app.app_id,
        )  # fmt: skip
        if row is None:
            raise ProblemError("40002", "isv.refresh-token-invalid", "刷新令牌refresh_token无效")
        if row[2] < tx.now:
            raise ProblemError("40002", "isv.refresh-token-time-out", "刷新令牌已过期")
        return row[0], row[1]

    def _issue(self, tx: Tx, app: App, user_id: str, scope: str) -> dict[str, object]:
        access, refresh = f"authb{secrets.token_hex(16)}", f"authb{secrets.token_hex(16)}"
        tx.run(
            "INSERT INTO alipay_token (refresh, access, app_id, user_id, scope, until,"
            " refresh_until) VALUES (?, ?, ?, ?, ?, ?, ?)",
            refresh, access, app.app_id, user_id, scope, tx.now + _TOKEN_SECONDS * SECOND,
            tx.now + _REFRESH_SECONDS * SECOND,
        )  # fmt: skip
        known = {"open_id": self._apps.open_id(tx, app.app_id, user_id)}
        if not app.options.open_id_only:
            known["user_id"] = user_id
        return {
            **known,
            "access_token": access,
            "expires_in": _TOKEN_SECONDS,
            "refresh_token": refresh,
            "re_expires_in": _REFRESH_SECONDS,
        }
