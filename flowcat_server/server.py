"""The composition root: the only module that knows every part. Start, drain, stop."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import structlog
from aiohttp import web

from flowcat_server import __version__, carriers, logs
from flowcat_server.calls import Calls
from flowcat_server.config.load import Loaded
from flowcat_server.config.models import Config
from flowcat_server.config.types import parse_bind
from flowcat_server.core import ended
from flowcat_server.core.overload import Overload
from flowcat_server.errors import ConfigError, FlowcatError
from flowcat_server.loop_watch import LoopWatch
from flowcat_server.metrics import Metrics
from flowcat_server.processors.lineup import now_ms
from flowcat_server.providers.http import Http
from flowcat_server.records.recorder import Recorder
from flowcat_server.records.store import Store
from flowcat_server.records.webhook import Webhook
from flowcat_server.routes.access import guard
from flowcat_server.routes.api import ApiDoor, suggestions
from flowcat_server.routes.audiosocket import AudioSocketListener
from flowcat_server.routes.connections import app_runner, watch_connections
from flowcat_server.routes.dialling import DiallingDoor
from flowcat_server.routes.expected import CarrierCalls
from flowcat_server.routes.gate import Gate
from flowcat_server.routes.health import HealthDoor
from flowcat_server.routes.lines import lines
from flowcat_server.routes.next import NextDoor
from flowcat_server.routes.outbound import OutboundCalls
from flowcat_server.routes.page import PageDoor
from flowcat_server.routes.peers import parse_networks
from flowcat_server.routes.telephony import TelephonyDoor
from flowcat_server.routes.tokens import StreamTokens
from flowcat_server.routes.webrtc import WebRtcDoor
from flowcat_server.screen import Address, start_screen
from flowcat_server.startup import Built, Progress, build, prepare_all_later
from flowcat_server.transports.pacer import Pacer
from flowcat_server.transports.webrtc import Offers, WebRtcSettings
from flowcat_server.workers.alone import Alone
from flowcat_server.workers.machines import Machines
from flowcat_server.workers.supervisor import supervise
from flowcat_server.workers.team import Seat, count
from flowcat_server.workers.worker import Worker

log = structlog.get_logger()

CLIENT_MAX_BYTES = 256 * 1024
GC_THRESHOLDS = (2_000, 10, 50)
"""After the models are loaded their objects are frozen. A step looks at two thousand new objects,
which is about a millisecond, each tenth step at those of the ten; a full collection looks at all
live calls, and comes when a million objects have stayed, so that what libraries leave in circles
cannot fill the memory."""


def run(loaded: Loaded) -> int:
    """Serve until told to stop.

    Returns the exit code: 0 after SIGTERM, 130 after Ctrl-C, 1 if the start failed.
    """
    logging = loaded.config.observability.log
    logs.configure(logging.level, logging.format)

    def work(seat: Seat | None = None) -> int:
        if seat is not None:
            logs.name_process(worker=seat.number)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(Server(loaded, seat).serve())

    try:
        workers = count(loaded.config.server.workers)
        return work() if workers == 1 else supervise(loaded, workers, work)
    except ConfigError:
        raise
    except FlowcatError as error:
        sys.stderr.write(f"flowcat-server: {error}\n")
        return 1


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """The fast loop where uvloop can be had; nothing depends on it."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


