"""Which providers exist, what they accept and where their keys come from.

A provider is a module ``providers/<kind>/<name>.py`` that holds ``PROVIDER`` (dashes in the name
are underscores in the file name), or a row in the ``VENDORS`` table of a module that speaks a
protocol many vendors share. Other packages add providers through the entry-point group
``flowcat_server.providers``: the entry's name is ``<kind>.<name>``, its object a `Provider`.
Modules import their vendor's library only when the provider is started, so that everything here
works with no extra installed.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, SecretStr

from flowcat_server.errors import MissingExtra
from flowcat_server.providers.assets import Asset

if TYPE_CHECKING:
    from flowcat_server.providers.http import Http

Kind = Literal["stt", "llm", "tts", "realtime", "vad", "turn"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Options(BaseModel):
    """Base of every provider's ``options`` block. Unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NoOptions(Options):
    """A provider without options."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a provider is created from: one ``{provider, model, ...}`` block, resolved."""

    name: str
    model: str
    voice: str
    language: str
    api_key: SecretStr
    base_url: str
    options: Any
    """An instance of the provider's own `Options` model."""
    http: Http
    """The process's shared HTTP client."""
    base_dir: Path
    """Directory of the configuration file; relative paths in options start here."""


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider as data. `create` is called once per process."""

    create: Callable[[Settings], Any]
    options: type[Options] = NoOptions
    env: tuple[str, ...] = ()
    """Environment variables that hold the key, the vendor's own names; the first set one wins.
    Empty: no key is needed."""
    key_required: bool = True
    """False where a key is accepted but a server of one's own needs none."""
    base_url: str = ""
    default_model: str = ""
    default_voice: str = ""
    model_required: bool = False
    requires: tuple[str, ...] = ()
    """Modules that must be importable; looked up, not imported."""
    extra: str = ""
    """The pip extra that installs them."""
    assets: tuple[Asset, ...] = ()
    """Model files it loads, unless the agent file names a file of its own as the model."""
    local: bool = False
    """Runs in this machine, without a network."""
    unmetered: bool = False
    """Not local, but of the user's own: a request that is thrown away costs nothing."""
    status: Literal["local", "fixture-tested", "live-verified", "built-in"] = "fixture-tested"
    title: str = ""
    """One line for the documentation."""
    retired: Mapping[str, str] = field(default_factory=dict)
    """Models the vendor has shut down or will: name to ISO date."""

    def check_installed(self, name: str) -> None:
        """Raise `MissingExtra` if a needed package is absent."""
        for module in self.requires:
            if find_spec(module) is None:
                raise MissingExtra(name, self.extra, module)


@cache
def names(kind: Kind) -> tuple[str, ...]:
    """All provider names of a kind, sorted."""
    return tuple(sorted({*_built_in(kind), *_vendors(kind), *_third_party(kind)}))


@cache
def _built_in(kind: Kind) -> frozenset[str]:
    package = importlib.import_module(f"flowcat_server.providers.{kind}")
    return frozenset(
        module.name.replace("_", "-")
        for module in pkgutil.iter_modules(package.__path__)
        if not module.name.startswith("_")
    )


@cache
def find(kind: Kind, name: str) -> Provider | None:
    """The provider of that kind and name, or None. Built-in names win over other packages'."""
    if name in _vendors(kind):
        return _vendors(kind)[name]
    module_name = f"flowcat_server.providers.{kind}.{name.replace('-', '_')}"
    if name in _built_in(kind):
        built_in: Provider = importlib.import_module(module_name).PROVIDER
        return built_in
    point = _third_party(kind).get(name)
    if point is None:
        return None
    loaded = point.load()
    if not isinstance(loaded, Provider):
        raise TypeError(f"entry point {kind}.{name} is {type(loaded).__name__}, not a Provider")
    return loaded


@cache
def _vendors(kind: Kind) -> Mapping[str, Provider]:
    if kind != "llm":
        return {}
    module = importlib.import_module("flowcat_server.providers.llm._vendors")
    vendors: Mapping[str, Provider] = module.VENDORS
    return vendors


@cache
def _third_party(kind: Kind) -> Mapping[str, Any]:
    prefix = f"{kind}."
    return {
        point.name.removeprefix(prefix): point
        for point in entry_points(group="flowcat_server.providers")
        if point.name.startswith(prefix)
    }


@dataclass(frozen=True, slots=True)
class Key:
    """A provider's key and where it was found; the key itself never shows in text."""

    value: SecretStr
    source: str
    """``config``, the environment variable's name, or empty when there is none."""


def key_names(name: str, provider: Provider) -> tuple[str, ...]:
    """The environment variables tried for a provider's key, in order."""
    plain = name.upper().replace("-", "_").replace(".", "_")
    own = (*provider.env, f"FLOWCAT_{plain}_API_KEY") if provider.env else ()
    return (*own, *(f"{variable}_FILE" for variable in own))


def find_key(
    name: str,
    provider: Provider,
    *,
    explicit: str = "",
    explicit_env: str = "",
    replaced_base_url: bool = False,
    environ: Mapping[str, str] = os.environ,
) -> Key:
    """Find a provider's key: the block's own, then the environment.

    A vendor's key found in the environment is never sent to a `base_url` that the user replaced;
    there only `explicit` and `explicit_env` count.
    """
    if explicit:
        return Key(SecretStr(explicit), "config")
    candidates: tuple[str, ...] = (explicit_env,) if explicit_env else ()
    if not replaced_base_url:
        candidates += key_names(name, provider)
    for variable in candidates:
        value = environ.get(variable, "").strip()
        if not value:
            continue
        if variable.endswith("_FILE") and variable != explicit_env:
            try:
                value = Path(value).read_text(encoding="utf-8").strip()
            except OSError:
                continue
        if value:
            return Key(SecretStr(value), variable)
    return Key(SecretStr(""), "")
