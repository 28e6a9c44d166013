"""The day's CSV file: GBK, notes that begin with #, values that end with a tab.

Columns are found by their names, whatever width the brackets have. The notes at the end count the
lines and add them up: a file whose own sums are not those of its lines is refused.
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Final

from paymaster.rails.alipay.log import Entry
from paymaster.rails.transport import MAX_FILE_BYTES, malformed
from paymaster.rails.yuan import booked_fen

NUMBER, REFERENCE, AT, KIND = "账务流水号", "商户订单号", "发生时间", "业务类型"
INCOME, EXPENSE, BALANCE = "收入金额(+元)", "支出金额(-元)", "账户余额(元)"
_NEEDED: Final = (NUMBER, REFERENCE, AT, KIND, INCOME, EXPENSE, BALANCE)
_NARROW: Final = str.maketrans({
    "\uff08": "(", "\uff09": ")", "\uff0b": "+", "\uff0d": "-", "\uff1a": ":", "\uff0c": ",",
})  # fmt: skip
_SUM: Final = re.compile(r"#(支出|收入)合计:([0-9]{1,9})笔,共(-?[0-9.]{1,20})元\Z")
_MOST_FILES: Final = 20


def unpacked(archive: bytes) -> bytes:
    """The file with the lines, out of an archive. Raises Refusal `statement-malformed`."""
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as packed:
            members = packed.infolist()[:_MOST_FILES]
            if sum(one.file_size for one in members) > MAX_FILE_BYTES:
                raise malformed("The archive holds too much.")
            for one in members:
                body = packed.read(one)
                if any(_is_header(line) for line in _lines(body)):
                    return body
    except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, OSError):
        raise malformed("The archive cannot be unpacked.") from None
    raise malformed("The archive has no file with lines of the account.")


def entries(body: bytes) -> list[Entry]:
    """The lines of the file. Raises Refusal `statement-malformed`."""
    if len(body) > MAX_FILE_BYTES or not body.endswith(b"\n"):
        raise malformed("The file is too large, or cut off.")
    found: list[Entry] = []
    sums: dict[str, tuple[int, int]] = {}
    header: list[str] | None = None
    for line in _lines(body):
        match = _SUM.match(line.translate(_NARROW).strip())
        if match is not None:
            sums[match.group(1)] = (int(match.group(2)), booked_fen(match.group(3)))
        elif line.startswith("#") or not line.strip():
            continue
        elif header is None:
            header = _cells(line.translate(_NARROW))
        else:
            found.append(_entry(header, _cells(line)))
    missing = [name for name in _NEEDED if name not in (header or ())]
    if missing:
        raise malformed(f"The file has no column {', '.join(missing)}.")
    for word, sign in (("收入", 1), ("支出", -1)):
        amounts = [one.amount for one in found if one.amount * sign > 0]
        if word not in sums or sums[word][0] != len(amounts):
            raise malformed("The file has another number of lines than it says.")
        if abs(sums[word][1]) != abs(sum(amounts)):
            raise malformed("The lines of the file do not give its sums.")
    return found


def _is_header(line: str) -> bool:
    names = _cells(line.translate(_NARROW)) if NUMBER in line else []
    return all(name in names for name in _NEEDED)


def _lines(body: bytes) -> Iterator[str]:
    try:
        yield from io.StringIO(body.decode("gb18030"), newline=None)
    except UnicodeDecodeError:
        raise malformed("The file is not in GBK.") from None


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line]), list[str]())]


def _entry(header: list[str], cells: list[str]) -> Entry:
    if len(cells) != len(header):
        raise malformed(f"A line has {len(cells)} values, not {len(header)}.")
    row: Mapping[str, str] = dict(zip(header, cells, strict=True))
    if any(name not in row for name in _NEEDED) or not row[NUMBER]:
        raise malformed("A line lacks a value.")
    income, expense = booked_fen(row[INCOME] or "0"), booked_fen(row[EXPENSE] or "0")
    return Entry(
        number=row[NUMBER],
        at=row[AT],
        amount=income - abs(expense),
        balance=booked_fen(row[BALANCE]),
        reference=row[REFERENCE],
        kind=row[KIND],
        remark=row.get("备注", ""),
    )
