"""How routes come into an application."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI


def serve_routes(app: FastAPI, router: APIRouter) -> None:
    """Serve a router's routes as they are.

    They are complete once their module is imported: nothing of the application is written into
    them. `include_router` makes each of them anew for each application when that is first asked,
    which takes a seventh of a second, and then looks for the route of each request twice.
    """
    app.router.routes.extend(router.routes)
