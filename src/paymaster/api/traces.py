"""One id from the app's event to the bank line."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Path

from paymaster.api.context import Reads
from paymaster.api.door import Door
from paymaster.api.models import Reply
from paymaster.api.shapes_operate import TraceOut
from paymaster.db import traces
from paymaster.db.traces import Said, Traced
from paymaster.db.tx import CellRead
from paymaster.kernel.clock import rfc3339
from paymaster.kernel.errors import NotFound
from paymaster.withdraw import view
from paymaster.withdraw.view import Story

router = APIRouter(route_class=Door, tags=["traces"])
_TRACE = re.compile(r"[0-9a-f]{32}\Z", re.ASCII)


@router.get("/v1/traces/{trace_id}", response_model=TraceOut)
async def get_trace(
    call: Reads, trace_id: Annotated[str, Path(max_length=64, description="32 hex digits.")]
) -> Reply:
    """What was written under a trace id in every cell, and the stories of its withdrawals.

    At most 200 commits, acts and messages of each cell are shown.
    """
    if not _TRACE.match(trace_id):
        raise NotFound("not-found", "A trace id has 32 small hex digits.")

    async def work(tx: CellRead) -> tuple[int, Traced, list[Story]]:
        found = await traces.find(tx, trace_id)
        return tx.cell, found, await view.of_trace(tx, found)

    parts = await call.everywhere(work)
    commits = [commit for cell, found, _ in parts for commit in _commits(cell, found)]
    if not commits:
        raise NotFound("not-found", "Nothing was written under this trace id.")
    stories = [story.wire() for _, _, found in parts for story in found]
    commits.sort(key=lambda commit: (commit["recorded_at"], commit["cell"], commit["seq"]))
    return Reply({"trace_id": trace_id, "commits": commits, "withdrawals": stories})


def _commits(cell: int, found: Traced) -> list[dict[str, Any]]:
    return [
        {
            "cell": cell,
            "seq": commit.last_seq,
            "recorded_at": rfc3339(commit.recorded_at),
            "actor": commit.actor,
            "acts": [_said(one) for one in found.acts if one.commit_id == commit.id],
            "messages": [_said(one) for one in found.messages if one.commit_id == commit.id],
        }
        for commit in found.commits
    ]


def _said(one: Said) -> dict[str, Any]:
    return {"name": one.name, "subject": one.subject, "detail": one.detail}
