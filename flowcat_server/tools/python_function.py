"""A tool that is a Python function; coroutines run on the loop, plain functions in a thread."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import hashlib
import importlib
import importlib.util
import inspect
import json
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from flowcat_server.core.interfaces import ToolSpec
from flowcat_server.errors import ConfigError, ToolError

MAX_THREADS = 32
"""Runs of one plain function at a time, counting those whose caller no longer waits."""
_OPEN_ENDED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def load(reference: str, base_dir: Path) -> Callable[..., Any]:
    """Import ``module:function`` or ``./file.py:function`` (relative to `base_dir`).

    Functions of one file share its module, as they would if it were imported.

    Raises:
        ConfigError: It cannot be imported or is not callable.
    """
    where, _, name = reference.rpartition(":")
    try:
        is_file = where.endswith(".py")
        module = _load_file((base_dir / where).resolve()) if is_file else _import(where)
        function = getattr(module, name)
    except ConfigError:
        raise
    except Exception as error:  # the module is the user's own: importing it may raise anything
        raise ConfigError(
            f"tool {reference!r} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    if not callable(function):
        raise ConfigError(f"tool {reference!r} is not a function")
    loaded: Callable[..., Any] = function
    return loaded


def _import(name: str) -> ModuleType:
    if not name:
        raise ConfigError("a tool is written module:function or ./file.py:function")
    return importlib.import_module(name)


def _load_file(path: Path) -> ModuleType:
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:12]
    name = f"flowcat_tool_{path.stem}_{digest}"
    loaded = sys.modules.get(name)
    if loaded is not None:
        return loaded
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # Registered first, as an import does: dataclasses look their module up by its name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def describe(name: str, function: Callable[..., Any]) -> ToolSpec:
    """The tool as the model sees it: docstring and signature.

    A parameter named ``variables`` is not shown: it is given the call's variables.

    Raises:
        ConfigError: A parameter's type has no JSON Schema.
    """
    properties: dict[str, Any] = {}
    required: list[str] = []
    for argument, adapter in _parameters(function).items():
        parameter = inspect.signature(function).parameters[argument]
        try:
            # Without an annotation anything is taken, but a model needs to be told something.
            bare = parameter.annotation is inspect.Parameter.empty
            properties[argument] = {"type": "string"} if bare else adapter.json_schema()
        except PydanticUserError as error:
            raise _no_schema(function, argument) from error
        if parameter.default is inspect.Parameter.empty:
            required.append(argument)
    return ToolSpec(
        name,
        inspect.getdoc(function) or name,
        {"type": "object", "properties": properties, "required": required},
    )


def _parameters(function: Callable[..., Any]) -> dict[str, TypeAdapter[Any]]:
    """What the model may give, by name, and what it must be."""
    try:
        hints = get_type_hints(_annotated(function))
    except (NameError, TypeError, AttributeError) as error:
        raise ConfigError(f"tool function {_name(function)}: {error}") from error
    adapters: dict[str, TypeAdapter[Any]] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == "variables" or parameter.kind in _OPEN_ENDED:
            continue
        try:
            adapters[parameter.name] = TypeAdapter(hints.get(parameter.name, Any))
        except PydanticUserError as error:
            raise _no_schema(function, parameter.name) from error
    return adapters


def _annotated(function: Callable[..., Any]) -> Callable[..., Any]:
    """Where the annotations of a callable are."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isclass(function):
        initializer: Callable[..., Any] = function.__init__
        return initializer
    return function if inspect.isroutine(function) else type(function).__call__


def _no_schema(function: Callable[..., Any], parameter: str) -> ConfigError:
    return ConfigError(
        f"tool function {_name(function)}: parameter {parameter!r} has a type that a model "
        "cannot give; use str, int, float, bool, list, dict, Literal or a pydantic model"
    )


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", type(function).__qualname__)


@dataclass(frozen=True, slots=True)
class PythonRunner:
    """Calls the function with the model's arguments as keywords, as the types they should be."""

    function: Callable[..., Any]
    _places: threading.BoundedSemaphore = field(
        default_factory=lambda: threading.BoundedSemaphore(MAX_THREADS), repr=False
    )

    async def run(self, arguments: Mapping[str, Any], variables: Mapping[str, Any]) -> str:
        parameters = inspect.signature(self.function).parameters
        given = self._checked(arguments)
        if "variables" in parameters:
            given["variables"] = dict(variables)
        try:
            if _is_coroutine(self.function):
                result = await self.function(**given)
            else:
                result = await self._in_thread(given)
            return result if isinstance(result, str) else json.dumps(result, default=str)
        except (ToolError, asyncio.CancelledError):
            raise
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            # The function is the user's own: whatever it raises is told to the model, and the
            # call goes on.
            raise ToolError(f"{type(error).__name__}: {error}") from error

    def _checked(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as the function's types; models write "4" where they mean 4."""
        adapters = _parameters(self.function)
        parameters = inspect.signature(self.function).parameters
        checked = dict(arguments)
        for name, value in arguments.items():
            if name not in adapters:
                continue
            try:
                checked[name] = adapters[name].validate_python(value)
            except ValidationError as error:
                if value is None and parameters[name].default is not inspect.Parameter.empty:
                    del checked[name]  # how models leave an optional argument out
                    continue
                problem = error.errors(include_url=False, include_input=False)[0]["msg"]
                raise ToolError(f"Argument {name}: {problem}.") from error
        return checked

    async def _in_thread(self, given: dict[str, Any]) -> Any:
        """Run in a thread of its own, so that one that hangs holds up neither others nor the end.

        The loop's shared pool has few threads, and the process waits for them when it stops.
        """
        if not self._places.acquire(blocking=False):
            raise ToolError("The service is too busy at the moment.")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        context = contextvars.copy_context()

        def finish(result: Any, error: BaseException | None) -> None:
            if done.done():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)

        def work() -> None:
            result, error = None, None
            try:
                result = context.run(self.function, **given)
            except BaseException as raised:  # noqa: BLE001 - raised again where it is awaited
                error = raised
            finally:
                self._places.release()
            if isinstance(error, StopIteration):  # a future cannot hold it
                error = RuntimeError("StopIteration")
            if not loop.is_closed():
                loop.call_soon_threadsafe(finish, result, error)

        threading.Thread(target=work, name=f"tool-{_name(self.function)}", daemon=True).start()
        return await done


def _is_coroutine(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - an object with an async __call__
    )
