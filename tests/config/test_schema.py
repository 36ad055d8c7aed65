"""The JSON Schema accepts what loads and refuses what does not."""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from flowcat_server.config.blocks import Block
from flowcat_server.config.models import Config
from flowcat_server.config.schema import json_schema
from flowcat_server.config.yaml import parse_yaml

CORPUS = Path(__file__).parent.parent / "corpus" / "config"
VALIDATOR = Draft202012Validator(json_schema())


def errors(value: Any) -> list[str]:
    return [error.message for error in VALIDATOR.iter_errors(value)]


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(json_schema())
    assert json.loads(json.dumps(json_schema())) == json_schema()


@pytest.mark.parametrize("path", sorted((CORPUS / "good").glob("*.yaml")), ids=lambda p: p.stem)
def test_good_files_are_valid(path: Path) -> None:
    assert errors(parse_yaml(path.read_text(), path.name).value) == []


@pytest.mark.parametrize(
    "name",
    ["unknown_key_with_suggestion", "unknown_key_in_our_block", "bad_duration", "wrong_types",
     "mode_misspelt", "unknown_carrier", "tool_mistakes", "secret_is_not_shown", "list_at_top"],
)  # fmt: skip
def test_faulty_files_are_not(name: str) -> None:
    path = CORPUS / "faulty" / f"{name}.yaml"
    assert errors(parse_yaml(path.read_text(), path.name).value) != []


@pytest.mark.parametrize(
    "value",
    [
        {"topology": {"llm": "openai/gpt-4o"}},
        {"topology": {"stt": {"provider": "x", "timeout": 4, "fallback": ["y"]}}},
        {"turn": {"idle": {"after": 8, "say": "Hello?"}}},
        {"limits": {"max_calls": "${MAX:-5}"}},
        {"records": {"audio": "${AUDIO}", "keep": "${KEEP:-30d}"}},
        {"webrtc": {"port_range": ""}},
    ],
)  # fmt: skip
def test_short_forms_are_valid(value: Any) -> None:
    assert errors(value) == []


def blocks(model: type[Block] = Config, seen: set[type[Block]] | None = None) -> set[type[Block]]:
    seen = set() if seen is None else seen
    seen.add(model)
    for definition in Block.__subclasses__():
        for found in (definition, *definition.__subclasses__()):
            if found.__module__.startswith("flowcat_server."):
                seen.add(found)
    return seen


@pytest.mark.parametrize("model", sorted(blocks(), key=str), ids=lambda m: m.__name__)
def test_every_key_is_described(model: type[Block]) -> None:
    assert model.__doc__
    for name, field in model.model_fields.items():
        assert field.description, name
        assert field.description.endswith((".", "...")), name


def test_no_key_of_ours_is_a_boolean_elsewhere() -> None:
    taboo = {"on", "off", "yes", "no", "y", "n", "true", "false"}
    for model in blocks():
        assert not taboo & {name.lower() for name in model.model_fields}
