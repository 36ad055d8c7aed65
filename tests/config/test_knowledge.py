from pathlib import Path

import pytest

from flowcat_server.config.load import Loaded, load
from flowcat_server.core.graph import Fact
from flowcat_server.errors import ConfigError


def facts(tmp_path: Path, knowledge: str, **files: str) -> Loaded:
    for name, text in files.items():
        (tmp_path / name.replace("__", ".")).write_text(text)
    path = tmp_path / "agent.yaml"
    path.write_text(f"agent: {{ prompt: x }}\nknowledge: {knowledge}\n")
    return load(path, environ={})


def test_facts_in_the_file(tmp_path: Path) -> None:
    loaded = facts(
        tmp_path, '[{questions: [Open?, Hours?], answer: "Nine."}, {name: f, answer: Free.}]'
    )
    assert loaded.knowledge == (
        Fact("fact-1", ("Open?", "Hours?"), "Nine."),
        Fact("f", (), "Free."),
    )


def test_a_markdown_file(tmp_path: Path) -> None:
    markdown = (
        "We are a bakery.\n\n# When are you open?\n## What are your hours?\n\nNine\nto five.\n\n"
        "# Where are you? #\nIn Corner Street.\n# No answer\n"
    )
    loaded = facts(tmp_path, "[{path: faq.md}]", faq__md=markdown)
    assert loaded.knowledge == (
        Fact("faq-1", (), "We are a bakery."),
        Fact("faq-2", ("When are you open?", "What are your hours?"), "Nine to five."),
        Fact("faq-3", ("Where are you?",), "In Corner Street."),
    )
    assert "faq.md" in {file.name for file in loaded.files}


def test_a_yaml_file(tmp_path: Path) -> None:
    loaded = facts(
        tmp_path,
        "[{name: k, path: faq.yaml}, {name: k, path: faq.yaml}]",
        faq__yaml="- { questions: Open?, answer: Nine. }\n",
    )
    assert [fact.id for fact in loaded.knowledge] == ["k-1", "k-1-2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1", "faq.yaml:1:1: must be a list"),
        ("- { question: x, answer: y }", r"faq.yaml:1:5: 0.question: unknown key 'question'"),
        ("- { questions: x }", "faq.yaml:1:3: 0: give either"),
        ("- [", "is not YAML: a value is expected here"),
    ],
)
def test_a_faulty_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        facts(tmp_path, "[{path: faq.yaml}]", faq__yaml=text)


def test_a_missing_file_is_a_warning(tmp_path: Path) -> None:
    (warning,) = facts(tmp_path, "[{path: gone.md}]").warnings
    assert (warning.path, warning.line) == ("knowledge.0.path", 2)
