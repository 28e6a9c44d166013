"""`paymaster secrets`: make keys for the secret stores."""

from __future__ import annotations

import asyncio
import base64
import os
from pathlib import Path
from typing import Annotated

import typer

from paymaster.kernel.errors import Refusal
from paymaster.secrets.aws import Kms
from paymaster.secrets.local import new_key
from paymaster.secrets.port import BASE64_PREFIX, checked_name
from paymaster.secrets.unwrapped import stored_form
from paymaster.settings import Settings, load_settings

app = typer.Typer(help="Keys for the secret stores.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Keys for the secret stores."""


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="Name of the secret, such as kek.")],
    kms: Annotated[
        str | None, typer.Option(help="Wrap it under this key of AWS KMS: id, ARN or alias/...")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File to write, mode 0600. Default: standard output.")
    ] = None,
) -> None:
    """Make a key of 32 random bytes in the form in which a store keeps it.

    With --kms the plain key is never seen here: KMS makes it and gives it out wrapped, and only
    whoever may decrypt with the KMS key can use it.
    """
    checked_name(name)
    if kms is None:
        text = BASE64_PREFIX.decode() + base64.b64encode(new_key()).decode()
    else:
        text = asyncio.run(_wrapped(load_settings(), kms, name))
    if out is None:
        typer.echo(text)
        return
    try:
        handle = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise Refusal(
            "file-unwritable", f"{out} is there already: a key is never replaced."
        ) from error
    except OSError as error:
        raise Refusal("file-unwritable", f"{out} cannot be written: {error.strerror}.") from error
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


async def _wrapped(settings: Settings, key: str, name: str) -> str:
    kms = Kms(settings.aws)
    try:
        return stored_form(await kms.new_wrapped(key, name))
    finally:
        await kms.close()
