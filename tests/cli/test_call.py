"""``flowcat-server call`` against a server that has been told what becomes of the call."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web

from flowcat_server.cli import call as command
from flowcat_server.cli.main import main


class Told:
    """A server whose call goes as the test says: one record after the other."""

    def __init__(self) -> None:
        self.url = ""
        self.answer: tuple[int, dict[str, Any]] = (201, {"id": "c1", "status": "dialling"})
        self.records: list[dict[str, Any]] = []
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.hung_up = 0
        self._ready = threading.Event()
        self._stop = threading.Event()

    async def make(self, request: web.Request) -> web.Response:
        self.asked.append(await request.json())
        self.headers.append(dict(request.headers))
        return web.json_response(self.answer[1], status=self.answer[0])

    async def show(self, request: web.Request) -> web.Response:
        assert request.match_info["id"] == "c1"
        record = self.records.pop(0) if len(self.records) > 1 else self.records[0]
        if "raise" in record:
            return web.Response(status=500)
        return web.json_response(record)

    async def hang_up(self, request: web.Request) -> web.Response:
        del request
        self.hung_up += 1
        return web.Response(status=204)

    def serve(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        app = web.Application()
        app.add_routes(
            [
                web.post("/api/calls", self.make),
                web.get("/api/calls/{id}", self.show),
                web.post("/api/calls/{id}/hangup", self.hang_up),
            ]
        )
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._ready.set()
        while not self._stop.is_set():  # noqa: ASYNC110 - another thread says when
            await asyncio.sleep(0.01)
        await runner.cleanup()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    monkeypatch.setattr(command, "POLL_S", 0.01)
    told = Told()
    thread = threading.Thread(target=told.serve)
    thread.start()
    assert told._ready.wait(5)
    yield told
    told._stop.set()
    thread.join(5)


def record(
    status: str, reason: str = "", detail: str = "", turns: int = 0, answerer: str = ""
) -> dict[str, Any]:
    steps = ["dialling", "ringing", "answered"]
    reached = steps[: steps.index(status) + 1] if status in steps else steps[:2]
    if status == "completed":
        reached = steps
    events = [{"type": "call_progress", "at_ms": 0, "status": s, "detail": ""} for s in reached]
    if status not in (*steps, "completed"):
        events.append({"type": "call_progress", "at_ms": 0, "status": status, "detail": detail})
    if answerer:
        events.append(
            {"type": "answer_detected", "at_ms": 1500, "answerer": answerer, "by": "own",
             "why": "short answer"}
        )  # fmt: skip
    said = [
        {"turn": 0, "started_ms": 10, "caller": "", "agent": "Hello, it's the surgery."},
        {"turn": 1, "started_ms": 4000, "caller": "Fine\x1b[2J, thanks.", "agent": "Goodbye."},
    ]
    over = bool(reason)
    return {
        "call": {
            "status": status, "ended_at": "2026-01-01T00:00:00.000Z" if over else None,
            "ended_reason": reason, "ended_detail": detail,
        },
        "turns": said[:turns],
        "events": events,
    }  # fmt: skip


def call(server: Told, *more: str) -> int:
    return main(["call", "+441234567890", "--server", server.url, *more])


def test_a_call_is_followed_to_its_end(server: Told, capsys: pytest.CaptureFixture[str]):
    server.records = [
        record("dialling"),
        record("ringing"),
        record("answered", turns=1),
        record("answered", turns=1, answerer="human"),
        record("completed", "agent.ended", turns=2, answerer="human"),
    ]
    assert call(server, "--agent", "desk", "--var", "name=Ada", "--var", "n=1=2") == 0
    assert server.asked == [
        {"to": "+441234567890", "agent": "desk", "variables": {"name": "Ada", "n": "1=2"}}
    ]
    assert server.headers[0]["Idempotency-Key"]
    assert capsys.readouterr().out.splitlines() == [
        "dialling",
        "ringing",
        "answered",
        "agent   Hello, it's the surgery.",
        "answered by: human (short answer)",
        "callee  Fine\\x1b[2J, thanks.",
        "agent   Goodbye.",
        "ended   agent.ended",
    ]


@pytest.mark.parametrize(
    ("status", "reason", "code"),
    [
        ("busy", "callee.busy", command.BUSY),
        ("no-answer", "callee.no_answer", command.NO_ANSWER),
        ("failed", "callee.failed", command.FAILED),
        ("canceled", "operator.hung_up", command.CANCELED),
        ("completed", "machine.hung_up", command.MACHINE),
        ("completed", "machine.message_left", 0),
    ],
)
def test_the_exit_code_says_what_became_of_it(server: Told, status: str, reason: str, code: int):
    server.records = [record(status, reason)]
    assert call(server) == code


def test_no_wait_prints_the_id(server: Told, capsys: pytest.CaptureFixture[str]):
    assert call(server, "--no-wait") == 0
    assert capsys.readouterr().out == "c1\n"


def test_json_prints_the_record_and_nothing_else(server: Told, capsys: pytest.CaptureFixture[str]):
    server.records = [record("ringing"), record("busy", "callee.busy")]
    assert call(server, "--json") == command.BUSY
    assert json.loads(capsys.readouterr().out)["call"]["status"] == "busy"


def test_all_that_can_be_said_is_said_to_the_server(server: Told):
    server.records = [record("busy", "callee.busy")]
    call(
        server, "--from", "+441", "--carrier", "plivo", "--ring", "20s", "--message", "Call back.",
        "--token", "secret",
    )  # fmt: skip
    assert server.asked == [
        {
            "to": "+441234567890", "from": "+441", "carrier": "plivo", "timeout": "20s",
            "machine": {"on_machine": "leave_message", "message": "Call back."},
        }
    ]  # fmt: skip
    assert server.headers[0]["Authorization"] == "Bearer secret"


def test_the_servers_refusal_is_shown(server: Told, capsys: pytest.CaptureFixture[str]):
    server.answer = (403, {"error": "number_not_allowed", "message": "to: +44... may not be"})
    assert call(server) == 1
    assert capsys.readouterr().err == "flowcat-server: to: +44... may not be\n"


def test_a_server_that_stumbles_is_asked_again(server: Told):
    server.records = [record("ringing"), {"raise": True}, record("busy", "callee.busy")]
    assert call(server) == command.BUSY


def test_nobody_there(capsys: pytest.CaptureFixture[str]):
    assert main(["call", "+441234567890", "--server", "http://127.0.0.1:9"]) == 1
    assert "no server answers at http://127.0.0.1:9" in capsys.readouterr().err


@pytest.mark.parametrize("more", [["--var", "name"], ["--var", "=x"]])
def test_wrong_arguments(server: Told, more: list[str]):
    assert call(server, *more) == 2


def test_a_wrong_address():
    assert main(["call", "+441234567890", "--server", "localhost"]) == 1


def test_ctrl_c_hangs_up(server: Told):
    server.records = [record("ringing")]
    command_line = [sys.executable, "-m", "flowcat_server", "call", "+441234567890"]
    with subprocess.Popen(
        [*command_line, "--server", server.url], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        while process.stdout.readline().strip() != "ringing":
            pass
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
    assert server.hung_up == 1
