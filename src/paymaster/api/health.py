"""`/healthz`, `/readyz` and `/metrics` of the web processes."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from paymaster.api.context import deps_of
from paymaster.db import ready
from paymaster.observe import metrics_response

router = APIRouter(include_in_schema=False)


@router.get("/healthz")
async def healthz() -> Response:
    """The process runs."""
    return JSONResponse({"status": "ok"})


@router.get("/readyz")
async def readyz(request: Request) -> Response:
    """The process can work."""
    faults = await ready.faults(deps_of(request).dbs)
    status = 503 if faults else 200
    return JSONResponse({"status": "not ready" if faults else "ok", "faults": faults}, status)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus."""
    body, content_type = metrics_response(deps_of(request).metrics)
    return Response(body, media_type=content_type)
