import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowcat_server.config import yaml
from flowcat_server.config.yaml import parse_json, parse_yaml, scalar
from flowcat_server.errors import ConfigError


@pytest.fixture(params=[True, False], ids=["libyaml", "pure"])
def _either_parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param and not yaml.HAVE_C:
        pytest.skip("PyYAML was built without libyaml")
    monkeypatch.setattr(yaml, "HAVE_C", request.param)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("NO", "NO"),
        ("n", "n"),
        ("0123", "0123"),
        ("+441632960001", "+441632960001"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("2026-01-02", "2026-01-02"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("42", 42),
        ("-7", -7),
        ("0", 0),
        ("0x1F", 31),
        ("0o17", 15),
        ("017", "017"),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("1.2.3", "1.2.3"),
        ("127.0.0.1", "127.0.0.1"),
        (".inf", float("inf")),
        ("9" * 5000, "9" * 5000),
        ("NaN", "NaN"),
    ],
)
@pytest.mark.usefixtures("_either_parser")
def test_plain_scalars(text: str, value: Any) -> None:
    document = parse_yaml(f"key: {text}\n", "f")
    assert document.value == {"key": value}
    assert type(document.value["key"]) is type(value)
    assert scalar(text) == value


@pytest.mark.usefixtures("_either_parser")
def test_quoted_scalars_stay_text() -> None:
    assert parse_yaml("""{a: "true", b: '12', c: !!str 5, d: ! 6}""", "f").value == {
        "a": "true",
        "b": "12",
        "c": "5",
        "d": "6",
    }


@pytest.mark.usefixtures("_either_parser")
def test_keys_stay_text() -> None:
    assert parse_yaml("on: 1\n5: 2\nnull: 3\n", "f").value == {"on": 1, "5": 2, "null": 3}


@pytest.mark.usefixtures("_either_parser")
def test_positions_of_keys_and_values() -> None:
    document = parse_yaml("a:\n  b: [x, {c: 5}]\n", "f.yaml")
    assert (document.keys["a", "b"].line, document.keys["a", "b"].column) == (2, 3)
    value = document.values["a", "b", 1, "c"]
    assert (value.source, value.line, value.column) == ("f.yaml", 2, 14)


@pytest.mark.usefixtures("_either_parser")
def test_a_key_given_twice_names_both_lines() -> None:
    with pytest.raises(ConfigError, match=r"^f:3:1: b: 'b' is given twice, here and in line 2$"):
        parse_yaml("a: 1\nb: 2\nb: 3\n", "f")


def test_an_alias_has_positions_and_merge_keys_work() -> None:
    document = parse_yaml("x: &x {p: 1, q: 2}\ny: {<<: *x, q: 3}\nz: *x\n", "f")
    assert document.value["y"] == {"p": 1, "q": 3}
    assert document.value["z"] == {"p": 1, "q": 2}
    assert document.values["z", "p"].line == 1


def test_a_billion_laughs_are_refused_quickly() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    started = time.process_time()
    with pytest.raises(ConfigError, match="more than 100,000 values"):
        parse_yaml("\n".join(lines), "f")
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100 + "]" * 100, "nested more than 60 levels"),
        ("a: " + "x" * 1_000_001, "too long"),
        ("a: !!binary aGk=", "tag .* is not supported"),
        ("a: !!int x", "is not what its tag says"),
        ("? [a]\n: b", "a key must be plain text"),
        ("a: &a [*a]", "no finished anchor"),
        ("a: *b", "anchor"),
        ("a: \x01", "control character"),
        ("a: \ud800", "not valid text"),
        ("a: {b: 1", "comma or closing bracket"),
        ("a: 1\n---\nb: 1", "more than one document"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_yaml(text, "f")


def test_many_anchors_take_linear_time() -> None:
    text = "\n".join(f"k{n}: &a{n} [1, 2, 3]" for n in range(5000))
    started = time.process_time()
    assert len(parse_yaml(text, "f").value) == 5000
    assert time.process_time() - started < 3


def test_json_has_positions_duplicates_and_its_own_escapes() -> None:
    document = parse_json('{"a": "\\ud83d\\ude00", "n": 1.5}', "f.json")
    assert document.value == {"a": "\U0001f600", "n": 1.5}
    document = parse_json('{\n\t"a": {"b": "+44"}\n}', "f.json")
    assert document.value == {"a": {"b": "+44"}}
    assert document.values["a", "b"].line == 2
    with pytest.raises(ConfigError, match="given twice"):
        parse_json('{"a": 1, "a": 2}', "f.json")
    with pytest.raises(ConfigError, match=r"f.json:1:8: is not JSON"):
        parse_json('{"a": 1', "f.json")
    with pytest.raises(ConfigError, match="nested"):
        parse_json("[" * 100_000, "f.json")


@given(st.text(alphabet=st.sampled_from("ab:{}[]-&*!|>'\"%@#,? \n\t0x~<\x00\ud800é")))
def test_any_text_is_a_document_or_a_config_error(text: str) -> None:
    for parse in (parse_yaml, parse_json):
        with suppress(ConfigError):
            assert parse(text, "f").source == "f"
