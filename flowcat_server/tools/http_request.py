"""A tool that is an HTTP request; ``{{args.x}}`` and call variables are filled in."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import aiohttp

from flowcat_server.core.templates import render
from flowcat_server.errors import ToolError

MAX_BODY_BYTES = 256 * 1024
"""What is read of an answer; a model is shown less of it."""
MAX_ERROR_CHARS = 500
_ONE_ARGUMENT = re.compile(r"\s*\{\{\s*args\.(\w+)\s*\}\}\s*")


@dataclass(frozen=True, slots=True)
class HttpRunner:
    """Sends one request per call and gives the model the answer's text.

    What the model or the caller said stays where the file put it: in the URL it is one piece of a
    path or query, in a header one line, in the body one JSON value. Redirects are not followed:
    they would carry the headers, and with them the keys, elsewhere.
    """

    session: Callable[[], aiohttp.ClientSession]
    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None

    async def run(self, arguments: Mapping[str, Any], variables: Mapping[str, Any]) -> str:
        scope = {**variables, "args": arguments}
        try:
            async with self.session().request(
                self.method,
                _url(self.url, scope),
                params=self._params(scope),
                headers=self._headers(scope),
                data=self._data(arguments, scope),
                allow_redirects=False,
            ) as response:
                text = await _text(response)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ToolError(
                f"The service could not be reached ({type(error).__name__})."
            ) from error
        if response.status >= 300:
            raise ToolError(f"The service answered {response.status}: {text[:MAX_ERROR_CHARS]}")
        return text

    def _params(self, scope: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Query parameters; those without a value are left out."""
        filled = ((name, _fill(value, scope)) for name, value in self.query.items())
        return [(name, _plain(value)) for name, value in filled if value is not None]

    def _headers(self, scope: Mapping[str, Any]) -> dict[str, str]:
        headers = {name: _line(render(value, scope)) for name, value in self.headers.items()}
        if self._has_body and not any(name.lower() == "content-type" for name in headers):
            headers["Content-Type"] = "application/json"
        return headers

    @property
    def _has_body(self) -> bool:
        return self.body is not None or self.method not in ("GET", "DELETE")

    def _data(self, arguments: Mapping[str, Any], scope: Mapping[str, Any]) -> bytes | None:
        if not self._has_body:
            return None
        body = dict(arguments) if self.body is None else _fill(self.body, scope)
        return json.dumps(body, default=str).encode()


def _url(template: str, scope: Mapping[str, Any]) -> str:
    """The address, with every value quoted.

    Raises:
        ToolError: A value would change which resource the path names: it is empty or dots.
    """
    url = render(template, _Quoted(scope))
    shape = render(template, _Stand())
    pieces, shapes = _path(url), _path(shape)
    if len(pieces) == len(shapes):
        for piece, stand in zip(pieces, shapes, strict=True):
            if piece in _NOT_NAMES and stand not in _NOT_NAMES:
                raise ToolError("A value in the address of the service is missing or not usable.")
    return url


_NOT_NAMES = ("", ".", "..")


def _path(url: str) -> list[str]:
    return url.partition("?")[0].partition("#")[0].split("/")


class _Quoted(Mapping[str, Any]):
    """Values, each quoted so that it stays one piece of a URL."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> Any:
        value = self._values[name]
        if value is None or isinstance(value, Mapping):
            return None if value is None else _Quoted(value)
        return quote(_plain(value), safe="", errors="replace")

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class _Stand(Mapping[str, Any]):
    """Stands for any value: shows what of a URL the file itself wrote."""

    def __getitem__(self, name: str) -> Any:
        return self

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def __str__(self) -> str:
        return "x"


def _fill(value: Any, scope: Mapping[str, Any]) -> Any:
    """Fill templates in a JSON value; a string that is one template keeps the value's type."""
    if isinstance(value, str):
        argument = _ONE_ARGUMENT.fullmatch(value)
        if argument is not None:
            return scope["args"].get(argument[1])
        return render(value, scope)
    if isinstance(value, Mapping):
        return {key: _fill(inner, scope) for key, inner in value.items()}
    if isinstance(value, list):
        return [_fill(inner, scope) for inner in value]
    return value


def _plain(value: Any) -> str:
    """A value as text: as JSON writes it, but strings bare."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _line(value: str) -> str:
    """Nothing that would end a header's line."""
    return "".join(char if char.isprintable() else " " for char in value)


async def _text(response: aiohttp.ClientResponse) -> str:
    content = bytearray()
    async for piece in response.content.iter_any():
        content += piece
        if len(content) >= MAX_BODY_BYTES:
            break
    del content[MAX_BODY_BYTES:]
    try:
        return content.decode(response.charset or "utf-8", "replace")
    except LookupError:  # no such character set, or one that is none, such as "hex"
        return content.decode("utf-8", "replace")
