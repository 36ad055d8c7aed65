"""Settings as the registry would resolve them, for provider tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import SecretStr

from flowcat_server.providers.http import Http
from flowcat_server.providers.registry import Provider, Settings

KEY = "test-key-0123456789"


def settings(
    provider: Provider,
    *,
    name: str = "test",
    http: Http | None = None,
    base_url: str = "",
    model: str | None = None,
    voice: str | None = None,
    language: str = "",
    **options: Any,
) -> Settings:
    """Resolve a block as the configuration does: the provider's defaults, then what is given."""
    return Settings(
        name=name,
        model=provider.default_model if model is None else model,
        voice=provider.default_voice if voice is None else voice,
        language=language,
        api_key=SecretStr(KEY if provider.env else ""),
        base_url=base_url or provider.base_url,
        options=provider.options.model_validate(options),
        http=http or Http(),
        base_dir=Path(),
    )
