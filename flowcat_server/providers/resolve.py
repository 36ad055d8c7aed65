"""From a provider's block in the agent file to what the provider is created from.

Everything here works on data: no vendor's library is imported and no network is touched.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from pydantic import SecretStr, ValidationError

from flowcat_server.config.document import Document
from flowcat_server.config.document import Path as KeyPath
from flowcat_server.config.explain import explain
from flowcat_server.config.models import Config
from flowcat_server.config.suggest import did_you_mean, listed
from flowcat_server.config.topology import ProviderSpec
from flowcat_server.errors import ConfigError, MissingExtra, Problem
from flowcat_server.providers.http import Http
from flowcat_server.providers.registry import (
    Key,
    Kind,
    Provider,
    Settings,
    find,
    find_key,
    key_names,
    names,
)

_LIFTED = ("base_url", "language", "voice", "api_key", "api_key_env")
"""Keys that Flowcat's files put into ``options`` and that belong to the block itself."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A mistake in one provider block; `path` is relative to the block."""

    path: KeyPath
    message: str
    warning: bool = False
    key: bool = False
    """The key itself is wrong, not its value."""


@dataclass(slots=True)
class Leg:
    """One provider block, looked at from all sides."""

    kind: Kind
    spec: ProviderSpec
    provider: Provider | None = None
    options: Any = None
    key: Key = field(default_factory=lambda: Key(SecretStr(""), ""))
    model: str = ""
    voice: str = ""
    language: str = ""
    base_url: str = ""
    faults: list[Fault] = field(default_factory=list)

    @property
    def usable(self) -> bool:
        """Whether the provider can be created."""
        return self.provider is not None and all(fault.warning for fault in self.faults)


def examine(kind: Kind, spec: ProviderSpec, environ: Mapping[str, str] = os.environ) -> Leg:
    """Resolve one provider block, noting every mistake."""
    leg = Leg(kind, spec)
    leg.provider = find(kind, spec.provider)
    if leg.provider is None:
        known = names(kind)
        hint = did_you_mean(spec.provider, known) or _elsewhere(kind, spec.provider)
        leg.faults.append(
            Fault(
                ("provider",),
                f"there is no {kind} provider {spec.provider[:60]!r}{hint} "
                f"(known: {listed(known, 60)})",
            )
        )
        return leg
    _options(leg, leg.provider)
    _names(leg, leg.provider)
    _key(leg, leg.provider, environ)
    try:
        leg.provider.check_installed(spec.provider)
    except MissingExtra as error:
        leg.faults.append(Fault(("provider",), str(error)))
    return leg


def _elsewhere(kind: Kind, name: str) -> str:
    kinds = [other for other in get_args(Kind) if other != kind and name in names(other)]
    return f"; it is a provider for {listed(kinds)}" if kinds else ""


def _options(leg: Leg, provider: Provider) -> None:
    own = set(provider.options.model_fields)
    given = dict(leg.spec.options)
    lifted = {name: str(given.pop(name)) for name in _LIFTED if name in given and name not in own}
    leg.base_url = leg.spec.base_url or lifted.get("base_url", "") or provider.base_url
    leg.language = leg.spec.language or lifted.get("language", "")
    leg.voice = leg.spec.voice or lifted.get("voice", "")
    if lifted.get("api_key") or lifted.get("api_key_env"):
        leg.spec = leg.spec.model_copy(
            update={
                "api_key": SecretStr(
                    leg.spec.api_key.get_secret_value() or lifted.get("api_key", "")
                ),
                "api_key_env": leg.spec.api_key_env or lifted.get("api_key_env", ""),
            }
        )
    for name in [name for name in given if provider.options.model_config.get("extra") == "forbid"
                 and name not in own]:  # fmt: skip
        leg.faults.append(
            Fault(
                ("options", name),
                f"{leg.spec.provider} has no option {name[:60]!r}{did_you_mean(name, own)} "
                + (f"(known: {listed(sorted(own))})" if own else "(it has none)"),
                key=True,
            )
        )
        del given[name]
    try:
        leg.options = provider.options.model_validate(given)
    except ValidationError as error:
        for found in error.errors():
            path = ("options", *found["loc"])
            leg.faults.append(Fault(path, explain({**found}, path)))


