"""Probes and metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from aiohttp import web

from flowcat_server import __version__
from flowcat_server.calls import Calls
from flowcat_server.metrics import Metrics


class HealthDoor:
    """``/healthz`` (the process lives), ``/readyz`` (it takes calls), ``/metrics``."""

    def __init__(
        self, calls: Calls, metrics: Metrics, *, serve_metrics: bool, writable: Callable[[], bool]
    ) -> None:
        self._calls = calls
        self._metrics = metrics
        self._serve_metrics = serve_metrics
        self._writable = writable
        self._started = time.monotonic()

    def routes(self) -> Sequence[web.AbstractRouteDef]:
        """The door's routes."""
        routes = [web.get("/healthz", self.healthz), web.get("/readyz", self.readyz)]
        if self._serve_metrics:
            routes.append(web.get("/metrics", self.metrics))
        return routes

    async def healthz(self, request: web.Request) -> web.Response:
        """200 while the process can answer at all."""
        del request
        return web.json_response(
            {
                "status": "ok",
                "version": __version__,
                "uptime_s": int(time.monotonic() - self._started),
                "calls": len(self._calls.live),
                "records": "ok" if self._writable() else "waiting",
            }
        )

    async def readyz(self, request: web.Request) -> web.Response:
        """200 while new calls are taken; models are warm before the port is open."""
        del request
        closed = self._calls.closed_for
        return web.json_response({"status": closed or "ready"}, status=503 if closed else 200)

    async def metrics(self, request: web.Request) -> web.Response:
        """Prometheus text."""
        del request
        body, content_type = self._metrics.render()
        return web.Response(body=body, headers={"Content-Type": content_type})
