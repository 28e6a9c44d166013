"""`/healthz`, `/readyz` and `/metrics` of a background role."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from paymaster.compose import Deps
from paymaster.db import partitions
from paymaster.db.tx import CellRead
from paymaster.kernel.errors import PaymasterError
from paymaster.observe import metrics_response
from paymaster.roles.lanes import Lane


async def readiness(deps: Deps, lanes: Sequence[Lane] = ()) -> list[str]:
    """What stands in the way of doing work; empty when ready.

    The database answers, every cell has partitions for at least a month ahead, no lane is broken.
    """
    faults = [f"lane {lane.name}: {lane.broken}" for lane in lanes if lane.broken]

    async def tables(tx: CellRead) -> list[str]:
        rows = await tx.tuples(
            "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.relispartition AND n.nspname = current_schema()"
        )
        return [row[0] for row in rows]

    try:
        for cell in deps.dbs.cells():
            names = await deps.dbs.cell(cell.number).read(tables)
            if partitions.months_ahead(names, deps.clock.now()) < 1:
                faults.append(f"cell {cell.number}: no partitions ahead, run `paymaster upgrade`")
    except PaymasterError as error:
        faults.append(error.slug)
    return faults


def health_app(deps: Deps, role: str, lanes: Sequence[Lane]) -> Starlette:
    """The little server beside a background role."""

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok", "role": role})

    async def readyz(_: Request) -> Response:
        faults = await readiness(deps, lanes)
        status = 503 if faults else 200
        return JSONResponse({"status": "not ready" if faults else "ok", "faults": faults}, status)

    async def metrics(_: Request) -> Response:
        body, content_type = metrics_response(deps.metrics)
        return Response(body, media_type=content_type)

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
        ]
    )
