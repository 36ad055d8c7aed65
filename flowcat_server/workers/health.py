"""Probes and metrics of all workers, answered by any of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import msgspec
import structlog
from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from flowcat_server.metrics import Metrics
from flowcat_server.routes.health import HealthDoor
from flowcat_server.workers import sums
from flowcat_server.workers.board import Board, Member

log = structlog.get_logger()

ANSWER_S = 1.0
"""A worker that has not answered by then is left out: a probe must not hang with it."""
MAX_RUNS = 8
"""Runs that are over whose metrics are kept one by one; more are summed up."""


def socket_path(room: Path, run: int) -> Path:
    """Where a run answers the others."""
    return room / f"{run}.sock"


class WorkersDoor:
    """``/healthz``, ``/readyz`` and ``/metrics`` for the server as a whole."""

    def __init__(
        self, own: HealthDoor, metrics: Metrics, board: Board, run: int, room: Path
    ) -> None:
        """Create the door.

        Args:
            own: This worker's, which the other workers ask.
            metrics: This worker's.
            board: Knows the others.
            run: This one.
            room: Where workers answer each other.
        """
        self._own = own
        self._metrics = metrics
        self._board = board
        self._run = run
        self._room = room

    def routes(self) -> Sequence[web.AbstractRouteDef]:
        """The door's routes."""
        together = {
            "/healthz": self.healthz,
            "/readyz": self.readyz,
            "/metrics": self.metrics,
        }
        return [
            web.get(route.path, together.get(route.path, route.handler))
            for route in self._own.routes()
            if isinstance(route, web.RouteDef)
        ]

    def own_routes(self) -> Sequence[web.AbstractRouteDef]:
        """What the other workers ask this one."""
        return self._own.routes()

    async def healthz(self, request: web.Request) -> web.Response:
        """200 while this worker can answer, and what the others say."""
        own = await self._own.healthz(request)
        answer = msgspec.json.decode(own.body, type=dict[str, object])  # type: ignore[arg-type]
        waiting = answer["records"] != "ok"
        members = self._board.members()
        others = await self._ask("/healthz", members)
        for text in others.values():
            waiting |= msgspec.json.decode(text, type=dict[str, object]).get("records") != "ok"
        answer["calls"] = len(self._board.live())
        answer["records"] = "waiting" if waiting else "ok"
        answer["workers"] = [
            {
                "worker": member.number,
                "calls": member.load,
                "status": _status(member, member.run == self._run or member.run in others),
            }
            for member in members
        ]
        return web.json_response(answer)

    async def readyz(self, request: web.Request) -> web.Response:
        """200 while new calls are taken, by whichever worker."""
        own = await self._own.readyz(request)
        if msgspec.json.decode(own.body)["status"] != "overloaded":  # type: ignore[arg-type]
            return own
        others = (m for m in self._board.members() if m.run != self._run)
        if any(member.ready and not member.overloaded for member in others):
            return web.json_response({"status": "ready"})
        return own

    async def metrics(self, request: web.Request) -> web.Response:
        """Prometheus text: all workers counted together."""
        del request
        members = self._board.members()
        texts = await self._ask("/metrics", members)
        texts[self._run] = self._metrics.render()[0].decode()
        kept = self._board.shown(texts)
        over = {run: text for run, text in kept.items() if run not in {m.run for m in members}}
        if len(over) > MAX_RUNS:
            summed = sums.render(await sums.add([], gone=over.values())).decode()
            self._board.sum_up(over, summed)
        metrics = await sums.add(texts.values(), gone=kept.values())
        body = sums.render([*metrics, *sums.of_workers(members, self._board.restarts)])
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _ask(self, path: str, members: Sequence[Member]) -> dict[int, str]:
        """What the other ready workers answer, by run."""
        others = [each for each in members if each.ready and each.run != self._run]
        answers = await asyncio.gather(*(self._ask_one(path, each) for each in others))
        return {
            member.run: answer
            for member, answer in zip(others, answers, strict=True)
            if answer is not None
        }

    async def _ask_one(self, path: str, member: Member) -> str | None:
        connector = aiohttp.UnixConnector(str(socket_path(self._room, member.run)))
        try:
            async with (
                asyncio.timeout(ANSWER_S),
                aiohttp.ClientSession(connector=connector) as session,
                session.get(f"http://worker{path}") as response,
            ):
                return await response.text()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            log.warning("worker_silent", worker=member.number, error=type(error).__name__)
            return None


def _status(member: Member, answers: bool) -> str:
    if not member.ready:
        return "starting"
    return "ok" if answers else "silent"
