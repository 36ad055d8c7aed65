"""The rules of this code that no linter knows; each newcomer is asked the same questions."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from flowcat_server.providers.registry import KINDS, Kind, Options, find, names

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "flowcat_server"
CORPUS = ROOT / "tests" / "corpus"

MAX_LINES = 600

CATCH_ALL = {
    "routes/dialling.py": "a request's task is the server's, which it would end",
    "routes/outbound.py": "what goes on without a request would end the server",
    "calls.py": "a call that broke before its session had it: this one is lost, the others live",
    "session.py": "the border of a call: one call's fault must not reach another",
    "tools/python_function.py": "runs the user's own function; the model is told what it raised",
    "providers/tts/_piper_child.py": "the border of the child process; the server is told",
    "providers/tts/_piper_schedule.py": "onnxruntime's own kinds; the text's owner is told",
    "providers/vad/silero.py": "onnxruntime raises its own kinds; translated at once",
    "providers/workers.py": "hands whatever a job raised to the job's owner",
}
"""Modules that may catch everything without raising it again, and why."""

TASK_OWNERS = {
    "session.py": "spawn: kept, cancelled and reaped by the call's end",
    "providers/realtime/openai.py": "the connection's sender, cancelled by its close",
    "providers/realtime/scripted.py": "one read of the inbox, cancelled on the way out",
    "providers/sockets.py": "a socket's reader, kept and cancelled by its pool",
    "providers/stt/deepgram.py": "one read of the inbox and one of the socket, ended by the stream",
    "providers/stt/scripted.py": "one read of the inbox, cancelled on the way out",
    "providers/stt/whisper.py": "decodings and the inbox of one stream, ended by it",
    "providers/tts/_piper_process.py": "the child's supervisor, cancelled by close",
    "records/store.py": "the store's own writer and sweeper, cancelled by close",
    "transports/webrtc/ice.py": "the gathering of one connection, kept in a set",
    "transports/webrtc/offers.py": "closing of connections, kept in a set until they are closed",
    "transports/webrtc/peer.py": "the track's reader, cancelled when the peer closes",
    "transports/webrtc/rtp.py": "aiortc's own report task, ended by its receiver",
    "workers/worker.py": "connections that change hands and the wait to lead, ended by the server",
}
"""Modules that start tasks outside a task group, and who ends them."""

HEAVY = {"onnxruntime", "ctranslate2", "piper", "xllamacpp", "asyncpg", "redis", "uvloop"}
"""Optional packages: imported by functions, so that a server without them starts."""
SDKS = {"openai", "anthropic", "deepgram", "cartesia", "elevenlabs", "twilio", "groq", "google",
        "plivo", "telnyx", "vonage", "vonage_jwt"}  # fmt: skip
"""What vendors publish; used by tests only."""


def modules() -> list[Path]:
    """Every module of the package."""
    return sorted(PACKAGE.rglob("*.py"))


def relative(path: Path) -> str:
    """A module's path inside the package."""
    return path.relative_to(PACKAGE).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    """A module, parsed."""
    return ast.parse(path.read_text(encoding="utf-8"))


# --- newcomers --------------------------------------------------------------------------------


def provider_modules() -> list[tuple[Kind, str]]:
    """Kind and module of every provider that is a file."""
    found: list[tuple[Kind, str]] = []
    for kind in KINDS:
        files = sorted((PACKAGE / "providers" / kind).glob("[a-z]*.py"))
        found += [(kind, file.stem) for file in files]
    return found


@pytest.mark.parametrize(("kind", "module"), provider_modules())
class TestProviderModule:
    def test_is_found_by_its_file_name(self, kind: Kind, module: str) -> None:
        name = module.replace("_", "-")
        assert name in names(kind)
        assert find(kind, name) is not None

    def test_says_what_it_is(self, kind: Kind, module: str) -> None:
        provider = find(kind, module.replace("_", "-"))
        assert provider is not None
        assert provider.title
        assert provider.status in ("local", "built-in", "fixture-tested", "live-verified")
        assert issubclass(provider.options, Options)
        assert inspect.getdoc(provider.options)
        if provider.requires:
            assert provider.extra, "pip must be able to install what it requires"

    def test_has_a_test_of_its_own(self, kind: Kind, module: str) -> None:
        assert (ROOT / "tests" / "providers" / kind / f"test_{module}.py").is_file()

    def test_has_recorded_answers_if_it_is_hosted(self, kind: Kind, module: str) -> None:
        provider = find(kind, module.replace("_", "-"))
        assert provider is not None
        if provider.local:
            return
        folders = [CORPUS / module, CORPUS / f"{module}_{kind}"]
        assert [file for folder in folders if folder.is_dir() for file in folder.iterdir()]


@pytest.mark.parametrize("kind", KINDS)
def test_every_provider_has_a_line_in_the_docs(kind: Kind) -> None:
    page = (ROOT / "docs" / "reference" / "providers.md").read_text(encoding="utf-8")
    assert [name for name in names(kind) if f"| `{name}` |" not in page] == []


