"""Language models behind OpenAI's chat completions, which most vendors and servers speak.

``POST {base_url}/chat/completions`` with ``stream: true``; the answer is a stream of server-sent
events. The vendors are rows of data in ``_vendors.py``; this is their one client.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import structlog
from pydantic import Field

from flowcat_server.core.interfaces import ModelEvent, ModelRequest
from flowcat_server.errors import (
    ConfigError,
    ProviderProtocol,
    ProviderRefused,
    ProviderUnavailable,
)
from flowcat_server.providers import registry
from flowcat_server.providers.faults import stream_error
from flowcat_server.providers.http import translate
from flowcat_server.providers.llm._chat import ChatReply, chat_messages, chat_tools, deep_merge
from flowcat_server.providers.llm._sse import SseEvent
from flowcat_server.providers.llm._stream import endpoint, post_events
from flowcat_server.providers.registry import Settings
from flowcat_server.providers.warm import warm

log = structlog.get_logger()


class ChatOptions(registry.Options):
    """Options of every OpenAI-compatible model. What is not set is not sent.

    Many current models refuse sampling parameters, so none has a default.
    """

    temperature: float | None = Field(None, ge=0)
    top_p: float | None = Field(None, ge=0, le=1)
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] | None = None
    max_tokens: int | None = Field(None, gt=0)
    """Longest reply, in tokens; sent under the name the vendor wants."""
    reasoning_effort: str | None = None
    """``none``, ``minimal``, ``low``, ...; what is allowed depends on the model."""
    parallel_tool_calls: bool | None = None
    service_tier: str | None = None
    headers: Mapping[str, str] = Field(default_factory=dict)
    """Additional HTTP headers."""
    extra: Mapping[str, Any] = Field(default_factory=dict)
    """Merged over the request's body, untouched."""
    strict_roles: bool = False
    """User and assistant messages must alternate (some chat templates)."""
    starts_thinking: bool = False
    """Replies begin inside ``<think>`` without the opening tag (some chat templates)."""


class AzureOptions(ChatOptions):
    """Options of `azure`."""

    endpoint: str = ""
    """``https://{resource}.openai.azure.com``; else the variable AZURE_OPENAI_ENDPOINT."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a vendor's chat completions differ from OpenAI's."""

    max_tokens: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    seed: str = "seed"
    """The vendor's name of the option; empty: unknown there, never sent."""
    penalties: bool = True
    key_header: str = "Authorization"
    """With any other name the key stands there by itself, without ``Bearer``."""
    stream_options: bool = True
    """May be asked for the usage at the end of the stream."""
    tools: bool = True
    strict_roles: bool = False
    efforts: tuple[tuple[re.Pattern[str], str], ...] = ()
    """The least ``reasoning_effort`` of models, sent unless the option is set: reasoning is
    silence on the line, and some OpenAI models take tools only without it."""

    def effort(self, model: str) -> str | None:
        """What to ask of `model`; None: nothing."""
        return next((effort for models, effort in self.efforts if models.search(model)), None)


def request_body(
    request: ModelRequest, model: str, options: ChatOptions, dialect: Dialect
) -> dict[str, Any]:
    """The JSON body of a request."""
    body: dict[str, Any] = {
        "model": model,
        "messages": chat_messages(
            request.system,
            request.messages,
            tools=dialect.tools,
            strict_roles=dialect.strict_roles or options.strict_roles,
        ),
        "stream": True,
    }
    if dialect.stream_options:
        body["stream_options"] = {"include_usage": True}
    if request.tools and dialect.tools:
        body["tools"] = chat_tools(request.tools)
        body["parallel_tool_calls"] = options.parallel_tool_calls
    body["reasoning_effort"] = options.reasoning_effort or dialect.effort(model)
    body["temperature"] = options.temperature
    body["top_p"] = options.top_p
    if dialect.penalties:
        body["frequency_penalty"] = options.frequency_penalty
        body["presence_penalty"] = options.presence_penalty
    if dialect.seed:
        body[dialect.seed] = options.seed
    body["stop"] = options.stop
    body[dialect.max_tokens] = options.max_tokens
    body["service_tier"] = options.service_tier
    given = {name: value for name, value in body.items() if value is not None}
    return deep_merge(given, options.extra)


class OpenAiModel:
    """One model of one vendor."""

    def __init__(self, settings: Settings, dialect: Dialect, url: str = "") -> None:
        """`url` replaces ``settings.base_url``."""
        self._name = settings.name
        self._model = settings.model
        self._options: ChatOptions = settings.options
        self._dialect = dialect
        self._http = settings.http
        self._url = endpoint(self._name, url or settings.base_url, "/chat/completions")
        self._key = settings.api_key.get_secret_value().strip()
        self._headers = dict(self._options.headers)
        if self._key:
            bearer = dialect.key_header == "Authorization"
            self._headers[dialect.key_header] = f"Bearer {self._key}" if bearer else self._key

    async def start(self) -> None:
        """Open a connection ahead; never fails."""
        await self.warm()

    async def warm(self) -> None:
        """Have a connection ready, for instance while the phone rings. Best effort."""
        await warm(self._http, self._name, self._url)

    async def reply(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """Stream one reply; closing the generator closes the connection, which stops the vendor."""
        if request.tools and not self._dialect.tools:
            log.warning("llm_without_tools", provider=self._name, tools=len(request.tools))
        body = request_body(request, self._model, self._options, self._dialect)
        reply = ChatReply(thinking=self._options.starts_thinking)
        done = False
        with translate(self._name):
            async with aclosing(self._events(body)) as events:
                async for event in events:
                    done = _is_last(event)
                    for out in self._finish(reply) if done else self._chunk(reply, event):
                        yield out
            if not done:
                if not reply.finish_reason:
                    raise ProviderUnavailable(self._name, "the stream ended before the reply")
                for out in self._finish(reply):
                    yield out

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
            is_last=_is_last,
        )

    def _chunk(self, reply: ChatReply, event: SseEvent) -> Iterator[ModelEvent]:
        chunk = msgspec.json.decode(event.data)
        if not isinstance(chunk, dict):
            raise ProviderProtocol(self._name, "a chunk is not an object")
        if chunk.get("error") or event.name == "error":
            raise stream_error(self._name, chunk, self._key)
        try:
            yield from reply.feed(chunk)
        except AttributeError as error:
            raise ProviderProtocol(self._name, f"a chunk of another shape: {error}") from error

    def _finish(self, reply: ChatReply) -> Iterator[ModelEvent]:
        if reply.finish_reason == "error":  # OpenRouter
            raise ProviderUnavailable(self._name, "the reply failed at the vendor")
        if reply.finish_reason == "content_filter":
            raise ProviderRefused(self._name, "the vendor's content filter cut the reply")
        if reply.finish_reason == "length":
            log.warning("llm_reply_cut", provider=self._name, reason="max_tokens")
        yield from reply.finish()


def _is_last(event: SseEvent) -> bool:
    return event.data == "[DONE]"


def create_azure(settings: Settings, dialect: Dialect) -> OpenAiModel:
    """A model of Azure OpenAI, whose URL holds the customer's resource."""
    resource = settings.options.endpoint or os.environ.get("AZURE_OPENAI_ENDPOINT", "")
    url = settings.base_url or (f"{resource.rstrip('/')}/openai/v1" if resource else "")
    if not url:
        raise ConfigError(
            "azure: set options.endpoint or AZURE_OPENAI_ENDPOINT to "
            "https://{resource}.openai.azure.com"
        )
    return OpenAiModel(settings, dialect, url)
