from __future__ import annotations

import asyncio
import contextvars
import functools
import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from flowcat_server.errors import ConfigError, ToolError
from flowcat_server.tools import python_function
from flowcat_server.tools.python_function import PythonRunner, describe, load

context: contextvars.ContextVar[str] = contextvars.ContextVar("context", default="outside")


class Guest(BaseModel):
    name: str


async def run(function: Callable[..., Any], **arguments: Any) -> str:
    return await PythonRunner(function).run(arguments, {"caller": "+1555"})


# --- running --------------------------------------------------------------------------------------


async def test_a_plain_function_runs_in_a_thread_of_its_own():
    def where(day: str) -> str:
        return f"{day} {threading.current_thread() is threading.main_thread()} {context.get()}"

    context.set("inside")
    assert await run(where, day="Friday") == "Friday False inside"


async def test_a_coroutine_runs_on_the_loop():
    async def where(day: str) -> str:
        await asyncio.sleep(0)
        return f"{day} {threading.current_thread() is threading.main_thread()}"

    assert await run(where, day="Friday") == "Friday True"


async def test_an_object_with_an_async_call_is_a_coroutine_function():
    class Lookup:
        async def __call__(self, day: str) -> str:
            return day

    assert await run(Lookup(), day="Friday") == "Friday"
    assert describe("x", Lookup()).parameters["required"] == ["day"]


async def test_a_partial_keeps_what_is_given_already():
    def book(day: str, people: int) -> list[Any]:
        return [day, people]

    runner = functools.partial(book, people=2)
    assert json.loads(await run(runner, day="Friday")) == ["Friday", 2]
    assert describe("x", runner).parameters["required"] == ["day"]


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ("as it is", "as it is"),
        ({"a": [1, None]}, '{"a": [1, null]}'),
        (None, "null"),
        (True, "true"),
        ({"path": Path("/x")}, '{"path": "/x"}'),
    ],
)
async def test_results_become_text(result: object, text: str):
    assert await run(lambda: result) == text


def circle() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


def raising(error: BaseException) -> Callable[..., None]:
    def fails() -> None:
        raise error

    return fails


def raising_later(error: BaseException) -> Callable[..., Any]:
    async def fails() -> None:
        await asyncio.sleep(0)
        raise error

    return fails


@pytest.mark.parametrize("kind", [raising, raising_later])
@pytest.mark.parametrize(
    "error",
    [KeyError("x"), ZeroDivisionError(), SystemExit(3), RecursionError("deep"), OSError("disk")],
    ids=repr,
)
async def test_whatever_it_raises_is_told_to_the_model(
    kind: Callable[[BaseException], Callable[..., Any]], error: BaseException
):
    with pytest.raises(ToolError) as told:
        await run(kind(error))
    assert type(error).__name__ in str(told.value)


async def test_a_plain_function_may_even_raise_stop_iteration():
    with pytest.raises(ToolError, match="StopIteration"):
        await run(raising(StopIteration()))


async def test_its_own_words_are_told_as_they_are():
    with pytest.raises(ToolError, match="^Nothing is free on Friday\\.$"):
        await run(raising(ToolError("Nothing is free on Friday.")))


async def test_a_result_that_json_cannot_write_is_told():
    for result in (circle(), {(1, 2): 3}):
        with pytest.raises(ToolError):
            await run(lambda result=result: result)


async def test_the_calls_variables_are_given_and_cannot_be_forged():
    def who(variables: Mapping[str, Any], day: str = "") -> dict[str, Any]:
        given = dict(variables)
        variables["x"] = 1  # type: ignore[index]
        return given

    runner, scope = PythonRunner(who), {"caller": "+1555"}
    assert json.loads(await runner.run({"variables": {"caller": "evil"}}, scope)) == scope
    assert scope == {"caller": "+1555"}


async def test_arguments_become_what_the_function_wants():
    def book(people: int, late: bool, guest: Guest, day: Literal["sat", "sun"]) -> list[Any]:
        return [people, late, guest.name, day]

    given = {"people": "4", "late": "true", "guest": {"name": "Ada"}, "day": "sat"}
    assert json.loads(await run(book, **given)) == [4, True, "Ada", "sat"]
    for wrong in ({"people": "many"}, {"day": "mon"}, {"guest": {}}, {"guest": "Ada"}):
        with pytest.raises(ToolError, match=f"Argument {next(iter(wrong))}"):
            await run(book, **{**given, **wrong})


async def test_null_for_an_optional_argument_is_its_default():
    def book(people: int = 2, note: str | None = "x") -> list[Any]:
        return [people, note]

    assert json.loads(await run(book, people=None, note=None)) == [2, None]


async def test_arguments_that_it_does_not_know_are_told():
    def book(day: str) -> str:
        return day

    with pytest.raises(ToolError, match="TypeError"):
        await run(book, day="Friday", evil=1)