def _names(leg: Leg, provider: Provider) -> None:
    model = leg.spec.model
    if leg.kind == "tts" and model and not leg.voice:
        if provider.default_model and provider.default_model == provider.default_voice:
            leg.voice = model
        elif not _is_model(model, provider):
            leg.voice, model = model, ""
    if provider.model_required and not model:
        leg.faults.append(Fault(("model",), f"{leg.spec.provider} needs the name of a model"))
    end = provider.retired.get(model or provider.default_model)
    if end:
        leg.faults.append(
            Fault(
                ("model",),
                f"the vendor's last day for the model {model or provider.default_model!r} is {end}",
                warning=True,
            )
        )
    leg.model = model or provider.default_model
    leg.voice = leg.voice or provider.default_voice


def _is_model(name: str, provider: Provider) -> bool:
    """Whether a text-to-speech ``model`` names a model, and not, as in Flowcat, a voice.

    It does if it is of the family of the provider's default model: ``sonic-turbo`` beside
    ``sonic-3.5``. A voice's id never is.
    """
    family = re.split(r"[-_.]", provider.default_model)[0]
    return name in provider.retired or bool(family and re.split(r"[-_.]", name)[0] == family)


def _key(leg: Leg, provider: Provider, environ: Mapping[str, str]) -> None:
    spec = leg.spec
    replaced = bool(provider.base_url) and leg.base_url.rstrip("/") != provider.base_url.rstrip("/")
    leg.key = find_key(
        spec.provider,
        provider,
        explicit=spec.api_key.get_secret_value(),
        explicit_env=spec.api_key_env,
        replaced_base_url=replaced,
        environ=environ,
    )
    if leg.key.source:
        return
    if spec.api_key_env:
        message = f"the environment variable {spec.api_key_env} is not set"
        leg.faults.append(Fault(("api_key_env",), message))
    elif provider.env and provider.key_required and not replaced:
        first, *others = key_names(spec.provider, provider)
        leg.faults.append(
            Fault(
                ("provider",),
                f"no key for {spec.provider}: set {first} in the environment "
                f"(also tried: {listed(others)})",
            )
        )


def settings_for(
    kind: Kind,
    spec: ProviderSpec,
    *,
    http: Http,
    base_dir: Path,
    environ: Mapping[str, str] = os.environ,
    path: str = "",
) -> tuple[Provider, Settings]:
    """The provider of a block, and what to create it from. Raises `ConfigError`.

    `path` is the block's place in the file, for messages.
    """
    leg = examine(kind, spec, environ)
    if leg.provider is None or not leg.usable:
        raise ConfigError(
            [
                Problem(fault.message, path=".".join(filter(None, (path, *map(str, fault.path)))))
                for fault in leg.faults
                if not fault.warning
            ]
        )
    return leg.provider, Settings(
        name=spec.provider,
        model=leg.model,
        voice=leg.voice,
        language=leg.language,
        api_key=leg.key.value,
        base_url=leg.base_url,
        options=leg.options,
        http=http,
        base_dir=base_dir,
    )


def check_providers(
    config: Config, document: Document, environ: Mapping[str, str] = os.environ
) -> Iterator[Problem]:
    """Every mistake in the provider blocks in use, with its place in the file.

    A fallback without its key or package is only a warning: the call goes on without it.
    """
    for kind, dotted_path, spec in config.topology.used():
        place: KeyPath = tuple(
            int(part) if part.isdecimal() else part for part in dotted_path.split(".")
        )
        spare = "fallback" in place
        leg = examine(kind, spec, environ)
        for fault in leg.faults:
            hard = fault.path[0] in ("options", "model") or leg.provider is None
            yield document.problem(
                (*place, *fault.path),
                fault.message,
                key=fault.key,
                warning=fault.warning or (spare and not hard),
            )
        if spare and spec.fallback:
            yield document.problem(
                (*place, "fallback"),
                "a fallback's own fallback is not read; list them one after another",
                key=True,
                warning=True,
            )
