"""Keys become numbers, and none is lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowcat_server.core.keypad import KEYS, MOST, Keypad, Keys


def keyed(rules: Keys, *presses: tuple[int, str]) -> list[str]:
    """The numbers made of keys pressed at these times."""
    keypad = Keypad()
    found = []
    for at_ms, key in presses:
        due = keypad.deadline_ms()
        if due is not None and due <= at_ms:
            found.append(keypad.tick(due))
        found.append(keypad.press(key, rules, at_ms) or "")
    found.append(keypad.tick(10**9))
    return [number for number in found if number]


def test_a_number_ends_when_the_keypad_rests():
    assert keyed(Keys(), (0, "4"), (1400, "2"), (2900, "7")) == ["[keypad: 4 2]", "[keypad: 7]"]
    assert keyed(Keys(timeout_ms=3000), (0, "4"), (2900, "2")) == ["[keypad: 4 2]"]


def test_a_terminator_ends_it_at_once():
    assert keyed(Keys(), (0, "4"), (100, "#"), (200, "2")) == ["[keypad: 4 #]", "[keypad: 2]"]
    assert keyed(Keys(terminator="*"), (0, "#"), (100, "*")) == ["[keypad: # *]"]
    assert keyed(Keys(terminator=""), (0, "4"), (100, "#")) == ["[keypad: 4 #]"]


def test_its_length_ends_it_at_once():
    rules = Keys(length=2)
    assert keyed(rules, (0, "4"), (1, "2"), (2, "7")) == ["[keypad: 4 2]", "[keypad: 7]"]


def test_a_terminator_out_of_habit_means_nothing():
    rules = Keys(length=2)
    assert keyed(rules, (0, "4"), (100, "2"), (600, "#")) == ["[keypad: 4 2]"]
    assert keyed(rules, (0, "4"), (100, "2"), (600, "#"), (700, "#")) == [
        "[keypad: 4 2]",
        "[keypad: #]",
    ]
    assert keyed(rules, (0, "4"), (100, "2"), (5000, "#")) == ["[keypad: 4 2]", "[keypad: #]"]
    assert keyed(rules, (0, "4"), (100, "2"), (200, "1"), (300, "#")) == [
        "[keypad: 4 2]",
        "[keypad: 1 #]",
    ]


@given(
    st.builds(
        Keys,
        length=st.integers(0, 5),
        terminator=st.sampled_from(["#", "*", ""]),
        timeout_ms=st.integers(0, 3000),
    ),
    st.lists(st.tuples(st.integers(0, 4000), st.sampled_from(KEYS)), max_size=2 * MOST),
)
def test_no_key_is_lost(rules: Keys, steps: list[tuple[int, str]]):
    presses, now = [], 0
    for pause, key in steps:
        now += pause
        presses.append((now, key))
    numbers = keyed(rules, *presses)
    found = "".join(number.removeprefix("[keypad: ").removesuffix("]") for number in numbers)
    keys = [key for _, key in presses]
    if rules.length:  # a terminator behind a complete number belongs to it
        keys = [key for key in keys if key != rules.terminator]
        found = found.replace(rules.terminator, "") if rules.terminator else found
    assert found.replace(" ", "") == "".join(keys)
    assert all(len(number.split()) - 1 <= (rules.length or MOST) for number in numbers)
