"""`/healthz`, `/readyz` and `/metrics` of a background role."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from paymaster.compose import Deps
from paymaster.db import ready
from paymaster.observe import metrics_response
from paymaster.roles.lanes import Lane


def health_app(
    deps: Deps,
    role: str,
    lanes: Sequence[Lane],
    info: Callable[[], Mapping[str, object]] = dict[str, object],
) -> Starlette:
    """The little server beside a background role; a lane that found a break makes it not ready.

    `info` is shown beside the faults and is none.
    """

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok", "role": role})

    async def readyz(_: Request) -> Response:
        faults = [f"lane {lane.name}: {lane.broken}" for lane in lanes if lane.broken]
        faults += await ready.faults(deps.dbs)
        status = 503 if faults else 200
        said = {"status": "not ready" if faults else "ok", "faults": faults, **info()}
        return JSONResponse(said, status)

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
