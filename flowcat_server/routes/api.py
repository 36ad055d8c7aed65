"""The page's data: what this server is, and the calls it keeps."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from typing import Any

import msgspec
from aiohttp import web

from flowcat_server import __version__
from flowcat_server.calls import Calls
from flowcat_server.core import ended
from flowcat_server.core.dtmf import parse_keys
from flowcat_server.core.graph import Fact
from flowcat_server.pipeline import Parts
from flowcat_server.records.models import LATENCY_PARTS, CallSummary
from flowcat_server.records.store import Store
from flowcat_server.routes.bodies import read_body
from flowcat_server.session import Session

MAX_LISTED = 200
MAX_BODY_BYTES = 4096
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
            web.post(f"{one}/transfer", self.transfer),
            web.post(f"{one}/keys", self.keys),
            web.post(f"{one}/hold", self.hold),
            web.post(f"{one}/resume", self.resume),
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
        """End a call that is live, or rings."""
        if not await self._calls.hang_up(request.match_info["id"], ended.OPERATOR_HUNG_UP):
            raise web.HTTPNotFound
        return web.Response(status=204)

    async def transfer(self, request: web.Request) -> web.Response:
        """Pass a live call on to one of the file's transfer targets."""
        session, name = self._live(request), await _text(request, "to")
        targets = session.targets()
        if name not in targets:
            known = ", ".join(targets) or "none"
            text = f"to must name a transfer target (known: {known})"
            raise _problem(web.HTTPUnprocessableEntity, "target_unknown", text)
        if session.moving:
            raise _problem(web.HTTPConflict, "moving", "The call is being passed on.")
        session.pass_on(targets[name])
        return web.Response(status=202)

    async def keys(self, request: web.Request) -> web.Response:
        """Press keys towards the far end of a live call."""
        session = self._live(request)
        try:
            keys = parse_keys(await _text(request, "keys"))
        except ValueError as error:
            raise _problem(web.HTTPUnprocessableEntity, "invalid_request", str(error)) from error
        session.send_keys(keys)
        return web.Response(status=202)

    async def hold(self, request: web.Request) -> web.Response:
        """Have the caller of a live call wait."""
        if not self._live(request).hold():
            raise _problem(web.HTTPConflict, "waiting", "The caller waits already.")
        return web.Response(status=204)

    async def resume(self, request: web.Request) -> web.Response:
        """Go on with a caller who waits."""
        if not self._live(request).resume():
            text = "The caller does not wait, or is being passed on."
            raise _problem(web.HTTPConflict, "not_waiting", text)
        return web.Response(status=204)

    def _live(self, request: web.Request) -> Session:
        session = self._calls.live.get(request.match_info["id"])
        if session is None or not session.running:
            raise _problem(web.HTTPNotFound, "call_unknown", "There is no such live call.")
        return session


def _summary(summary: CallSummary, live: Set[str]) -> dict[str, Any]:
    body = summary.to_dict()
    return {
        **body,
        "from": body["from_number"],
        "to": body["to_number"],
        "started_at": body["accepted_at"],
        "live": summary.id in live,
    }


def _problem(kind: type[web.HTTPError], error: str, message: str) -> web.HTTPError:
    """What cannot be done, and why, as `POST /api/calls` says it."""
    text = msgspec.json.encode({"error": error, "message": message}).decode()
    return kind(text=text, content_type="application/json")


async def _text(request: web.Request, name: str) -> str:
    """A field of a JSON body that must be text."""
    try:
        body = msgspec.json.decode(await read_body(request, MAX_BODY_BYTES))
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise _problem(
            web.HTTPUnprocessableEntity, "invalid_request", "the body must be JSON"
        ) from error
    value = body.get(name) if isinstance(body, dict) else None
    if not isinstance(value, str):
        text = f"the body must be a JSON object with the text {name!r}"
        raise _problem(web.HTTPUnprocessableEntity, "invalid_request", text)
    return value


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
