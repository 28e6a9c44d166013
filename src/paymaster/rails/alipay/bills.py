"""The account's days: the log page by page, or the day's file, as the account is set up.

A day is asked for once it is over and was put together, at nine in the morning, Beijing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Final, cast

from paymaster.kernel.errors import Refusal
from paymaster.rails import bill_days, meaning
from paymaster.rails.alipay import calls, codes, log, table
from paymaster.rails.alipay.prepare import canonical
from paymaster.rails.alipay.settings import STATEMENTS
from paymaster.rails.base import Notice, RailAccount, RemoteFile, Statement
from paymaster.rails.deps import RailDeps, setting
from paymaster.rails.http import call
from paymaster.rails.meaning import Kind
from paymaster.rails.transport import MAX_FILE_BYTES
from paymaster.rails.yuan import UnreadableError, members, text

READY_HOUR: Final = 9
PAGE: Final = 2000
_MOST_PAGES: Final = 500
_NOT_THERE: Final = frozenset({"BILL_NOT_EXIST"})


async def fetch(deps: RailDeps, account: RailAccount, seen: frozenset[str]) -> Sequence[RemoteFile]:
    """See FetchesFiles. A day without a line has no file, and is asked for again while recent."""
    app_id = setting(account, "app_id")
    source = account.settings.get("statement", "").strip() or STATEMENTS[0]
    known = {log.day_of(name, app_id) for name in seen}
    read = _log if source == STATEMENTS[0] else _csv

    async def get(day: date) -> RemoteFile | None:
        body = await read(deps, account, day)
        if body is None:
            return None
        digest = hashlib.sha256(body).hexdigest()
        return RemoteFile(log.file_name(source, app_id, day, digest), body)

    days = bill_days.recent(deps.clock.now(), READY_HOUR)
    return await bill_days.fetch(account.name, days, known, get)


def read(
    account: RailAccount, name: str, body: bytes
) -> tuple[Sequence[Notice], Sequence[Statement]]:
    """See FetchesFiles. No notices: money that left may come back before its payee has it."""
    source = log.source_of(name)
    app_id = account.settings.get("app_id", "").strip()
    day = log.day_of(name, app_id)
    if day is None:
        raise Refusal("statement-foreign", "The log is about another app.")
    entries = table.entries(body) if source == "csv" else log.entries(body, app_id, day)
    return (), log.statement(account, name, day, entries)


async def _log(deps: RailDeps, account: RailAccount, day: date) -> bytes | None:
    """All pages of a day in one file; None if nothing was booked.

    Raises NeverSent or RailUnknown when they cannot be had.
    """
    lines: list[Mapping[str, object]] = []
    for page in range(1, _MOST_PAGES + 1):
        more, total = await _page(deps, account, day, page)
        lines += more
        if len(lines) >= total or not more:
            break
    else:
        raise meaning.error(Kind.TOO_LARGE, f"The log of {day} has too many pages.")
    if len(lines) != total:
        raise meaning.error(Kind.MALFORMED, f"The log of {day} is not whole.")
    return log.write(setting(account, "app_id"), day, lines) if lines else None


async def _page(
    deps: RailDeps, account: RailAccount, day: date, page: int
) -> tuple[list[Mapping[str, object]], int]:
    content = {
        "start_time": f"{day.isoformat()} 00:00:00",
        "end_time": f"{day.isoformat()} 23:59:59",
        "page_no": str(page),
        "page_size": str(PAGE),
    }
    said = await calls.ask(deps, account, calls.ACCOUNT_LOG, canonical(content))
    if not said.done:
        raise codes.failure(said)
    try:
        total, lines = str(said.found.get("total_size", "")), said.found.get("detail_list", [])
        if not (total.isascii() and total.isdigit()) or not isinstance(lines, list):
            raise UnreadableError("it has no list with its size")
        return [members(each, "a line") for each in cast("Sequence[object]", lines)], int(total)
    except UnreadableError as error:
        raise meaning.error(Kind.MALFORMED, f"The log cannot be read: {error}.") from None


async def _csv(deps: RailDeps, account: RailAccount, day: date) -> bytes | None:
    """The file of a day; None if there is none. Its address is good for half a minute."""
    content = canonical({"bill_type": "signcustomer", "bill_date": day.isoformat()})
    said = await calls.ask(deps, account, calls.DOWNLOAD_URL, content)
    if said.genuine and said.code in _NOT_THERE:
        return None
    if not said.done:
        raise codes.failure(said)
    try:
        url = text(said.found, "bill_download_url")
        answer = await call(
            deps.http, "GET", url, headers={"user-agent": calls.AGENT}, max_bytes=MAX_FILE_BYTES
        )
        if answer.status != 200:
            raise UnreadableError(f"its address answered {answer.status}")
        return table.unpacked(answer.body)
    except (UnreadableError, Refusal) as error:
        said_why = error.detail if isinstance(error, Refusal) else str(error)
        raise meaning.error(Kind.MALFORMED, f"The file of {day}: {said_why}") from None
