from __future__ import annotations

import asyncio
import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from flowcat_server import logs


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    # Not structlog's defaults: loggers in use keep these processors, where `capture_logs` looks.
    logs.configure()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.contextvars.clear_contextvars()
    logs._secrets.clear()
    logs._secret_values = None


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Written:
    """What went to standard error so far."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._text = ""

    def getvalue(self) -> str:
        self._text += self._capsys.readouterr().err
        return self._text


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str]) -> Written:
    return Written(capsys)


def failing(message: str) -> None:
    raise ValueError(message)


def as_json(stream: Written) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_has_one_object_a_line(stderr: Written) -> None:
    logs.configure("info", "json")
    structlog.get_logger().info("turn_ended", silence_ms=520)

    (line,) = as_json(stderr)
    assert line["event"] == "turn_ended"
    assert line["silence_ms"] == 520
    assert line["level"] == "info"
    assert line["timestamp"].endswith("Z")


def test_the_level_is_kept_and_follows_a_reload(stderr: Written) -> None:
    log = structlog.get_logger()
    logs.configure("warning", "json")
    log.info("hidden")
    log.warning("shown")
    logs.configure("debug", "json")
    log.debug("shown too")
    logging.getLogger("somebody").debug("and this")
    logs.configure("error", "json")
    log.warning("hidden again")

    assert [line["event"] for line in as_json(stderr)] == ["shown", "shown too", "and this"]


def test_bound_loggers_follow_as_well(stderr: Written) -> None:
    logs.configure("warning", "json")
    log = structlog.get_logger().bind(part="stt")
    log.info("hidden")
    logs.configure("info", "json")
    log.info("shown")

    assert [(line["event"], line["part"]) for line in as_json(stderr)] == [("shown", "stt")]


async def test_a_call_id_is_in_every_line_of_its_tasks(stderr: Written) -> None:
    logs.configure("info", "json")
    log = structlog.get_logger()

    async def call(call_id: str) -> None:
        with logs.bound_call(call_id):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(work())

    async def work() -> None:
        await asyncio.sleep(0)
        log.info("ours")
        logging.getLogger("library").warning("theirs %d", 1)

    await asyncio.gather(call("a"), call("b"))
    log.info("outside")

    lines = as_json(stderr)
    assert sorted(f"{line['event']}:{line.get('call_id')}" for line in lines) == [
        "ours:a", "ours:b", "outside:None", "theirs 1:a", "theirs 1:b",
    ]  # fmt: skip


def test_private_fields_are_dropped_unless_enabled(stderr: Written) -> None:
    logs.configure("info", "json")
    structlog.get_logger().info("heard", private_text="my name is Jo", words=4)
    logs.configure("info", "json", private=True)
    structlog.get_logger().info("heard", private_text="my name is Jo", words=4)

    without, with_text = as_json(stderr)
    assert "Jo" not in str(without)
    assert without["words"] == 4
    assert with_text["private_text"] == "my name is Jo"


@pytest.mark.parametrize("format_", logs.FORMATS)
def test_secrets_are_never_written(stderr: Written, format_: str) -> None:
    logs.configure("debug", format_)
    logs.register_secret("hunter2hunter2")
    log = structlog.get_logger()
    log.info("start hunter2hunter2", url="wss://x/?a=1&token=abc123def&b=2")
    log.info("nested", options={"headers": [{"x": "is hunter2hunter2."}], "api_key": "abc123def"})
    log.info("named", auth_token="abc123def", Authorization="Basic abc123def", apiKey=b"abc123def")
    log.info("url", database="postgresql+asyncpg://me:abc123def@db/x")
    log.info("header", line="sent Bearer abc123def to them")
    logging.getLogger("library").error("failed with %s", "hunter2hunter2")
    try:
        failing("key hunter2hunter2 is wrong")
    except ValueError:
        log.exception("broken")

    written = stderr.getvalue()
    assert "hunter2" not in written
    assert "abc123def" not in written
    assert written.count("[secret]") >= 9


def test_what_only_looks_like_a_secret_stays(stderr: Written) -> None:
    logs.configure("info", "json")
    logs.register_secret("abc")  # too short to be looked for
    structlog.get_logger().info(
        "usage",
        max_tokens=200,
        input_tokens=3,
        llm_first_token_ms=210,
        api_key_env="X_KEY",
        w="abcd",
    )

    (line,) = as_json(stderr)
    assert line["max_tokens"] == 200
    assert line["llm_first_token_ms"] == 210
    assert line["api_key_env"] == "X_KEY"
    assert line["w"] == "abcd"


FORGED = "x\n2026-11-22T10:00:00Z [info     ] call_ended\r\x1b[2K\u2028\x85 bye"


@pytest.mark.parametrize("format_", logs.FORMATS)
@pytest.mark.parametrize("where", ["value", "event", "key", "list", "foreign"])
def test_nobody_can_write_a_line_of_their_own(stderr: Written, format_: str, where: str) -> None:
    logs.configure("info", format_)
    log = structlog.get_logger()
    match where:
        case "value":
            log.info("digit", digit=FORGED)
        case "event":
            log.info(FORGED)
        case "key":
            log.info("digit", **{FORGED: 1})
        case "list":
            log.info("digit", digits=[FORGED])
        case _:
            logging.getLogger("library").warning("got %s", FORGED)

    written = stderr.getvalue()
    assert len(written.splitlines()) == 1
    assert "\x1b" not in written


def test_a_traceback_cannot_forge_a_line(stderr: Written) -> None:
    logs.configure("info", "console")
    try:
        failing(FORGED)
    except ValueError:
        structlog.get_logger().exception("broken")

    head, *traceback = stderr.getvalue().splitlines()
    assert "broken" in head
    assert all(line.startswith("  | ") for line in traceback)
    assert "\x1b" not in stderr.getvalue()


@given(st.text(), st.text(min_size=1))
def test_any_value_is_one_line(value: str, name: str) -> None:
    stream = io.StringIO()
    before, sys.stderr = sys.stderr, stream
    try:
        logs.configure("info", "console")
        structlog.get_logger().info("event", **{name if name != "event" else "x": value})
    finally:
        sys.stderr = before
    assert len(stream.getvalue().splitlines()) == 1


@pytest.mark.parametrize(
    ("terminal", "no_color", "coloured"), [(True, "", True), (True, "1", False), (False, "", False)]
)
def test_colours_only_for_people(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, no_color: str, coloured: bool
) -> None:
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm")
    logs.configure("info", "console")
    structlog.get_logger().info("hello")

    assert ("\x1b[" in stream.getvalue()) is coloured


def test_noisy_libraries_are_quiet_and_warnings_arrive(stderr: Written) -> None:
    logs.configure("debug", "json")
    logging.getLogger("aioice.ice").info("Connection(0) Check ...")
    logging.getLogger("aiohttp.access").info("GET /")
    logging.getLogger("aioice.ice").warning("real trouble")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)

    first, second = as_json(stderr)
    assert (first["event"], first["logger"]) == ("real trouble", "aioice.ice")
    assert second["logger"] == "py.warnings"


def test_a_terminal_that_has_gone_breaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    logging.getLogger().handlers.clear()
    logs.configure("info", "console")
    structlog.get_logger().info("hello")
    logging.getLogger("library").warning("%d", "wrong arguments")


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match="level is one of"):
        logs.configure("loud")
