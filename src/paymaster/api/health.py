"""`/healthz`, `/readyz` and `/metrics` of the web processes, and what "ready" means for all."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from paymaster.api.context import deps_of
from paymaster.compose import Deps
from paymaster.db import partitions
from paymaster.db.tx import CellRead
from paymaster.kernel.errors import PaymasterError
from paymaster.observe import metrics_response

router = APIRouter(include_in_schema=False)


async def readiness(deps: Deps) -> list[str]:
    """What stands in the way of doing work; empty when ready.

    The database answers, and every cell has partitions for at least a month ahead.
    """
    faults: list[str] = []

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


@router.get("/healthz")
async def healthz() -> Response:
    """The process runs."""
    return JSONResponse({"status": "ok"})


@router.get("/readyz")
async def readyz(request: Request) -> Response:
    """The process can work."""
    faults = await readiness(deps_of(request))
    status = 503 if faults else 200
    return JSONResponse({"status": "not ready" if faults else "ok", "faults": faults}, status)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus."""
    body, content_type = metrics_response(deps_of(request).metrics)
    return Response(body, media_type=content_type)
