"""The documentation is complete, current, and does what it says."""

from __future__ import annotations

import ast
import re
import shlex
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from flowcat_server import metrics
from flowcat_server.cli.main import parse
from flowcat_server.config.environment import VARIABLES
from flowcat_server.config.load import load_text
from flowcat_server.config.models import Carriers
from flowcat_server.config.node import EDGE_KEYS, KINDS, NODE_KEYS, SLOT_KINDS
from flowcat_server.config.yaml import parse_yaml
from flowcat_server.core import ended
from flowcat_server.core.events import EVENT_NAMES
from flowcat_server.errors import ConfigError
from flowcat_server.providers.llm._intents.settings import NodeOptions
from flowcat_server.providers.registry import KINDS as PROVIDER_KINDS
from flowcat_server.providers.resolve import check_providers
from flowcat_server.workers.sums import WORKER_METRICS
from tests.docs import configuration, facts
from tests.docs.generate import BLOCKS
from tests.docs.generate import pages as reference_pages
from tests.docs.markers import block_names, fill
from tests.docs.pages import PART, ROOT, Block, anchors, blocks, links, pages, prose, read

REFERENCE = ROOT / "docs" / "reference"
SERVER = ROOT / "flowcat_server"


def name(path: Path) -> str:
    """A page's path for messages."""
    return str(path.relative_to(ROOT))


# --- generated pages --------------------------------------------------------------------------


