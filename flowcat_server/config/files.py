"""Reads configuration files from disk."""

from __future__ import annotations

from pathlib import Path

from flowcat_server.config.document import Document
from flowcat_server.config.yaml import MAX_CHARACTERS, parse_json, parse_yaml
from flowcat_server.errors import ConfigError, Problem


def shown(path: Path) -> str:
    """A file's name as messages show it: relative where that is shorter."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def read_text(path: Path) -> str:
    """A file's text. Raises `ConfigError`."""
    name = shown(path)
    try:
        raw = path.read_bytes() if path.stat().st_size <= 4 * MAX_CHARACTERS else None
    except FileNotFoundError as error:
        raise ConfigError(Problem(f"there is no file {name}")) from error
    except IsADirectoryError as error:
        raise ConfigError(Problem(f"{name} is a directory, not a file")) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "the name is not valid"
        raise ConfigError(Problem(f"{name} cannot be read: {reason.lower()}")) from error
    if raw is None:
        raise ConfigError(Problem(f"is longer than {MAX_CHARACTERS:,} characters", file=name))
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError(
            Problem("is not UTF-8 text: save it as UTF-8", file=name, line=line, column=1)
        ) from error


def parse_text(text: str, path: Path) -> Document:
    """Parse a file's text by its extension: ``.json`` is JSON, all else YAML."""
    parse = parse_json if path.suffix.lower() == ".json" else parse_yaml
    return parse(text, shown(path))
