"""A tool that is a Python function; coroutines run on the loop, plain functions in a thread."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from flowcat_server.core.interfaces import ToolSpec
from flowcat_server.errors import ConfigError, ToolError


def load(reference: str, base_dir: Path) -> Callable[..., Any]:
    """Import ``module:function`` or ``./file.py:function`` (relative to `base_dir`).

    Raises:
        ConfigError: It cannot be imported or is not callable.
    """
    where, _, name = reference.rpartition(":")
    try:
        if where.endswith(".py"):
            path = (base_dir / where).resolve()
            spec = importlib.util.spec_from_file_location(f"flowcat_tool_{path.stem}", path)
            if spec is None or spec.loader is None:
                raise ConfigError(f"tool {reference!r}: {path} is not a Python file")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(where)
        function = getattr(module, name)
    except (ImportError, OSError, SyntaxError, AttributeError, ValueError) as error:
        raise ConfigError(f"tool {reference!r} cannot be loaded: {error}") from error
    if not callable(function):
        raise ConfigError(f"tool {reference!r} is not a function")
    loaded: Callable[..., Any] = function
    return loaded


def describe(name: str, function: Callable[..., Any]) -> ToolSpec:
    """The tool as the model sees it: docstring and signature.

    A parameter named ``variables`` is not shown: it is given the call's variables.
    """
    hints = get_type_hints(function)
    properties: dict[str, Any] = {}
    required: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == "variables":
            continue
        properties[parameter.name] = TypeAdapter(hints.get(parameter.name, str)).json_schema()
        if parameter.default is inspect.Parameter.empty:
            required.append(parameter.name)
    return ToolSpec(
        name,
        inspect.getdoc(function) or name,
        {"type": "object", "properties": properties, "required": required},
    )


@dataclass(frozen=True, slots=True)
class PythonRunner:
    """Calls the function with the model's arguments as keywords."""

    function: Callable[..., Any]

    async def run(self, arguments: Mapping[str, Any], variables: Mapping[str, Any]) -> str:
        parameters = inspect.signature(self.function).parameters
        given = dict(arguments)
        if "variables" in parameters:
            given["variables"] = dict(variables)
        try:
            if inspect.iscoroutinefunction(self.function):
                result = await self.function(**given)
            else:
                result = await asyncio.to_thread(self.function, **given)
        except ToolError:
            raise
        except Exception as error:
            # The function is the user's own: whatever it raises is told to the model, and the
            # call goes on.
            raise ToolError(f"{type(error).__name__}: {error}") from error
        return result if isinstance(result, str) else json.dumps(result, default=str)
