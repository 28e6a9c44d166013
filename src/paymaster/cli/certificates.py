"""`paymaster certificates`: a CA of the installation's own, and a certificate for each role."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paymaster.kernel.clock import WallClock
from paymaster.settings import load_settings

app = typer.Typer(help="Certificates by which the processes know each other.", no_args_is_help=True)

Folder = Annotated[
    Path | None,
    typer.Option(help="Where they lie. Default: `certificates` in `database.data_dir`."),
]
OTHERS = ("cli", "owner", "metrics", "database", "broker")


def _folder(given: Path | None) -> Path:
    return given or load_settings().database.data_dir / "certificates"


@app.command("init")
def init(folder: Folder = None) -> None:
    """Make the CA, and print the settings that use it."""
    from paymaster.roles import certificates

    where = _folder(folder)
    ca = certificates.make_ca(where, WallClock().now())
    print(f'[peers]\nca = "{ca}"')
    print(f'certificate = "{where}/{{role}}.pem"\nkey = "{where}/{{role}}-key.pem"')


@app.command("issue")
def issue(
    role: Annotated[
        list[str] | None,
        typer.Argument(help=f"Roles; default every role and {', '.join(OTHERS)}."),
    ] = None,
    host: Annotated[
        list[str] | None,
        typer.Option(help="A DNS name or an address under which it is called; may be repeated."),
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long they last.")] = 90,
    folder: Folder = None,
) -> None:
    """Make certificates, or renew them: running processes read the new ones by themselves."""
    from paymaster.roles import certificates
    from paymaster.roles.process import ROLES

    where, now = _folder(folder), WallClock().now()
    hosts = host or ["localhost", "127.0.0.1"]
    for name in role or (*ROLES, *OTHERS):
        print(certificates.issue(where, name, now, days=days, hosts=hosts))


@app.command("show")
def show(folder: Folder = None) -> None:
    """Every certificate of the folder: its names, and when it ends."""
    from paymaster.roles import certificates

    now = WallClock().now()
    paths = [path for path in _folder(folder).glob("*.pem") if not path.stem.endswith("-key")]
    for one in certificates.show(sorted(paths)):
        left = (one.not_after - now).days
        mark = "  RENEW" if one.is_due(now) else ""
        print(f"{one.path.name}: {one.subject}, {left} days left{mark}")
        for name in one.names:
            print(f"  {name}")
