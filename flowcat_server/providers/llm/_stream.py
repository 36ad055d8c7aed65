"""One request whose answer is a stream of server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from flowcat_server.errors import ConfigError, ProviderProtocol
from flowcat_server.providers.faults import error_text, read_body, redact, refusal, stream_error
from flowcat_server.providers.http import Http, translate
from flowcat_server.providers.llm._sse import SseEvent, read_events


def endpoint(provider: str, base_url: str, path: str) -> URL:
    """`base_url` with `path` behind it; its query is kept. Raises `ConfigError`."""
    try:
        base = URL(base_url)
    except ValueError as error:
        raise ConfigError(f"{provider}: base_url {base_url!r} is not a URL") from error
    if base.scheme not in ("http", "https") or not base.host:
        raise ConfigError(f"{provider}: base_url {base_url!r} is not an http or https URL")
    return base.with_path(base.path.rstrip("/") + path).with_query(base.query)


DRAIN_S = 0.05
"""How long the end of a body may lag behind its last event before the connection is given up."""


async def post_events(
    http: Http,
    provider: str,
    url: URL,
    headers: Mapping[str, str],
    body: Mapping[str, Any],
    *,
    key: str,
    is_last: Callable[[SseEvent], bool],
) -> AsyncGenerator[SseEvent, None]:
    """Post `body` as JSON and stream the answer's events.

    Every failure leaves as a `ProviderError`, also one of the consumer's that `translate` knows.
    Closing the generator closes the connection at once, which stops the work at the vendor.
    After the event that `is_last` the connection is made ready for the next request; so the
    consumer should go on to the generator's end.
    """
    with translate(provider):
        async with await _post(http, url, headers, msgspec.json.encode(body)) as response:
            try:
                if response.status != 200:
                    raise await refusal(provider, response, key)
                await _check_type(provider, response, key)
                async with aclosing(read_events(response)) as events:
                    async for event in events:
                        yield event
                        if is_last(event):
                            await _drain(response)
                            return
            finally:
                # Without this the connection of an unread answer might be kept.
                if not response.content.at_eof():
                    response.close()


async def _post(
    http: Http, url: URL, headers: Mapping[str, str], body: bytes
) -> aiohttp.ClientResponse:
    """Send the request; on a kept connection that the server had just dropped, once more.

    Servers drop idle connections after as little as 5 s (uvicorn, llama.cpp), and the request may
    cross with that. Until the status has come nothing was said, so it is safe to ask again.
    """

    async def send() -> aiohttp.ClientResponse:
        return await http.session.post(
            url,
            data=body,
            headers={
                "Content-Type": "application/json",
                "Accept": "text/event-stream",
                # A compressed stream may be held back until the compressor has enough.
                "Accept-Encoding": "identity",
                **headers,
            },
            # A key is not carried to where a redirect points.
            allow_redirects=False,
        )

    try:
        return await send()
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
        return await send()


async def _drain(response: aiohttp.ClientResponse) -> None:
    with suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(DRAIN_S):
            while not response.content.at_eof():
                await response.content.readany()


async def _check_type(provider: str, response: aiohttp.ClientResponse, key: str) -> None:
    """Some gateways answer 200 with an error in JSON, or with a log-in page."""
    kind = response.content_type
    if kind in ("text/event-stream", "application/octet-stream"):
        return
    if kind == "application/json":
        body = await read_body(response)
        message, words = error_text(body)
        if words or b'"error"' in body:
            raise stream_error(provider, {"error": {"message": message, "type": words}}, key)
        raise ProviderProtocol(provider, f"not a stream: {redact(message, key)[:200]}")
    raise ProviderProtocol(provider, f"not a stream: content type {kind}")
