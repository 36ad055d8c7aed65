"""Logging: an event name and fields, on standard error, for people or for machines.

One pipeline for our own events and for the libraries that use `logging`. What it guarantees:

- A call's id stands in every line that belongs to it (bound once, in `bound_call`).
- Fields whose names begin with ``private_`` (what people said) are dropped, unless enabled.
- Registered secrets, and whatever stands under a name that means a secret, are never written.
- A value from the wire cannot end its line, begin another or move the cursor.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Final, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

LEVELS: Final = ("debug", "info", "warning", "error", "critical")
FORMATS: Final = ("console", "json")
PRIVATE: Final = "private_"
HIDDEN: Final = "[secret]"

_QUIET: Final = {
    "aiohttp.access": logging.WARNING,
    "aioice": logging.WARNING,
    "aiortc": logging.WARNING,
    "aiosqlite": logging.WARNING,
    "asyncio": logging.INFO,
    "httpx": logging.WARNING,
    "sqlalchemy": logging.WARNING,
}
"""The least level of libraries that say more than an operator wants."""

_SECRET_KEY = re.compile(
    r"(?i)(?:api_?key|authorization|cookie|credential|passw|private_?key|secret|token|^key$)"
    r"(?!.*_(?:env|file|source)$)"
)
_SECRET_TEXT = re.compile(
    r"(?i)(?P<before>[?&](?:access_token|api_?key|key|secret|signature|token)="
    r"|\b(?:bearer|basic)\s+"
    r"|://[^/\s:@]*:(?=[^/\s@]*@))"
    r"(?P<secret>[^\s&@'\"<>]+)"
)
"""Secrets that hide in longer texts: queries, headers, URLs with a password."""
_MIN_SECRET: Final = 4
_MAX_DEPTH: Final = 6

_CONTROL = re.compile(
    # C0, DEL, C1, line and paragraph separators, and what turns the writing direction round.
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)

_secrets: set[str] = set()
_secret_values: re.Pattern[str] | None = None


def register_secret(value: str) -> None:
    """Never write this value again. Values of under four characters are not looked for."""
    global _secret_values  # noqa: PLW0603 - one process, one set of secrets
    if len(value) >= _MIN_SECRET and value not in _secrets:
        _secrets.add(value)
        longest_first = sorted(_secrets, key=len, reverse=True)
        _secret_values = re.compile("|".join(re.escape(secret) for secret in longest_first))


def bound_call(call_id: str) -> AbstractContextManager[Mapping[str, Any]]:
    """Within this context, and in tasks started from it, every line carries the call's id."""
    return cast(
        "AbstractContextManager[Mapping[str, Any]]",
        structlog.contextvars.bound_contextvars(call_id=call_id),
    )


_process: dict[str, Any] = {}


def name_process(**fields: Any) -> None:
    """From now on every line of this process carries these fields."""
    _process.update(fields)


def _add_process(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return {**_process, **event}


def configure(
    level: str = "info",
    format: str = "console",
    *,
    private: bool = False,
) -> None:
    """Set up logging for the process. May be called again; loggers in use follow.

    Args:
        level: The least important of `LEVELS` that is written.
        format: One of `FORMATS`.
        private: Write fields that hold what people said.
    """
    if level not in LEVELS or format not in FORMATS:
        raise ValueError(f"level is one of {LEVELS}, format one of {FORMATS}")
    number = getattr(logging, level.upper())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_process,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        *([] if private else [drop_private]),
        hide_secrets,
    ]
    _processors[:] = [*shared, *_renderers(format, sys.stderr)]
    _follow(number)
    structlog.configure(
        processors=_processors,
        wrapper_class=_Logger,
        logger_factory=_StderrFactory(),
        cache_logger_on_first_use=True,
    )
    _configure_stdlib(number, shared, _renderers(format, sys.stderr))


_processors: list[Processor] = []
"""Shared by all loggers that exist, so that a second `configure` reaches them."""


class _Logger(structlog.BoundLoggerBase):
    """Methods below the level are no-ops that return at once; see `_follow`."""


def _follow(level: int) -> None:
    """Give `_Logger` the methods of structlog's logger for that level."""
    filtering = structlog.make_filtering_bound_logger(level)
    for name, value in vars(filtering).items():
        if not name.startswith("__"):
            setattr(_Logger, name, value)


class _StderrFactory:
    """Loggers that write to what `sys.stderr` is at the time."""

    def __call__(self, *_: Any) -> WrappedLogger:
        return _StderrLogger()


class _StderrLogger:
    def msg(self, line: str) -> None:
        try:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):  # the terminal has gone: no reason to end a call
            return

    debug = info = warning = warn = error = err = critical = fatal = exception = msg
    log = failure = msg


def _configure_stdlib(level: int, shared: list[Processor], renderers: list[Processor]) -> None:
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[_logger_name, *shared],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
    )
    handler = _StderrHandler()
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in list(root.handlers):
        if isinstance(old, _StderrHandler):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(max(least, level))
    logging.captureWarnings(True)


class _StderrHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except (TypeError, ValueError):  # a library's own log call is wrong
            line = f"{record.name}: {record.msg!r}"
        _StderrLogger().msg(line)


def _logger_name(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    record = event.get("_record")
    if record is not None:
        event["logger"] = record.name
    return event


# --- processors -------------------------------------------------------------------------------


def drop_private(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Drop fields that hold what people said."""
    for name in [name for name in event if name.startswith(PRIVATE)]:
        del event[name]
    return event


def hide_secrets(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Replace secrets, wherever they stand in names, values or texts."""
    for name, value in event.items():
        if name != "_record":
            event[name] = _without_secrets(name, value, 0)
    return event


def _without_secrets(name: str, value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value  # `max_tokens=200` is no secret
    if _SECRET_KEY.search(name):
        return HIDDEN if value else value
    if isinstance(value, str):
        return _hide(value)
    if isinstance(value, BaseException | bytes | os.PathLike):
        return _hide(str(value) if not isinstance(value, bytes) else repr(value))
    if depth < _MAX_DEPTH:
        if isinstance(value, Mapping):
            return {
                str(key): _without_secrets(str(key), item, depth + 1) for key, item in value.items()
            }
        if isinstance(value, list | tuple | set | frozenset):
            return [_without_secrets("", item, depth + 1) for item in value]
    return _hide(repr(value))


def _hide(text: str) -> str:
    if _secret_values is not None:
        text = _secret_values.sub(HIDDEN, text)
    return _SECRET_TEXT.sub(lambda found: found["before"] + HIDDEN, text)


def _renderers(format_: str, stream: TextIO) -> list[Processor]:
    if format_ == "json":
        return [structlog.processors.JSONRenderer(default=repr)]
    colors = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    console = structlog.dev.ConsoleRenderer(
        colors=colors, pad_event_to=28, exception_formatter=structlog.dev.plain_traceback
    )
    return [_one_line, cast("Processor", console)]


def _one_line(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Escape what would end or overwrite the line; indent tracebacks."""
    for name, value in list(event.items()):
        if name == "exception" and isinstance(value, str):
            lines = value.split("\n")
            event[name] = "\n".join("  | " + escape(line) for line in lines)
        elif isinstance(value, str):
            event[name] = escape(value)
        elif not isinstance(value, bool | int | float | None):
            event[name] = escape(repr(value))
        if escape(name) != name:
            event[escape(name)] = event.pop(name)
    return event


def escape(text: str) -> str:
    r"""The text with control characters as ``\n``, ``\x1b``, ``\u2028``."""
    if _CONTROL.search(text) is None:
        return text
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)
