"""The page's data: what this server is, and the calls it keeps."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from typing import Any

from aiohttp import web

from flowcat_server import __version__
from flowcat_server.calls import Calls
from flowcat_server.core import ended
from flowcat_server.core.graph import Fact
from flowcat_server.pipeline import Parts
from flowcat_server.records.models import LATENCY_PARTS, CallSummary
from flowcat_server.records.store import Store

MAX_LISTED = 200
MAX_SUGGESTIONS = 4
_ID = "[A-Za-z0-9][A-Za-z0-9_-]{0,63}"


class ApiDoor:
    """``/api/info`` and ``/api/calls``."""

    def __init__(self, calls: Calls, store: Store, info: dict[str, Any]) -> None:
        self._calls = calls
        self._store = store
        self._info = info

    def routes(self) -> Sequence[web.AbstractRouteDef]:
        """The door's routes."""
        one = f"/api/calls/{{id:{_ID}}}"
        return [
            web.get("/api/info", self.info),
            web.get("/api/calls", self.calls),
            web.get(one, self.call),
            web.get(f"{one}/recording", self.recording),
            web.delete(one, self.delete),
            web.post(f"{one}/hangup", self.hang_up),
        ]

    async def info(self, request: web.Request) -> web.Response:
        """What the page shows before a call; ``agent=NAME`` shows another agent than the first."""
        agents = self._calls.agents
        parts = agents.get(request.query.get("agent", ""))
        if parts is None:
            raise web.HTTPNotFound(text=f"no such agent (known: {', '.join(agents.names)})")
        limits = {
            "max_calls": self._calls.config.limits.max_calls,
            "live": len(self._calls.live_ids),
        }
        return web.json_response(
            {
                "name": "flowcat-server",
                "version": __version__,
                **self._info,
                **({} if parts is agents.default else _about(parts)),
                "agents": agents.names,
                "limits": limits,
                "secure": request.secure,
            }
        )

    async def calls(self, request: web.Request) -> web.Response:
        """The newest calls."""
        try:
            limit = min(MAX_LISTED, max(1, int(request.query.get("limit", "50"))))
        except ValueError as error:
            raise web.HTTPBadRequest(text="limit must be a whole number") from error
        before = request.query.get("before")
        if before is not None and not re.fullmatch(_ID, before):
            raise web.HTTPBadRequest(text="before must be the id of a call")
        found = await self._store.list_calls(limit, before)
        live = self._calls.live_ids
        return web.json_response({"calls": [_summary(summary, live) for summary in found]})

    async def call(self, request: web.Request) -> web.Response:
        """One call with its turns, events and variables."""
        record = await self._store.get_call(request.match_info["id"])
        if record is None:
            raise web.HTTPNotFound
        body = record.to_dict()
        return web.json_response(
            {
                "call": _summary(record.summary, self._calls.live_ids),
                "turns": [_turn(turn) for turn in body["turns"]],
                "events": _events(body["events"], body["tool_calls"]),
                "tool_calls": body["tool_calls"],
                "usage": [_used(line) for line in body["usage"]],
                "variables": body["variables"],
            }
        )

    async def recording(self, request: web.Request) -> web.StreamResponse:
        """The WAV file; ranges are served, so that a player can seek."""
        record = await self._store.get_call(request.match_info["id"])
        path = self._store.recording_path(record.summary) if record else None
        if path is None:
            raise web.HTTPNotFound
        return web.FileResponse(path, headers={"Content-Type": "audio/wav"})

    async def delete(self, request: web.Request) -> web.Response:
        """Remove a finished call, its rows and its recording."""
        call_id = request.match_info["id"]
        if call_id in self._calls.live_ids:
            raise web.HTTPConflict(text="the call is live; hang up first")
        deleted = await self._store.delete_call(call_id)
        if not deleted.calls:
            raise web.HTTPNotFound
        return web.Response(status=204)

    async def hang_up(self, request: web.Request) -> web.Response:
        """End a live call."""
        if not await self._calls.hang_up(request.match_info["id"], ended.OPERATOR_HUNG_UP):
            raise web.HTTPNotFound
        return web.Response(status=204)


def _summary(summary: CallSummary, live: Set[str]) -> dict[str, Any]:
    body = summary.to_dict()
    return {
        **body,
        "from": body["from_number"],
        "to": body["to_number"],
        "started_at": body["accepted_at"],
        "live": summary.id in live,
    }


def _about(parts: Parts) -> dict[str, Any]:
    """An agent that is not the main file's."""
    legs = {kind: getattr(parts, kind) for kind in ("stt", "llm", "tts", "realtime")}
    names = {kind: leg[0].name for kind, leg in legs.items() if leg}
    return {
        "agent": {
            "name": parts.profile.name,
            "suggestions": suggestions(parts.profile.knowledge),
        },
        "topology": {"mode": parts.config.topology.mode, **names},
        "demo": names.get("llm", "").startswith("intents"),
    }


def suggestions(knowledge: Sequence[Fact]) -> list[str]:
    """Questions that the agent can answer, to begin with."""
    return [fact.questions[0] for fact in knowledge if fact.questions][:MAX_SUGGESTIONS]


def _turn(row: Mapping[str, Any]) -> dict[str, Any]:
    """A turn with its latency parts in one object; None where the agent spoke unasked."""
    columns = {part: f"{part}_ms" for part in LATENCY_PARTS}
    turn = {name: value for name, value in row.items() if name not in columns.values()}
    parts = {part: row[column] for part, column in columns.items()}
    total = turn.pop("total_ms")
    answered = all(value is not None for value in parts.values())
    turn["latency"] = {**parts, "total": total} if answered else None
    return turn


def _used(row: Mapping[str, Any]) -> dict[str, Any]:
    """A line of usage without what it is not counted in."""
    return {name: value for name, value in row.items() if value or name in ("kind", "provider")}


def _events(rows: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> list[Any]:
    """What happened beside the turns, as the events socket told it, in order of time."""
    told = [{**row["data"], "type": row["name"], "at_ms": row["at_ms"]} for row in rows]
    for tool in tools:
        of = {"tool_call_id": tool["tool_call_id"], "name": tool["name"]}
        started = tool["started_ms"]
        told.append(
            {"type": "tool_started", "at_ms": started, **of, "arguments": tool["arguments"]}
        )
        if tool["duration_ms"] is not None:
            ended = {name: tool[name] for name in ("result", "ok", "duration_ms")}
            at_ms = started + tool["duration_ms"]
            told.append({"type": "tool_ended", "at_ms": at_ms, **of, **ended})
    return sorted(told, key=lambda event: event["at_ms"])