class Server:
    """One process: its agents, their providers, its doors and its live calls."""

    def __init__(self, loaded: Loaded, seat: Seat | None = None) -> None:
        """Create it; `serve` starts.

        Args:
            loaded: The agent file.
            seat: Of a worker among several; None: this process is the whole server.
        """
        self._loaded = loaded
        self._seat = seat
        self._stopping = asyncio.Event()
        self._kill = asyncio.Event()
        self._signal: int | None = None

    async def serve(self) -> int:
        """Start, serve, drain, stop; returns the exit code."""
        self._listen_for_signals()
        _hide_secrets(self._loaded.config)
        begun = time.monotonic()
        async with AsyncExitStack() as stack:
            worker = self._worker()
            stack.callback(worker.close)
            redis = self._loaded.config.server.redis.get_secret_value()
            if redis:
                machines = await stack.enter_async_context(Machines.open(redis))
                machines.serve(worker)
            http = Http()
            stack.push_async_callback(http.close)
            built = await build(self._loaded, http, Progress(quiet=not worker.first))
            stack.push_async_callback(built.close)
            metrics = Metrics(
                __version__, reasons=sorted(ended.REASONS), channels=(*carriers.names(), "webrtc")
            )
            _watch_breakers(metrics, built)
            store = await stack.enter_async_context(self._records(metrics, worker.leading))
            recorder = await stack.enter_async_context(_recorder(self._loaded.config))
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            if recorder is not None:
                metrics.watch_dropped("recorder", lambda: recorder.dropped)
            webhook = self._webhook(store, http, tasks, stack, worker)
            overload = Overload(self._loaded.config.limits.max_lag)
            worker.overload = overload
            calls = Calls(
                built.agents, store, recorder, metrics, tasks, webhook, overload, worker.places
            )
            prepare = tasks.create_task(prepare_all_later(built.agents), name="prepare-speech")
            stack.callback(prepare.cancel)
            logs.register_secret(worker.api_token)
            offers = Offers(_webrtc_settings(self._loaded.config), prefix=worker.peer_prefix)
            stack.push_async_callback(offers.close)
            pacer = Pacer()
            pace = worker.pace(self._loaded.config.outbound.max_per_minute)
            outbound = OutboundCalls(self._loaded.config, calls, http, tasks, pace=pace)
            carrier_calls = CarrierCalls(
                calls,
                StreamTokens(worker.stream_secret, used=worker.used_tokens, mark=worker.mark),
                http,
                outbound=outbound,
                waiting=worker.waiting(calls),
                tell_others=worker.tell_others,
            )
            app = self._app(
                calls, carrier_calls, outbound, pacer, store, metrics, http, offers, worker, built
            )
            address = await self._open(app, carrier_calls, pacer, worker, tasks, stack)
            _settle_memory()
            watch = LoopWatch(metrics, overload, stall_ms=self._loaded.config.observability.stall)
            watch.start()
            stack.callback(watch.close)
            ready_s = time.monotonic() - begun
            if worker.first:
                start_screen(
                    sys.stderr,
                    self._loaded,
                    address,
                    built.used,
                    built.off,
                    worker.api_token,
                    token_made=worker.token_made,
                    workers=worker.size,
                    ready_s=ready_s,
                )
            log.info("server_ready", ready_ms=int(ready_s * 1000))
            await self._stopping.wait()
            await self._drain(calls, worker)
        log.info("server_stopped")
        return 130 if self._signal == signal.SIGINT else 0

    # --- parts ----------------------------------------------------------------------------------

    def _worker(self) -> Alone | Worker:
        if self._seat is None:
            return Alone(self._loaded)
        return Worker(self._seat, self._loaded.config.limits.max_calls)

    @asynccontextmanager
    async def _records(self, metrics: Metrics, leading: asyncio.Event) -> AsyncIterator[Store]:
        records = self._loaded.config.records
        store = await Store.open(
            records.database,
            directory=self._loaded.work_dir / records.dir,
            redact=records.redact,
            transcript=records.transcript,
            keep_ms=records.keep or 0,
            webhook=records.webhook is not None,
            on_dropped=metrics.record_dropped,
            cleans=leading.is_set,
        )
        try:
            orphans = await store.close_orphans()
            if orphans:
                log.warning("calls_closed_after_crash", calls=len(orphans))
            yield store
        finally:
            await store.close()

    def _webhook(
        self,
        store: Store,
        http: Http,
        tasks: asyncio.TaskGroup,
        stack: AsyncExitStack,
        worker: Alone | Worker,
    ) -> Callable[[], None]:
        """Report finished calls, if that is wanted; returns what to call when one ends."""
        settings = self._loaded.config.records.webhook
        if settings is None:
            return lambda: None
        webhook = Webhook(
            store,
            http.session,
            settings.url,
            settings.secret.get_secret_value(),
            timeout_ms=settings.timeout,
        )

        async def report() -> None:
            await worker.leading.wait()
            await webhook.run()

        task = tasks.create_task(report(), name="webhook")
        stack.callback(task.cancel)
        return worker.report_ended(webhook.call_ended)

    def _app(
        self,
        calls: Calls,
        carrier_calls: CarrierCalls,
        outbound: OutboundCalls,
        pacer: Pacer,
        store: Store,
        metrics: Metrics,
        http: Http,
        offers: Offers,
        worker: Alone | Worker,
        built: Built,
    ) -> web.Application:
        config = self._loaded.config
        trusted = parse_networks(config.server.trusted_proxies)
        health = HealthDoor(
            calls,
            metrics,
            serve_metrics=config.observability.metrics,
            writable=lambda: store.writable,
        )
        carrier_gate = Gate(config.server.public_url, trusted, seen=worker.seen_webhooks)
        doors = (
            PageDoor(),
            ApiDoor(calls, store, _info(self._loaded, built)),
            DiallingDoor(calls, outbound),
            worker.health(health, metrics),
            WebRtcDoor(calls, offers),
            TelephonyDoor(config, carrier_calls, carrier_gate, pacer, http),
            NextDoor(config, carrier_calls, carrier_gate),
        )
        gate = guard(worker.api_token, public_url=config.server.public_url, trusted=trusted)
        middlewares = [gate, *worker.middlewares]
        app = web.Application(middlewares=middlewares, client_max_size=CLIENT_MAX_BYTES)
        for door in doors:
            app.add_routes(door.routes())
        return app

    async def _open(
        self,
        app: web.Application,
        calls: CarrierCalls,
        pacer: Pacer,
        worker: Alone | Worker,
        tasks: asyncio.TaskGroup,
        stack: AsyncExitStack,
    ) -> Address:
        config = self._loaded.config
        runner = app_runner(app, shutdown_timeout=5)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        assert runner.server is not None  # noqa: S101 - it was just set up
        watch = tasks.create_task(watch_connections(runner.server), name="watch-connections")
        stack.callback(watch.cancel)
        audiosocket = None
        if config.carriers.audiosocket.bind:
            line = next(each for each in lines(config) if each.carrier.name == "audiosocket")
            audiosocket = AudioSocketListener(line, calls, pacer)
        port = await worker.open(
            runner, calls, audiosocket, lambda: self._on_signal(signal.SIGTERM), stack
        )
        return Address(parse_bind(config.server.bind)[0], port)

    # --- the end --------------------------------------------------------------------------------

    def _listen_for_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: int) -> None:
        if self._stopping.is_set():
            self._kill.set()
        self._signal = self._signal or number
        self._stopping.set()

    async def _drain(self, calls: Calls, worker: Alone | Worker) -> None:
        """First signal: live calls may finish. Second: they end now."""
        timeout_s = self._loaded.config.server.drain_timeout / 1000
        log.info("server_draining", live=len(calls.live), timeout_s=timeout_s)
        async with asyncio.TaskGroup() as tasks:
            drain = tasks.create_task(calls.drain(timeout_s, worker.nobody_waits(self._kill)))
            killed = tasks.create_task(self._end_on_kill(calls))
            await asyncio.wait([drain])
            killed.cancel()

    async def _end_on_kill(self, calls: Calls) -> None:
        await self._kill.wait()
        await calls.end_all(ended.SERVER_DRAINED)


