"""The fake world outside: a bank over SFTP and a wallet provider over HTTP.

A payment system is only as good as the providers it was tested against, and real ones cannot be
asked to cut a connection after paying. This package plays them: it keeps its own double-entry
books in one SQLite file, checks what it is sent as strictly as a provider does, pays twice when
it is told twice, signs its notices, and misbehaves on demand. It shares no code with Paymaster and
imports nothing of it, so an error in one is not hidden by the same error in the other.

    async with World(WorldConfig(data=Path("world"))) as world:
        world.http_url, world.api_key, world.webhook_secret
        world.sftp_address, world.host_key, world.client_key_path

or, as a process, `python -m paymaster_sandbox serve --data world --seed 1`.

    chassis     what every provider needs: books, clock, seed, faults, oracle, notices, schedule
    bank        pain.001 in, pain.002 and camt out, over SFTP
    wallet      payouts, webhooks and settlement files, over HTTP
    control     the knobs and the truth, for tests and demos
    world       both providers and their servers put together
    cli         the process

The wire of both providers is described in `docs/reference/sandbox.md`.
"""

from paymaster_sandbox.world import World, WorldConfig

__all__ = ["World", "WorldConfig"]
