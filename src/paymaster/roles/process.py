"""One role as one process: start, serve health, work, drain on SIGTERM."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import os
import signal
from dataclasses import dataclass

from paymaster.compose import Deps, build
from paymaster.kernel.errors import Refusal
from paymaster.observe import configure_logs, get_logger
from paymaster.roles import work
from paymaster.roles.health import health_app
from paymaster.roles.lanes import run_lanes, stopped_within
from paymaster.roles.serving import allowance_of, health_identity, listen, serving
from paymaster.settings import Settings

log = get_logger("paymaster.roles")

WEB_ROLES = ("api", "hooks")
ROLES: tuple[str, ...] = (*WEB_ROLES, *work.ROLES)
"""Every role, in the order in which `paymaster up` starts them."""


@dataclass(frozen=True, slots=True)
class Running:
    """How to run a role.

    `health_port` is for background roles. With `share_port` copies of a web role listen on one
    port side by side. With `exit_with_parent` it stops when its parent ends.
    """

    role: str
    health_port: int
    exit_with_parent: bool = False
    share_port: bool = False


def run_role(settings: Settings, how: Running) -> None:
    """Run one role until SIGTERM or SIGINT. Raises Refusal `role-unknown` or `port-in-use`."""
    if how.role not in ROLES:
        raise Refusal("role-unknown", f"There is no role {how.role!r}: {', '.join(ROLES)}.")
    configure_logs(settings.log.level, settings.log.format)
    with asyncio.Runner(loop_factory=web_loop if how.role in WEB_ROLES else None) as runner:
        runner.run(_run(settings, how))


def web_loop() -> asyncio.AbstractEventLoop:
    """The event loop of a process that answers HTTP: uvloop's, where that can be had."""
    if importlib.util.find_spec("uvloop") is None:
        return asyncio.new_event_loop()
    import uvloop  # noqa: PLC0415 - background roles go without

    return uvloop.new_event_loop()


async def _run(settings: Settings, how: Running) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    watch = asyncio.create_task(_watch_parent(stop)) if how.exit_with_parent else None
    async with build(settings, role=how.role) as deps:
        _collect_rarely()
        log.info("role_started", role=how.role, pid=os.getpid())
        if how.role in WEB_ROLES:
            await _serve_web(deps, how, stop)
        else:
            await _work(deps, how, stop)
        log.info("role_stopped", role=how.role, pid=os.getpid())
    if watch is not None:
        watch.cancel()


def _collect_rarely() -> None:
    """A batch makes thousands of small objects without cycles: looking for some took a fifth of it.

    What is loaded by now stays; the rest is looked through after every 50,000 new objects.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


async def _watch_parent(stop: asyncio.Event) -> None:
    """A process whose supervisor was killed must not go on by itself."""
    parent = os.getppid()
    while not await stopped_within(stop, 0.5):
        if os.getppid() != parent:
            log.warning("parent_gone")
            stop.set()


async def _serve_web(deps: Deps, how: Running, stop: asyncio.Event) -> None:
    from paymaster.api.app import build_api, build_hooks  # noqa: PLC0415 - background roles go without

    settings = deps.settings
    web = settings.api if how.role == "api" else settings.hooks
    app = build_api(deps) if how.role == "api" else build_hooks(deps)
    listening = listen(web.host, web.port, share=how.share_port)
    _settle_memory()
    try:
        async with serving(
            app,
            listening,
            settings.roles.stop_timeout_seconds,
            allowance=allowance_of(web, settings.api.errors_url),
            identity=web.identity(),
        ):
            await stop.wait()
            app.drain()
    finally:
        await app.close()


def _settle_memory() -> None:
    """What is loaded by now stays: the collector need not look at it again and again.

    A request leaves few cycles behind and many short-lived objects, which counting frees; looking
    for cycles as often as by default took a seventh of the time of a request.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


async def _work(deps: Deps, how: Running, stop: asyncio.Event) -> None:
    made = work.ROLES[how.role](deps)
    app = health_app(deps, how.role, made.lanes, made.info)
    identity, allowance = health_identity(deps.settings, how.role)
    listening = listen(deps.settings.roles.health_host, how.health_port)
    async with serving(app, listening, 1, allowance=allowance, identity=identity):
        running = asyncio.create_task(run_lanes(made.lanes, stop))
        await stop.wait()
        try:
            async with asyncio.timeout(deps.settings.roles.stop_timeout_seconds):
                await running
                for ending in made.endings:
                    await ending()
        except TimeoutError:
            log.warning("drain_timed_out", role=how.role)
            running.cancel()