@asynccontextmanager
async def _recorder(config: Config) -> AsyncIterator[Recorder | None]:
    if config.records.audio == "none":
        yield None
        return
    recorder = Recorder()
    recorder.start()
    try:
        yield recorder
    finally:
        await asyncio.to_thread(recorder.close)


def _hide_secrets(config: Config) -> None:
    """Carriers' keys are never logged, whatever a vendor's answer repeats."""
    for line in lines(config):
        account = line.account
        for secret in (account.secret, account.webhook_key, account.password):
            logs.register_secret(secret)


def _watch_breakers(metrics: Metrics, built: Built) -> None:
    for parts in built.agents:
        for kind in ("stt", "llm", "tts", "realtime"):
            for candidate in getattr(parts, kind):
                metrics.watch_breaker(kind, candidate.name, candidate.breaker, now_ms)


def _webrtc_settings(config: Config) -> WebRtcSettings:
    webrtc = config.webrtc
    return WebRtcSettings(
        advertise_ip=webrtc.advertise_ip,
        port_range=str(webrtc.port_range or ""),
        ice_servers=[
            {
                "urls": server.urls,
                "username": server.username or None,
                "credential": server.credential.get_secret_value() or None,
            }
            for server in webrtc.ice_servers
        ],
        bind_ips=webrtc.bind_ips,
        connect_timeout=webrtc.connect_timeout,
        max_pending=webrtc.max_pending,
    )


def _info(loaded: Loaded, built: Built) -> dict[str, Any]:
    """What the page shows; see `routes.api`."""
    config = loaded.config
    names = {item.kind: item.name for item in built.used if not item.spare}
    return {
        "agent": {
            "name": config.agent.name,
            "suggestions": suggestions(loaded.knowledge),
        },
        "topology": {"mode": config.topology.mode, **names},
        "demo": names.get("llm", "").startswith("intents"),
        "webrtc": {
            "ice_servers": [
                {
                    "urls": server.urls,
                    "username": server.username,
                    "credential": server.credential.get_secret_value(),
                }
                for server in config.webrtc.ice_servers
            ]
        },
    }


def _settle_memory() -> None:
    """Models and configuration will never be garbage: keep the collector away from them."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
