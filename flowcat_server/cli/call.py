"""``flowcat-server call``: have a running server call somebody, and follow the call."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import uuid
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flowcat_server.cli.console import paint
from flowcat_server.core import ended
from flowcat_server.errors import FlowcatError
from flowcat_server.logs import escape

if TYPE_CHECKING:  # slow to import: only where it is used
    import aiohttp

URL = "http://127.0.0.1:6210"
POLL_S = 0.5
TIMEOUT_S = 20.0
"""Of one request; the carrier is asked to dial within it."""
PATIENCE_S = 30.0
"""A server that cannot be reached for so long has been lost."""
REACHED, BUSY, NO_ANSWER, FAILED, CANCELED, MACHINE = 0, 10, 11, 12, 13, 14
_CODES = {"busy": BUSY, "no-answer": NO_ANSWER, "failed": FAILED, "canceled": CANCELED}
_EPILOG = f"""\
Exit codes: {REACHED} somebody was reached or the message was left, {BUSY} busy, {NO_ANSWER} no answer,
{FAILED} failed, {CANCELED} canceled, {MACHINE} hung up on a machine; 1 the server makes no such call.
Ctrl-C hangs up.
"""  # noqa: E501 - as it is printed


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "call",
        help="have a running server call a number",
        description="Asks the server's API, and follows the call until it is over.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("to", metavar="NUMBER", help="in E.164, such as +441234567890")
    parser.add_argument("--agent", default="", metavar="NAME", help="who talks; else the usual one")
    parser.add_argument(
        "--var", action="append", default=[], type=_variable, metavar="KEY=VALUE", dest="variables",
        help="a call variable; may be given again",
    )  # fmt: skip
    parser.add_argument("--from", default="", dest="caller", metavar="NUMBER", help="number shown")
    parser.add_argument("--carrier", default="", metavar="NAME", help="who makes the call")
    parser.add_argument("--ring", metavar="TIME", help="how long it rings, such as 20s")
    parser.add_argument(
        "--message", metavar="TEXT", help="leave this on an answering machine, after its tone"
    )
    parser.add_argument(
        "--no-wait", action="store_true", help="only have it dialled; print the call's id"
    )
    parser.add_argument("--json", action="store_true", help="print the call's record at the end")
    parser.add_argument(
        "--server", default=os.environ.get("FLOWCAT_SERVER", URL), metavar="URL",
        help=f"default $FLOWCAT_SERVER, else {URL}",
    )  # fmt: skip
    parser.add_argument(
        "--token", default=os.environ.get("FLOWCAT_API_TOKEN", ""), metavar="TOKEN",
        help="API token, for a server on another machine; default $FLOWCAT_API_TOKEN",
    )  # fmt: skip
    parser.set_defaults(handler=run)


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError("must be KEY=VALUE")
    return name, value


def run(arguments: argparse.Namespace) -> int:
    """Make the call and follow it."""
    parts = urlsplit(arguments.server)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise FlowcatError(f"--server: {arguments.server!r} is no http:// or https:// address")
    return asyncio.run(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    import aiohttp

    headers = {"Authorization": f"Bearer {arguments.token}"} if arguments.token else {}
    async with aiohttp.ClientSession(
        headers=headers, timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)
    ) as session:
        server = _Server(session, arguments.server.rstrip("/"))
        made = await server.make(_body(arguments))
        call_id = str(made["id"])
        if arguments.no_wait:
            print(json.dumps(made) if arguments.json else call_id)
            return REACHED
        try:
            record = await _follow(server, call_id, quiet=arguments.json)
        except asyncio.CancelledError:  # Ctrl-C
            await server.hang_up(call_id)
            raise
    if arguments.json:
        print(json.dumps(record, indent=2, ensure_ascii=False))
    return _code(record["call"])


def _body(arguments: argparse.Namespace) -> dict[str, Any]:
    body = {
        "to": arguments.to,
        "agent": arguments.agent,
        "from": arguments.caller,
        "carrier": arguments.carrier,
        "variables": dict(arguments.variables),
        "timeout": arguments.ring,
    }
    if arguments.message:
        body["machine"] = {"on_machine": "leave_message", "message": arguments.message}
    return {name: value for name, value in body.items() if value}


class _Server:
    """The API of a running server."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def make(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Ask for the call. The key makes it one call, whatever happens to the request."""
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        status, answer = await self._ask("POST", "/api/calls", json=body, headers=headers)
        if status == 201:
            return answer
        raise FlowcatError(str(answer.get("message") or f"the server answered HTTP {status}"))

    async def record(self, call_id: str) -> dict[str, Any]:
        """All that is known of the call."""
        status, answer = await self._ask("GET", f"/api/calls/{call_id}")
        if status != 200:
            raise FlowcatError(f"the server answered HTTP {status} when asked about the call")
        return answer

    async def hang_up(self, call_id: str) -> None:
        """End the call."""
        with contextlib.suppress(FlowcatError):
            await self._ask("POST", f"/api/calls/{call_id}/hangup")

    async def _ask(self, method: str, path: str, **more: Any) -> tuple[int, dict[str, Any]]:
        import aiohttp

        try:
            async with self._session.request(method, self._url + path, **more) as response:
                text = await response.text()
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            why = str(error) or type(error).__name__
            raise FlowcatError(f"no server answers at {self._url}: {why}") from error
        try:
            answer = json.loads(text) if text else {}
        except ValueError:
            answer = {"message": f"HTTP {status}: {escape(text[:200])}"}
        return status, answer if isinstance(answer, dict) else {}