@pytest.mark.parametrize("page", reference_pages(), ids=name)
def test_generated_blocks_are_current(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert fill(text, BLOCKS) == text, "run: make docs"


def test_every_generated_block_stands_on_exactly_one_page() -> None:
    placed = [name for page in reference_pages() for name in block_names(page.read_text())]
    assert sorted(placed) == sorted(BLOCKS)


def test_a_changed_source_makes_a_page_stale() -> None:
    page = "<!-- generated: metrics -->\n\nold\n\n<!-- end of generated -->\n"
    assert fill(page, {"metrics": lambda: "new"}) != page
    assert "old" not in fill(page, {"metrics": lambda: "new"})


# --- completeness -----------------------------------------------------------------------------


def test_every_key_is_described() -> None:
    missing = [
        f"{path}.{key}" for path, _, key, field in configuration.all_keys() if not field.description
    ]
    assert missing == []


def test_every_key_is_in_the_reference() -> None:
    text = read(REFERENCE / "configuration.md")
    for path, (_, fields) in configuration.blocks().items():
        title = configuration.SHARED.get(path, path) or "The whole file"
        _, found, rest = text.partition(f"# {title}\n")
        assert found, title
        section = re.split(r"^#+ ", rest, maxsplit=1, flags=re.MULTILINE)[0]
        for key, _ in fields:
            assert f"| `{key}` |" in section, f"{path}.{key}"


def attributes(*trees: Path) -> set[str]:
    """Every attribute that code reads."""
    found: set[str] = set()
    for tree in trees:
        for node in ast.walk(ast.parse(tree.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
    return found


def test_no_key_is_without_effect() -> None:
    readers = [p for p in SERVER.rglob("*.py") if p.parent.name not in ("config", "cli")]
    used = attributes(*readers, SERVER / "config" / "carriers.py")
    own_config = {"graph", "graph_inline", "questions", "answer", "path", "prompt", "knowledge"}
    carried = {"tests", "kind", "from", *Carriers.model_fields}
    for path, _, key, _ in configuration.all_keys():
        dotted = f"{path}.{key}".lstrip(".")
        assert key in used | own_config | carried, f"{dotted} is documented, but nothing reads it"


def test_every_variable_is_documented() -> None:
    text = read(REFERENCE / "configuration.md")
    assert [variable for variable in VARIABLES if f"`{variable}`" not in text] == []


@pytest.mark.parametrize("kind", PROVIDER_KINDS)
def test_every_provider_has_a_row_with_its_honest_status(kind: Any) -> None:
    text = read(REFERENCE / "providers.md")
    for provider, data in facts.built_in(kind).items():
        (row,) = [
            line for line in section(text, facts.KIND_TITLES[kind]) if f"| `{provider}` |" in line
        ]
        assert row.endswith(f"| {data.status} |")
        assert data.title
        assert data.local or data.status in ("fixture-tested", "live-verified")


def section(text: str, title: str) -> list[str]:
    """The lines under a heading."""
    rest = text.partition(f"### {title}\n")[2]
    return re.split(r"^#+ ", rest, maxsplit=1, flags=re.MULTILINE)[0].splitlines()


def test_every_carrier_is_documented() -> None:
    text = read(REFERENCE / "carriers.md")
    for carrier in Carriers.model_fields:
        assert f"`{carrier}`" in text
    for module in (SERVER / "carriers").glob("[a-z]*.py"):
        assert f"| `{module.stem}` |" in text


def test_every_metric_event_and_reason_is_documented() -> None:
    for metric in (*metrics.METRICS, *WORKER_METRICS):
        assert f"| `{metric}` |" in read(REFERENCE / "metrics.md")
    for event in EVENT_NAMES.values():
        assert f"| `{event}` |" in read(REFERENCE / "events.md")
    for reason in ended.REASONS:
        assert f"| `{reason}` |" in read(REFERENCE / "events.md")


def test_every_key_of_a_graph_is_documented() -> None:
    graph = read(ROOT / "docs" / "how-to" / "write-a-graph.md")
    for key in (*NODE_KEYS, *EDGE_KEYS, *SLOT_KINDS, *(set(KINDS) - {"other"})):
        assert f"`{key}`" in graph, key
    intents = read(ROOT / "docs" / "how-to" / "knowledge-and-intents.md")
    named = {"opening": "open", "labels": "label", "hints": "hint"}
    for key in NodeOptions.model_fields:
        assert f"`{named.get(key, key)}`" in intents, key


def test_every_route_is_documented_and_every_documented_route_exists() -> None:
    served = set()
    for module in (SERVER / "routes").glob("*.py"):
        found = import_module(f"flowcat_server.routes.{module.stem}")
        for door in vars(found).values():
            if isinstance(door, type) and door.__name__.endswith("Door"):
                served |= routes(door)
    text = read(REFERENCE / "http.md")
    documented = {
        re.sub(r"\?.*", "", path) for path in re.findall(r"`(?:GET|POST|DELETE) (/[^` ]*)`", text)
    }
    asked = {"/telephony/answer/{carrier}", "/telephony/ws/{carrier}"}
    assert asked < documented
    followed = "/telephony/status/{carrier}"
    documented |= {f"{path}/{{run_id}}" for path in {*asked, followed}}
    documented |= {f"/telephony/ws/{{carrier}}{run}/token/{{token}}" for run in ("", "/{run_id}")}
    assert documented == {"/web/{file}" if path == "/web" else path for path in served}


def routes(door: type) -> set[str]:
    """The paths that a door serves; its collaborators are not needed to say so."""
    bare: Any = object.__new__(door)
    bare._serve_metrics = True
    bare._directory = ROOT / "web"
    found = (getattr(route, "prefix", "") or route.path for route in bare.routes())
    return {re.sub(r"\{(\w+):(?:[^{}]|\{[^{}]*\})*\}", r"{\1}", path) for path in found}


# --- examples ---------------------------------------------------------------------------------


class Environ(dict[str, str]):
    """An environment in which everything is set; keys of providers too."""

    def get(self, key: str, default: Any = None) -> Any:
        special = {"TWILIO_ACCOUNT_SID": "AC" + "0" * 32}
        ignored = key.endswith("_FILE") or key in VARIABLES
        return default if ignored else special.get(key, "a-value")


AGENT_FILES = [block for block in blocks("yaml") if not block.info or block.info == PART]
OTHER_FILES = [block for block in blocks("yaml") if block.info and block.info != PART]


@pytest.mark.parametrize("block", AGENT_FILES, ids=str)
def test_agent_files_of_the_docs_load(block: Block, tmp_path: Path) -> None:
    text = block.text
    (tmp_path / "faq.md").write_text("## When?\nNow.\n")
    for agent in ("sales", "support"):
        (tmp_path / f"{agent}.yaml").write_text("agent: { prompt: Another agent. }\n")
    if block.info == PART and not re.search(r"^agent:", text, re.MULTILINE):
        text += "\nagent: { prompt: The rest of the file. }\n"
    environ = Environ()
    try:
        loaded = load_text(text, tmp_path / "agent.yaml", environ=environ, refuse_unknown=True)
    except ConfigError as error:
        pytest.fail(f"{block}: {error}")
    assert list(loaded.warnings) == []
    problems = check_providers(loaded.config, loaded.document, environ)
    missing_packages = "pip install"
    assert [p for p in problems if missing_packages not in str(p)] == []


@pytest.mark.parametrize("block", OTHER_FILES, ids=str)
def test_other_yaml_of_the_docs_can_be_read(block: Block) -> None:
    assert yaml.safe_load(block.text) is not None


def test_the_examples_of_the_docs_are_seen() -> None:
    assert len(AGENT_FILES) >= 20
    assert {block.page.name for block in AGENT_FILES} >= {"README.md", "first-call.md"}


def commands() -> list[tuple[Block, str]]:
    """Every line of a shell block, joined where it goes on."""
    found = []
    for block in blocks("sh"):
        for line in block.text.replace("\\\n", " ").splitlines():
            for part in line.split(" && "):
                words = part.partition("     #")[0].partition("    #")[0].strip()
                if words:
                    found.append((block, words))
    return found


@pytest.mark.parametrize(("block", "command"), commands(), ids=str)
def test_commands_of_the_docs_exist(block: Block, command: str) -> None:
    program, *arguments = shlex.split(command)
    if program.endswith("flowcat-server"):
        parse(arguments)  # leaves with SystemExit where an argument is wrong
    elif program == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert [word for word in arguments if "=" not in word and word not in targets] == []
    elif program == "python":
        assert arguments[0] == "-m"
        assert find_spec(arguments[1]) is not None, arguments[1]
    elif program == "pip":
        extras = re.findall(r"flowcat-server\[(\w+)\]", command)
        assert [extra for extra in extras if extra not in project()["optional-dependencies"]] == []
    else:
        known = {"git", "cd", "export", "docker", "curl", "sqlite3", "ssh"}
        assert program in known, f"{block}: {program}"


@pytest.mark.parametrize("block", list(blocks("python")), ids=str)
def test_python_of_the_docs_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec")


def test_the_signature_of_the_docs_is_the_one_that_is_sent() -> None:
    from flowcat_server.records.webhook import sign

    (block,) = [b for b in blocks("python") if "def genuine" in b.text]
    scope: dict[str, Any] = {}
    exec(compile(block.text, str(block), "exec"), scope)
    header = sign("secret", b"{}", 1_700_000_000)
    assert scope["genuine"]("secret", header, b"{}")
    assert not scope["genuine"]("other", header, b"{}")


def test_the_tool_of_the_docs_can_be_described() -> None:
    from flowcat_server.tools.python_function import describe

    (block,) = [b for b in blocks("python") if "def find_order" in b.text]
    scope: dict[str, Any] = {"__name__": "shop"}
    exec(compile(block.text, str(block), "exec", dont_inherit=True), scope)
    spec = describe("find_order", scope["find_order"])
    assert spec.parameters["required"] == ["number"]


# --- links and names --------------------------------------------------------------------------


@pytest.mark.parametrize("page", pages(), ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in links(page):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        missing = anchor and target.suffix == ".md" and anchor not in anchors(target)
        if not target.is_file() or missing:
            broken.append(link)
    assert broken == []


def test_every_page_is_in_the_navigation_and_reached_from_the_index() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = set(re.findall(r"[\w/.-]+\.md", str(site["nav"])))
    there = {str(page.relative_to(ROOT / "docs")) for page in pages() if "docs" in page.parts[-3:-1]
             or ROOT / "docs" in page.parents}  # fmt: skip
    assert listed == there
    seen: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen:
            continue
        seen.add(page)
        targets = ((page.parent / link.partition("#")[0]).resolve() for link in links(page))
        waiting += [target for target in targets if target.suffix == ".md" and target.is_file()]
    assert {page for page in pages() if page not in seen} == set()


@pytest.mark.parametrize("page", pages(), ids=name)
def test_pages_name_no_machine_and_no_index(page: Path) -> None:
    text = read(page)
    machine = re.findall(r"(?<![\w.])/(?:work|root|home|Users|tmp|build)/\S*", text)
    assert machine == []
    hosts = re.findall(r"pypi\.org|pythonhosted\.org|npmjs\.org|proxy\.golang\.org|ghcr\.io", text)
    assert hosts == []


def test_readme_fits_one_screen_and_claims_no_figures() -> None:
    text = prose(ROOT / "README.md")
    assert len(text.splitlines()) <= 60
    assert re.findall(r"\d+ ?(?:ms|%|calls|seconds)\b", text) == []


# --- decisions and licences -------------------------------------------------------------------


def decisions() -> list[Path]:
    """The decisions, in order."""
    return sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))


@pytest.mark.parametrize("page", decisions(), ids=name)
def test_a_decision_says_its_situation_choice_and_cost(page: Path) -> None:
    number = int(page.name[:4])
    assert number == decisions().index(page) + 1
    heads = re.findall(r"^## (.*)$", read(page), re.MULTILINE)
    assert heads == ["Situation", "Choice", "What it costs"]
    assert len(read(page).split()) < 250, "half a page"
    assert f"({page.name})" in read(page.parent / "README.md")


def project() -> dict[str, Any]:
    """pyproject's ``project`` table."""
    import tomllib

    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


def requirements() -> set[str]:
    """Names of everything that can be installed with the server."""
    declared = [*project()["dependencies"]]
    for extra in project()["optional-dependencies"].values():
        declared += extra
    names = {re.split(r"[\s\[<>=;~!]", line, maxsplit=1)[0].lower() for line in declared}
    return names - {"flowcat-server"}


def licence_rows() -> dict[str, str]:
    """Package to licence, as the page says."""
    text = read(ROOT / "docs" / "explanation" / "licences.md")
    return dict(re.findall(r"^\| `([\w-]+)` \| ([^|]*?) \|", text, re.MULTILINE))


def test_every_runtime_dependency_has_its_licence_listed() -> None:
    assert set(licence_rows()) == requirements()


@pytest.mark.parametrize("package", sorted(requirements()))
def test_listed_licences_are_the_packages_own(package: str) -> None:
    from importlib.metadata import PackageNotFoundError, metadata

    try:
        found = metadata(package)
    except PackageNotFoundError:
        pytest.skip("not installed here")
    fields = ("License-Expression", "License", "Classifier")
    says = " ".join(text for field in fields for text in found.get_all(field) or [])
    listed = licence_rows()[package]
    families = {"MIT": "MIT", "Apache": "Apache", "BSD": "BSD", "GPL": "GPL", "LGPL": "LGPL"}
    claimed = {family for family in families if re.search(rf"(?<![A-Z]){family}\b", listed)}
    assert claimed
    assert [family for family in claimed if not re.search(rf"(?<![A-Z]){family}\b", says)] == []
    assert ("GPL" in listed) == ("GPL" in says)


def test_yaml_of_the_docs_is_yaml_one_two() -> None:
    parsed = parse_yaml("answer: no\nphone: +44 20 7946 0000\nzip: 0123\n", "").value
    assert parsed == {"answer": "no", "phone": "+44 20 7946 0000", "zip": "0123"}