@pytest.mark.parametrize(
    "carrier", sorted(path.stem for path in (PACKAGE / "carriers").glob("[a-z]*.py"))
)
class TestCarrier:
    def test_shows_its_messages_and_links_the_vendor(self, carrier: str) -> None:
        module = importlib.import_module(f"flowcat_server.carriers.{carrier}")
        assert "https://" in (module.__doc__ or "")

    def test_has_a_recorded_call_and_a_test(self, carrier: str) -> None:
        assert list((CORPUS / carrier).glob("*.jsonl"))
        assert (ROOT / "tests" / "carriers" / f"test_{carrier}.py").is_file()

    def test_has_a_line_in_the_docs(self, carrier: str) -> None:
        page = (ROOT / "docs" / "reference" / "carriers.md").read_text(encoding="utf-8")
        assert f"| `{carrier}` |" in page


# --- shape ------------------------------------------------------------------------------------


def test_no_module_is_the_one_that_everybody_edits() -> None:
    long = {relative(path): len(path.read_text().splitlines()) for path in modules()}
    assert {name: count for name, count in long.items() if count > MAX_LINES} == {}


def test_modules_are_named_after_what_they_hold() -> None:
    vague = re.compile(r"utils?|helpers?|misc|common|manager|base")
    assert [relative(path) for path in modules() if vague.fullmatch(path.stem.strip("_"))] == []


def imports(body: list[ast.stmt]) -> Iterator[str]:
    """Top packages that are imported when a module is."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").partition(".")[0]
        elif isinstance(node, ast.Try):
            yield from imports(node.body)


def test_optional_packages_are_imported_when_they_are_used() -> None:
    early = {relative(path): set(imports(tree(path).body)) & HEAVY for path in modules()}
    assert {name: found for name, found in early.items() if found} == {}


def test_no_vendor_library_is_used() -> None:
    for path in modules():
        found = set()
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                found |= set(imports([node])) & SDKS
        assert not found, relative(path)


# --- errors, waiting, tasks -------------------------------------------------------------------


def catches_all(handler: ast.ExceptHandler) -> bool:
    """Whether a handler takes every exception and does not raise it again."""
    kinds = [handler.type] if not isinstance(handler.type, ast.Tuple) else handler.type.elts
    broad = any(
        kind is None or (isinstance(kind, ast.Name) and kind.id in ("Exception", "BaseException"))
        for kind in kinds
    )
    raises = any(isinstance(node, ast.Raise) and node.exc is None for node in ast.walk(handler))
    return broad and not raises


def test_everything_is_caught_only_where_that_has_a_reason() -> None:
    found = {
        relative(path)
        for path in modules()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler) and catches_all(node)
    }
    assert found - CATCH_ALL.keys() == set()
    assert CATCH_ALL.keys() - found == set(), "no longer needed"


def calls(path: Path) -> Iterator[tuple[str, str]]:
    """Calls of methods: the name on which, and which."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield ast.unparse(node.func.value), node.func.attr


def test_nothing_sleeps_in_the_way_of_the_loop() -> None:
    assert [relative(p) for p in modules() if ("time", "sleep") in set(calls(p))] == []


def test_tasks_have_an_owner() -> None:
    found = set()
    for path in modules():
        for owner, method in calls(path):
            group = owner.endswith(("tasks", "_tasks", "group"))
            if method == "ensure_future" or (method == "create_task" and not group):
                found.add(relative(path))
    assert found - TASK_OWNERS.keys() == set()
    assert TASK_OWNERS.keys() - found == set(), "no longer needed"


# --- every file -------------------------------------------------------------------------------


@cache
def files() -> tuple[Path, ...]:
    """Every text file of the project, as git knows it."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("this is no git checkout")
    found = (ROOT / name for name in listed.stdout.split("\0") if name)
    binary = (".png", ".wav", ".onnx", ".gguf", ".ico")
    return tuple(path for path in found if path.is_file() and path.suffix not in binary)


def lines_with(pattern: str, paths: tuple[Path, ...]) -> list[str]:
    """File and line number of every match outside this module."""
    wanted = re.compile(pattern)
    return [
        f"{path.relative_to(ROOT)}:{number}"
        for path in paths
        if path != Path(__file__).resolve()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if wanted.search(line)
    ]


def test_nothing_is_left_to_do_in_comments() -> None:
    code = tuple(p for p in files() if p.suffix in (".py", ".js", ".css", ".html", ".yaml"))
    assert lines_with(r"\b(?:TODO|FIXME|XXX|HACK)\b", code) == []


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    assert lines_with(r"""(?:^|[\s"'`(=:])/(?:work|root|Users)/""", files()) == []


def test_no_file_names_a_package_index() -> None:
    pattern = r"pypi\.org/simple|pythonhosted\.org|registry\.npmjs\.org|proxy\.golang\.org"
    assert lines_with(pattern, tuple(p for p in files() if p.name != "test_docs.py")) == []