async def _follow(server: _Server, call_id: str, *, quiet: bool) -> dict[str, Any]:
    """Print what happens in the call until it is over; returns its record."""
    printed: set[tuple[Any, ...]] = set()
    lost_since: float | None = None
    loop = asyncio.get_running_loop()
    while True:
        try:
            record = await server.record(call_id)
        except FlowcatError:
            lost_since = lost_since or loop.time()
            if loop.time() - lost_since > PATIENCE_S:
                raise
        else:
            lost_since = None
            for key, text in _lines(record):
                if key not in printed and not quiet:
                    print(text, flush=True)
                printed.add(key)
            if record["call"]["ended_at"] is not None:
                return record
        await asyncio.sleep(POLL_S)


def _lines(record: Mapping[str, Any]) -> Iterator[tuple[tuple[Any, ...], str]]:
    """What can be said of the call by now, each with what tells it from the others."""
    lines: list[tuple[int, int, tuple[Any, ...], str]] = []
    for event in record["events"]:
        at = event["at_ms"]
        match event["type"]:
            case "call_progress":
                status, detail = str(event["status"]), str(event.get("detail") or "")
                text = status + (f": {escape(detail)}" if detail else "")
                lines.append((at, 0, ("progress", status), _dim(text)))
            case "answer_detected":
                why = f" ({escape(event['why'])})" if event.get("why") else ""
                text = f"answered by: {escape(event['answerer'])}{why}"
                lines.append((at, 1, ("answer", at, event["answerer"]), _dim(text)))
            case "tool_started":
                lines.append(
                    (at, 1, ("tool", event["tool_call_id"]), _dim(f"tool {escape(event['name'])}"))
                )
            case _:
                pass
    for turn in record["turns"]:
        number, at = turn["turn"], turn["started_ms"]
        if turn["caller"]:
            lines.append((at, 2, ("caller", number), f"callee  {escape(turn['caller'])}"))
        if turn["agent"]:
            lines.append((at, 3, ("agent", number), f"agent   {escape(turn['agent'])}"))
    call = record["call"]
    for _, _, key, text in sorted(lines, key=lambda line: line[:2]):
        yield key, text
    if call["ended_at"] is not None:
        detail = f": {escape(call['ended_detail'])}" if call["ended_detail"] else ""
        yield ("ended",), _dim(f"ended   {escape(call['ended_reason'])}{detail}")


def _dim(text: str) -> str:
    return paint(text, "dim", sys.stdout)


def _code(call: Mapping[str, Any]) -> int:
    if call["ended_reason"] == ended.MACHINE_HUNG_UP:
        return MACHINE
    return _CODES.get(str(call["status"]), REACHED)
