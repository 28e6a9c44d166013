"""Reads a JSON object as strictly as the provider does: nothing unknown, nothing null."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, cast

from paymaster_sandbox.wechat.errors import V3Error, wrong

ORDER_NO = re.compile(r"[0-9A-Za-z]{1,32}")
_LAST_OF_THREE_BYTES = 0xFFFF


class Fields:
    """One object of a request. Ask for every field, then `done`."""

    def __init__(self, given: Mapping[str, Any], path: str = "") -> None:
        self._given = dict(given)
        self._path = path
        self._asked: set[str] = set()

    def has(self, name: str) -> bool:
        """Whether the field is there."""
        return name in self._given

    def text(self, name: str, most: int, pattern: re.Pattern[str] | None = None) -> str:
        """A text of 1 to `most` characters."""
        found = self._take(name)
        if not isinstance(found, str):
            raise wrong(self._path + name, "应为字符串")
        if not 1 <= len(found) <= most:
            raise wrong(self._path + name, f"长度应在1到{most}之间")
        if any(ord(char) > _LAST_OF_THREE_BYTES for char in found):
            raise wrong(self._path + name, "含有超过3字节的UTF-8字符")
        if pattern is not None and pattern.fullmatch(found) is None:
            raise wrong(self._path + name, "格式错误")
        return found

    def maybe(self, name: str, most: int) -> str | None:
        """The same, where the field may be left out."""
        return self.text(name, most) if self.has(name) else None

    def choice(self, name: str, allowed: tuple[str, ...], default: str | None = None) -> str:
        """One of some words."""
        if default is not None and not self.has(name):
            return default
        found = self.text(name, 64)
        if found not in allowed:
            raise wrong(self._path + name, "枚举值错误")
        return found

    def fen(self, name: str) -> int:
        """An amount: a whole number of fen, one at least."""
        found = self._take(name)
        if not isinstance(found, int) or isinstance(found, bool):
            raise wrong(self._path + name, "应为整数")
        if not 1 <= found <= 10**13:
            raise wrong(self._path + name, "应大于0")
        return found

    def flag(self, name: str) -> bool:
        """True or false; false if left out."""
        if not self.has(name):
            return False
        found = self._take(name)
        if not isinstance(found, bool):
            raise wrong(self._path + name, "应为布尔值")
        return found

    def group(self, name: str) -> Fields:
        """An object inside."""
        found = self._take(name)
        if not isinstance(found, dict):
            raise wrong(self._path + name, "应为对象")
        return Fields(cast("dict[str, Any]", found), f"{self._path}{name}/")

    def groups(self, name: str, most: int) -> list[Fields]:
        """A list of 1 to `most` objects."""
        found = self._take(name)
        if not isinstance(found, list):
            raise wrong(self._path + name, "应为数组")
        items = cast("list[Any]", found)
        if not 1 <= len(items) <= most:
            raise wrong(self._path + name, f"应有1到{most}项")
        if not all(isinstance(item, dict) for item in items):
            raise wrong(self._path + name, "应为对象数组")
        return [Fields(item, f"{self._path}{name}/{at}/") for at, item in enumerate(items)]

    def done(self) -> None:
        """Refuses what nobody asked for."""
        for name in self._given:
            if name not in self._asked:
                raise wrong(self._path + name, "未知字段")

    def _take(self, name: str) -> Any:
        self._asked.add(name)
        if name not in self._given:
            raise wrong(self._path + name, "缺少必填字段")
        found = self._given[name]
        if found is None:
            raise wrong(self._path + name, "不能为null")
        return found


def read(body: bytes) -> Fields:
    """The body of a request.

    Raises:
        V3Error: not a JSON object, or a name twice in one object.
    """
    try:
        found = json.loads(body, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise V3Error(400, "PARAM_ERROR", "请求体不是合法的JSON") from error
    if not isinstance(found, dict):
        raise V3Error(400, "PARAM_ERROR", "请求体应为JSON对象")
    return Fields(cast("dict[str, Any]", found))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name twice")
    return found
