"""``{{variables}}`` in texts."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from flowcat_server.core.templates import names, render, time_variables

NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("Hi {{name}}.", "Hi Ann."),
        ("Hi {{ name }}.", "Hi Ann."),
        ("Hi {{nobody}}.", "Hi ."),
        ("Hi {{nobody | friend}}.", "Hi friend."),
        ("{{order.id}}", "42"),
        ("{{order.missing | none}}", "none"),
        ("{{current_time_Europe/London}}", "12:00"),
        ("no {braces}", "no {braces}"),
        ("{{ 1bad }}", "{{ 1bad }}"),
        ("{{zero}}", "0"),
    ],
)
def test_what_is_filled_in(text: str, filled: str):
    variables = {
        "name": "Ann",
        "order": {"id": 42},
        "zero": 0,
        "current_time_Europe/London": "12:00",
    }
    assert render(text, variables) == filled


def test_what_a_caller_says_is_never_a_template():
    assert render("{{said}}", {"said": "{{secret}}", "secret": "x"}) == "{{secret}}"


def test_the_names_in_a_text():
    assert names("{{a}} {{b.c | d}} {{current_time_Asia/Tokyo}}") == {
        "a",
        "b.c",
        "current_time_Asia/Tokyo",
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("current_time", "12:00"),
        ("current_date", "2026-03-04"),
        ("current_weekday", "Wednesday"),
        ("current_time_Asia/Tokyo", "21:00"),
        ("current_time_Nowhere/Land", "12:00"),
        ("current_time_Europe", "12:00"),
        ("current_time_../../etc/passwd", "12:00"),
    ],
)
def test_clock_variables(name: str, value: str):
    assert time_variables({name}, NOON) == {name: value}


def test_other_names_are_left_alone():
    assert time_variables({"name", "current"}, NOON) == {}
