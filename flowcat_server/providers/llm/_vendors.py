"""Vendors that speak OpenAI's chat completions, one row each."""

from __future__ import annotations

from functools import partial

from flowcat_server.providers.llm.openai import ChatOptions, Dialect, OpenAiModel
from flowcat_server.providers.registry import Provider


def _row(
    title: str,
    base_url: str,
    env: tuple[str, ...] = (),
    model: str = "",
    dialect: Dialect = Dialect(),
) -> Provider:
    return Provider(
        create=partial(OpenAiModel, dialect=dialect),
        options=ChatOptions,
        env=env,
        key_required=bool(env),
        base_url=base_url,
        default_model=model,
        model_required=not model,
        title=title,
    )


VENDORS: dict[str, Provider] = {
    "openai": _row("OpenAI", "https://api.openai.com/v1", ("OPENAI_API_KEY",), "gpt-6-luna"),
    "openai-compatible": _row("Any server that speaks OpenAI's chat completions", ""),
    "ollama": _row("Ollama", "http://localhost:11434/v1"),
    "vllm": _row("vLLM", "http://localhost:8000/v1"),
}
