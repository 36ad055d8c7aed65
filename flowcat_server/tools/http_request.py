"""A tool that is an HTTP request; ``{{args.x}}`` and call variables are filled in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import aiohttp

from flowcat_server.core.templates import render
from flowcat_server.errors import ToolError

MAX_BODY_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class HttpRunner:
    """Sends one request per call and gives the model the answer's text."""

    session: Callable[[], aiohttp.ClientSession]
    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None

    async def run(self, arguments: Mapping[str, Any], variables: Mapping[str, Any]) -> str:
        scope = {**variables, "args": arguments}
        body: Any = None
        if self.body is not None:
            body = _fill(self.body, scope)
        elif self.method not in ("GET", "DELETE"):
            body = dict(arguments)
        try:
            async with self.session().request(
                self.method,
                # Values come from the model or the caller: they must not leave their place.
                render(self.url, _quoted(scope)),
                params={name: str(_fill(value, scope)) for name, value in self.query.items()},
                headers={name: _header(render(v, scope)) for name, v in self.headers.items()},
                json=body,
                allow_redirects=False,
            ) as response:
                content = await response.content.read(MAX_BODY_BYTES)
                text = content.decode(response.get_encoding(), "replace")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ToolError(
                f"The service could not be reached ({type(error).__name__})."
            ) from error
        if response.status >= 400:
            raise ToolError(f"The service answered {response.status}: {text[:500]}")
        return text


def _fill(value: Any, scope: Mapping[str, Any]) -> Any:
    """Fill templates in a JSON value; a string that is one template keeps the value's type."""
    if isinstance(value, str):
        name = value.strip()
        if name.startswith("{{args.") and name.endswith("}}") and name.count("{{") == 1:
            return scope["args"].get(name[7:-2].strip())
        return render(value, scope)
    if isinstance(value, Mapping):
        return {key: _fill(inner, scope) for key, inner in value.items()}
    if isinstance(value, list):
        return [_fill(inner, scope) for inner in value]
    return value


def _quoted(scope: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _quoted(value) if isinstance(value, Mapping) else quote(str(value), safe="")
        for name, value in scope.items()
    }


def _header(value: str) -> str:
    return value.replace("\r", " ").replace("\n", " ")