async def test_functions_that_hang_hold_up_nobody_and_are_limited_in_number(
    monkeypatch: pytest.MonkeyPatch,
):
    release = threading.Event()

    def hangs(wait: bool = True) -> str:
        if wait:
            release.wait(10)
        return "done"

    monkeypatch.setattr(python_function, "MAX_THREADS", 40)
    stuck, other = PythonRunner(hangs), PythonRunner(hangs)
    try:
        for _ in range(40):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await stuck.run({}, {})
        with pytest.raises(ToolError, match="too busy"):
            await stuck.run({"wait": False}, {})
        assert await other.run({"wait": False}, {}) == "done"
        assert await asyncio.to_thread(lambda: "free") == "free"
        threads = [t for t in threading.enumerate() if t.name.startswith("tool-")]
        assert len(threads) == 40
        assert all(thread.daemon for thread in threads)
    finally:
        release.set()
        for thread in threading.enumerate():
            if thread.name.startswith("tool-"):
                thread.join(5)
    assert await stuck.run({"wait": False}, {}) == "done"


async def test_a_run_whose_caller_has_gone_is_forgotten():
    started = threading.Event()

    def slow() -> str:
        started.set()
        time.sleep(0.05)
        raise OSError("nobody listens")

    task = asyncio.create_task(run(slow))
    await asyncio.to_thread(started.wait, 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.1)


# --- describing -----------------------------------------------------------------------------------


def test_signature_and_docstring_describe_the_tool():
    def book(
        day: Literal["sat", "sun"], people: int, *, late: bool = False, note=None, variables=None
    ):  # type: ignore[no-untyped-def]
        """Book a table.

        At least one day ahead.
        """

    spec = describe("book", book)
    assert spec.description == "Book a table.\n\nAt least one day ahead."
    assert spec.parameters == {
        "type": "object",
        "properties": {
            "day": {"enum": ["sat", "sun"], "type": "string"},
            "people": {"type": "integer"},
            "late": {"type": "boolean"},
            "note": {"type": "string"},
        },
        "required": ["day", "people"],
    }


def test_open_ended_parameters_are_not_shown():
    def book(day: str, *rest: int, **more: str) -> None: ...

    assert list(describe("book", book).parameters["properties"]) == ["day"]


def test_a_function_without_words_is_described_by_its_name():
    assert describe("book", lambda: None).description == "book"


def test_a_type_that_no_model_can_give_is_a_configuration_error():
    class Odd:
        pass

    def opaque(thing: Odd) -> None: ...

    def callback(thing: Callable[[], None]) -> None: ...

    def unknown(thing: Nowhere) -> None: ...  # type: ignore[name-defined] # noqa: F821

    opaque.__annotations__["thing"] = Odd
    for function in (opaque, callback, unknown):
        with pytest.raises(ConfigError, match=function.__name__):
            describe("x", function)


# --- loading --------------------------------------------------------------------------------------

FILE = """
from __future__ import annotations
from dataclasses import dataclass
count = 0

@dataclass
class Slot:
    day: str

def add() -> int:
    global count
    count += 1
    return count

def total() -> int:
    return count

NOT_A_FUNCTION = 5
"""


def test_a_function_of_a_file_beside_the_agent(tmp_path: Path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "tools.py").write_text(FILE)
    add = load("./sub/tools.py:add", tmp_path)
    total = load("sub/tools.py:total", tmp_path)
    add()
    assert total() == 1, "functions of one file share its state"


def test_files_of_the_same_name_are_different_modules(tmp_path: Path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "tools.py").write_text(f"def where():\n    return {folder!r}\n")
    assert load("a/tools.py:where", tmp_path)() == "a"
    assert load("b/tools.py:where", tmp_path)() == "b"


def test_a_function_of_an_installed_module(tmp_path: Path):
    assert load("json:dumps", tmp_path) is json.dumps
    assert load("os.path:join", tmp_path)("a", "b") == "a/b"


@pytest.mark.parametrize(
    "content",
    [
        "def f(:",
        "import no_such_module_here",
        "1/0",
        "raise SystemError",
        "raise KeyError('x')",
        "",
    ],
)
def test_a_file_that_cannot_be_used_is_a_configuration_error(tmp_path: Path, content: str):
    (tmp_path / "tools.py").write_text(content)
    before = set(sys.modules)
    with pytest.raises(ConfigError, match="tools.py:f"):
        load("tools.py:f", tmp_path)
    if content:
        assert not {name for name in set(sys.modules) - before if name.startswith("flowcat_tool")}


@pytest.mark.parametrize(
    "reference",
    [
        "missing.py:f",
        "no_such_module:f",
        "json:nothing",
        "json",
        ":f",
        "",
        "json:",
        "..:f",
        "a b:c",
    ],
)
def test_a_reference_that_leads_nowhere_is_a_configuration_error(tmp_path: Path, reference: str):
    with pytest.raises(ConfigError):
        load(reference, tmp_path)


def test_what_is_no_function_is_a_configuration_error(tmp_path: Path):
    (tmp_path / "tools.py").write_text(FILE)
    with pytest.raises(ConfigError, match="not a function"):
        load("tools.py:NOT_A_FUNCTION", tmp_path)
