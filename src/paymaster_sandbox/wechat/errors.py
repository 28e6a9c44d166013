"""Refusals in the words of WeChat Pay. The codes matter; the sentences are only like theirs."""

from __future__ import annotations

from collections.abc import Mapping


class V3Error(Exception):
    """A refusal of APIv3."""

    def __init__(
        self, status: int, code: str, message: str, detail: Mapping[str, object] | None = None
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.detail = detail

    def content(self) -> dict[str, object]:
        """The body of the answer."""
        found: dict[str, object] = {"code": self.code, "message": self.message}
        return found if self.detail is None else {**found, "detail": dict(self.detail)}


class V2Error(Exception):
    """A refusal of APIv2: of the message itself with `code` None, or of the business in it."""

    def __init__(self, code: str | None, message: str) -> None:
        super().__init__(f"{code or 'FAIL'}: {message}")
        self.code = code
        self.message = message


def wrong(field: str, issue: str, location: str = "body") -> V3Error:
    """A parameter that cannot be taken."""
    detail = {"field": field, "issue": issue, "location": location}
    return V3Error(400, "PARAM_ERROR", f"参数错误: {field} {issue}", detail)


def refused(message: str) -> V3Error:
    """Something that is well formed and still not possible."""
    return V3Error(400, "INVALID_REQUEST", message)


def missing(message: str = "记录不存在") -> V3Error:
    """There is no such thing, or not yet."""
    return V3Error(404, "NOT_FOUND", message)


def forbidden(message: str) -> V3Error:
    """The merchant may not."""
    return V3Error(403, "NO_AUTH", message)


def short_of_money() -> V3Error:
    """The account does not cover it."""
    return V3Error(403, "NOT_ENOUGH", "资金不足")
