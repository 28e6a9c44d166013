"""One call from the request to the answer, with everything that may go wrong between.

Both interfaces bring a call that they have verified and an envelope that says how an answer of
theirs looks; the business in the middle is the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from paymaster_sandbox.alipay import trouble
from paymaster_sandbox.alipay.apps import Call
from paymaster_sandbox.alipay.trouble import Troubles
from paymaster_sandbox.alipay.wire import ProblemError, refused
from paymaster_sandbox.chassis import journal
from paymaster_sandbox.chassis.base import Chassis
from paymaster_sandbox.chassis.clock import SECOND
from paymaster_sandbox.chassis.store import Tx
from paymaster_sandbox.http import cut

Handler = Callable[[Tx, Call], Mapping[str, Any]]

_PRETENDED = {
    "fail_after": ("SYSTEM_ERROR", "系统繁忙"),
    "processing": ("REQUEST_PROCESSING", "支付处理中"),
    "unlisted_code": ("SANDBOX_NEVER_HEARD_OF", "未知错误"),
    "lied_no": ("PAYEE_NOT_EXIST", "收款账号不存在"),
    "lied_short": ("PAYER_BALANCE_NOT_ENOUGH", "余额不足 请充值后重试"),
}


class Envelope(Protocol):
    """How an interface answers."""

    def success(self, tx: Tx, fields: Mapping[str, Any], flaw: str | None) -> Response:
        """The answer to a call that was done."""
        ...

    def problem(self, tx: Tx, problem: ProblemError, *, signed: bool) -> Response:
        """The answer to a call that was refused."""
        ...


class Desk:
    """Does calls."""

    def __init__(
        self, chassis: Chassis, troubles: Troubles, handlers: Mapping[str, Handler]
    ) -> None:
        self._chassis = chassis
        self._troubles = troubles
        self._handlers = handlers

    def knows(self, method: str) -> bool:
        """Whether there is such a method."""
        return method in self._handlers

    async def serve(self, request: Request, call: Call, envelope: Envelope) -> Response:
        """Do the call and answer it, or do what a knob says instead."""
        with self._chassis.tx() as tx:
            before = self._troubles.first(tx, trouble.BEFORE, call.method)
            if before is not None:
                journal.note(tx, "alipay.trouble", knob=before, method=call.method)
        if before is not None:
            return await self._instead(request, before, envelope)
        try:
            with self._chassis.tx() as tx:
                fields = self._handlers[call.method](tx, call)
                flaw = self._troubles.first(
                    tx, (*trouble.AFTER, *trouble.HARMLESS), call.method
                )  # fmt: skip
                slow = trouble.setting(tx, "slow_seconds")
                if flaw is not None:
                    journal.note(tx, "alipay.trouble", knob=flaw, method=call.method)
        except ProblemError as problem:
            return self._refuse(call, envelope, problem)
        if slow:
            await asyncio.sleep(slow / SECOND)
        if flaw == "drop_answers":
            return await cut(request)
        with self._chassis.tx() as tx:
            if flaw in _PRETENDED:
                return envelope.problem(tx, refused(*_PRETENDED[flaw]), signed=True)
            return envelope.success(tx, fields, flaw)

    async def _instead(self, request: Request, knob: str, envelope: Envelope) -> Response:
        if knob == "drop_requests":
            return await cut(request)
        problem = {
            "fail_before": ProblemError("20000", "isp.unknow-error", "系统繁忙"),
            "rate_limit": ProblemError("40005", "isv.app-call-limited", "调用频次超限"),
            "refuse_unlisted": refused("SANDBOX_NEVER_HEARD_OF", "未知错误"),
        }[knob]
        with self._chassis.tx() as tx:
            return envelope.problem(tx, problem, signed=True)

    def _refuse(self, call: Call, envelope: Envelope, problem: ProblemError) -> Response:
        with self._chassis.tx() as tx:
            if problem.then is not None:
                problem.then(tx)
            journal.note(tx, "alipay.refused", method=call.method, code=problem.sub_code)
            return envelope.problem(tx, problem, signed=True)


def reordered(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The same, in another order and with fields that nobody has heard of."""
    extra = {"sandbox_extra": {"nested": ["}", '"sign":']}, "sandbox_empty": None}
    return {**extra, **dict(reversed(list(fields.items())))}
