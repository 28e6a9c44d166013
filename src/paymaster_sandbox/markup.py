"""Plain HTML pages: no script, nothing from elsewhere, everything that is filled in escaped."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

_FRAME: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem;
  color: #1a1a1a; background: #fff; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #ddd;
  vertical-align: top; overflow-wrap: break-word; }
td.number, th.number { text-align: right; white-space: nowrap; }
form { display: inline-block; margin: 0 .5rem .3rem 0; }
button { font: inherit; padding: .2rem .7rem; cursor: pointer; }
a:focus, button:focus, select:focus { outline: 3px solid #1a5fb4; outline-offset: 1px; }
@media (prefers-color-scheme: dark) {
  body { color: #eee; background: #1b1b1b; }
  th, td { border-color: #444; }
  a { color: #8ab4f8; }
}
</style>
</head>
<body>
<h1>{{ title }}</h1>
{% block content %}{% endblock %}
</body>
</html>
"""

_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none';"
        " base-uri 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}

_MAX_FORM: Final = 64 * 1024
_LOCAL: Final = ("127.0.0.1", "localhost", "::1")


class Pages:
    """Templates by name; each fills the block `content` of the frame."""

    def __init__(self, **templates: str) -> None:
        whole = {
            name: "{% extends 'frame' %}{% block content %}" + text + "{% endblock %}"
            for name, text in templates.items()
        }
        self._environment = jinja2.Environment(
            loader=jinja2.DictLoader({"frame": _FRAME, **whole}), autoescape=True,
            undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip

    def show(self, template: str, title: str, status: int = 200, **filled: Any) -> Response:
        """The page."""
        text = self._environment.get_template(template).render(title=title, **filled)
        return HTMLResponse(text, status, _HEADERS)


async def form(request: Request) -> dict[str, str]:
    """The form that a button sent; nothing if it did not come from a page of ours.

    Nothing is what no button means, so it is refused without further ado.
    """
    body = await request.body()
    if not _from_here(request) or len(body) > _MAX_FORM:
        return {}
    return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))


def _from_here(request: Request) -> bool:
    """Whether a person on this machine sent it from one of our own pages, or from no page.

    Another site's page in the same browser may send forms here too; its address gives it away.
    """
    if urlsplit(f"//{request.headers.get('host', '')}").hostname not in _LOCAL:
        return False
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")
