"""``outbound``: whom the server may call, and what it leaves on machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowcat_server.config.load import Loaded, load_text
from flowcat_server.errors import ConfigError

AGENT = "agent: {prompt: Be kind.}\n"
REACHED = "server: {public_url: 'https://voice.example'}\n"


def text(source: str) -> Loaded:
    return load_text(AGENT + source, Path("agent.yaml"), environ={})


def test_nobody_may_be_called_at_first_and_machines_are_hung_up_on():
    outbound = text("").config.outbound
    assert outbound.allow == []
    machine = outbound.machine
    assert (machine.on_human, machine.on_machine, machine.on_unknown) == (
        "talk",
        "hang_up",
        "talk",
    )
    assert not machine.wait


@pytest.mark.parametrize("pattern", ["+44*", "+442071234567", "*", "+4*"])
def test_a_number_or_its_beginning(pattern: str):
    assert text(f"outbound: {{allow: ['{pattern}']}}\n{REACHED}").config.outbound.allow == [pattern]


@pytest.mark.parametrize("pattern", ["44*", "+44*7", "+", "", "+0*", "0044*", "+44 20*", "**"])
def test_anything_else_is_refused(pattern: str):
    with pytest.raises(ConfigError, match=r"outbound\.allow"):
        text(f"outbound: {{allow: ['{pattern}']}}\n")


def test_a_number_that_yaml_would_take_for_one_is_still_a_text():
    assert text(f"outbound: {{allow: [+442071234567]}}\n{REACHED}").config.outbound.allow == [
        "+442071234567"
    ]


@pytest.mark.parametrize("key", ["on_human", "on_machine", "on_unknown"])
def test_a_message_that_is_to_be_left_has_to_be_written(key: str):
    with pytest.raises(ConfigError, match="leave_message needs a message"):
        text(f"outbound: {{machine: {{{key}: leave_message}}}}\n")
    text(f"outbound: {{machine: {{{key}: leave_message, message: Call back.}}}}\n")


@pytest.mark.parametrize("number", ["44", "441234567890", "+44 1234", "anonymous"])
def test_the_number_shown_is_in_e164(number: str):
    with pytest.raises(ConfigError, match="from_number"):
        text(f"carriers: {{plivo: {{from_number: '{number}'}}}}\n")


def test_a_file_with_which_no_call_can_be_made_says_so():
    (warning,) = text("outbound: {allow: ['+44*']}\n").warnings
    assert "server.public_url" in warning.message
    (warning,) = text("outbound: {carrier: plivo}\n").warnings
    assert "carriers.plivo.from_number" in warning.message
    source = "carriers: {plivo: {from_number: '+441234567890'}}\noutbound: {carrier: plivo}\n"
    assert text(source).warnings == ()


def test_a_carrier_that_makes_no_calls_cannot_be_chosen():
    with pytest.raises(ConfigError, match=r"outbound\.carrier"):
        text("outbound: {carrier: asterisk}\n")
