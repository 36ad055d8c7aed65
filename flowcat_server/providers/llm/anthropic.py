"""Anthropic's Messages API: https://platform.claude.com/docs/en/api/messages.

``POST {base_url}/v1/messages`` with ``stream: true``; the answer is a stream of server-sent events
(https://platform.claude.com/docs/en/build-with-claude/streaming).
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from typing import Any, Literal, Self

import msgspec
import structlog
from pydantic import Field, model_validator

from flowcat_server.core.interfaces import ModelEvent, ModelRequest
from flowcat_server.errors import ProviderProtocol, ProviderRefused, ProviderUnavailable
from flowcat_server.providers import registry
from flowcat_server.providers.faults import stream_error
from flowcat_server.providers.http import translate
from flowcat_server.providers.llm._anthropic import MessageReply, wire_messages
from flowcat_server.providers.llm._chat import deep_merge
from flowcat_server.providers.llm._sse import SseEvent
from flowcat_server.providers.llm._stream import endpoint, post_events
from flowcat_server.providers.registry import Provider, Settings
from flowcat_server.providers.warm import warm

log = structlog.get_logger()

# These think always and refuse to be told not to.
_ALWAYS_THINKING = re.compile(r"(sonnet|opus)-5-5|fable|mythos")


class Options(registry.Options):
    """Options of `anthropic`. What is not set is not sent."""

    max_tokens: int = Field(1024, gt=0)
    """Longest reply, in tokens; the API demands one."""
    stop: tuple[str, ...] | None = None
    thinking: Mapping[str, Any] | None = None
    """As the API names it. Not set: thinking is off, since it is silence on the line; where the
    model cannot be stopped from thinking, `effort` is low instead."""
    effort: str | None = None
    """``low``, ``medium``, ``high``, ...; what is allowed depends on the model."""
    cache: bool = True
    """Cache the prompt between the turns of a call: quicker and cheaper for long prompts."""
    version: Literal["2026-10-21", "2023-06-01"] = "2026-10-21"
    """The API's version (https://platform.claude.com/docs/en/api/versioning). The older one takes
    sampling parameters for older models, and the key in ``x-api-key``, as proxies may still
    expect."""
    temperature: float | None = Field(None, ge=0, le=1)
    """Only with version 2023-06-01, and only older models."""
    top_p: float | None = Field(None, ge=0, le=1)
    """Only with version 2023-06-01, and only older models."""
    headers: Mapping[str, str] = Field(default_factory=dict)
    """Additional HTTP headers, such as ``anthropic-beta``."""
    extra: Mapping[str, Any] = Field(default_factory=dict)
    """Merged over the request's body, untouched."""

    @model_validator(mode="after")
    def _sampling_needs_the_old_version(self) -> Self:
        sampling = self.temperature is not None or self.top_p is not None
        if sampling and self.version != "2023-06-01":
            raise ValueError("temperature and top_p need version: 2023-06-01")
        return self


def request_body(request: ModelRequest, model: str, options: Options) -> dict[str, Any]:
    """The JSON body of a request."""
    thinking, effort = options.thinking, options.effort
    if thinking is None and _ALWAYS_THINKING.search(model):
        effort = effort or "low"
    elif thinking is None:
        thinking = {"type": "disabled"}
    body = {
        "model": model,
        "max_tokens": options.max_tokens,
        "stream": True,
        "system": request.system or None,
        "messages": wire_messages(request.messages),
        "tools": [
            {
                "name": tool.name,
                "description": tool.description,
                "input_schema": dict(tool.parameters),
            }
            for tool in request.tools
        ]
        or None,
        "thinking": thinking,
        "output_config": {"effort": effort} if effort else None,
        "temperature": options.temperature,
        "top_p": options.top_p,
        "stop_sequences": options.stop,
        "cache_control": {"type": "ephemeral"} if options.cache else None,
    }
    given = {name: value for name, value in body.items() if value is not None}
    return deep_merge(given, options.extra)


class AnthropicModel:
    """One Claude model."""

    def __init__(self, settings: Settings) -> None:
        self._name = settings.name
        self._model = settings.model
        self._options: Options = settings.options
        self._http = settings.http
        base = settings.base_url.rstrip("/").removesuffix("/v1")
        self._url = endpoint(self._name, base, "/v1/messages")
        self._key = settings.api_key.get_secret_value().strip()
        version = self._options.version
        self._headers = {"anthropic-version": version, **self._options.headers}
        if self._key and version == "2023-06-01":
            self._headers["x-api-key"] = self._key
        elif self._key:
            self._headers["Authorization"] = f"Bearer {self._key}"

    async def start(self) -> None:
        """Open a connection ahead; never fails."""
        await self.warm()

    async def warm(self) -> None:
        """Have a connection ready, for instance while the phone rings. Best effort."""
        await warm(self._http, self._name, self._url)

    async def reply(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """Stream one reply; closing the generator closes the connection, which stops the vendor."""
        body = request_body(request, self._model, self._options)
        reply = MessageReply()
        with translate(self._name):
            async with aclosing(self._events(body)) as events:
                async for event in events:
                    for out in self._event(reply, event):
                        yield out
            if not reply.ended:
                raise ProviderUnavailable(self._name, "the stream ended before the reply")

    async def close(self) -> None:
        """Nothing of one's own to close: the HTTP client is shared."""

    def _events(self, body: dict[str, Any]) -> AsyncGenerator[SseEvent, None]:
        return post_events(
            self._http,
            self._name,
            self._url,
            self._headers,
            body,
            key=self._key,
            is_last=lambda event: event.name == "message_stop",
        )

    def _event(self, reply: MessageReply, event: SseEvent) -> Iterator[ModelEvent]:
        data = msgspec.json.decode(event.data)
        if not isinstance(data, dict):
            raise ProviderProtocol(self._name, "an event is not an object")
        if data.get("type") == "error" or event.name == "error":
            raise stream_error(self._name, data, self._key)
        try:
            yield from reply.feed(data)
            if reply.ended:
                self._check_stop(reply.stop_reason)
                yield from reply.finish()
        except AttributeError as error:
            raise ProviderProtocol(self._name, f"an event of another shape: {error}") from error

    def _check_stop(self, reason: str) -> None:
        if reason == "refusal":
            raise ProviderRefused(self._name, "the model declined to answer")
        if reason in ("max_tokens", "model_context_window_exceeded"):
            log.warning("llm_reply_cut", provider=self._name, reason=reason)


PROVIDER = Provider(
    create=AnthropicModel,
    options=Options,
    env=("ANTHROPIC_API_KEY",),
    base_url="https://api.anthropic.com",
    default_model="claude-haiku-5-5",
    title="Anthropic Claude",
    # https://platform.claude.com/docs/en/about-claude/model-deprecations
    retired=dict.fromkeys(("claude-sonnet-4-5", "claude-sonnet-4-5-20250929"), "2026-11-30"),
)
