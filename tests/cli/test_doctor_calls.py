"""``doctor --carrier``: what it prints, where it calls, what it signs."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowcat_server import logs
from flowcat_server.cli.checkup.beliefs import addresses
from flowcat_server.cli.doctor import plan_of
from flowcat_server.cli.main import main
from tests.callscript import loaded
from tests.cli.visits import (
    house,
    yaml,
)
from tests.fakes.doors import ECHO

# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def quiet() -> Iterator[None]:
    """The server's log is not in what the command prints."""
    logs.configure("error")
    yield
    logs.configure()


async def doctor(*arguments: str) -> int:
    return await asyncio.to_thread(main, ["doctor", *arguments])


async def test_the_command_prints_each_step_with_its_time(
    tmp_path: Path, quiet: None, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "agent.yaml"
    file.write_text(yaml("twilio"))
    async with house(tmp_path, "twilio") as opened:
        given = (str(file), "--carrier", "twilio", "--url", opened.url + "/telephony/answer/twilio")
        assert await doctor(*given, "--seconds", "1") == 0
        printed = capsys.readouterr().out
        for name in ("server", "webhook", "media", "greeting", "call", "hang-up", "status"):
            assert re.search(rf"^ok +\d+ ms  {name}: .", printed, re.MULTILINE), printed
        assert await doctor(*given, "--seconds", "1", "--json") == 0
        steps = json.loads(capsys.readouterr().out)
        assert {"name", "status", "detail", "advice", "ms"} == set(steps[0])


async def test_a_fault_is_exit_code_1(
    tmp_path: Path, quiet: None, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "agent.yaml"
    file.write_text(yaml("twilio", "auth_token: another-secret-of-ours"))
    async with house(tmp_path, "twilio") as opened:
        assert await doctor(str(file), "--carrier", "twilio", "--url", opened.url) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[-2].startswith("fault")
    assert "another-secret-of-ours" not in "".join(printed)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--carrier", "sip"], 2, "invalid choice"),
        (["--url", "https://voice.example"], 2, "name its carrier with --carrier"),
        (["--carrier", "twilio", "--url", "ftp://x"], 1, "is not the URL of a server"),
        (["--carrier", "twilio", "--url", "https://x:99999"], 1, "is not the URL of a server"),
        (["--carrier", "audiosocket"], 1, "set carriers.audiosocket.bind"),
        (["--carrier", "twilio", "--speech", "no.wav"], 1, "no.wav"),
        (["--carrier", "twilio", "--seconds", "0"], 2, "between 1 and 3600"),
    ],
)
def test_wrong_arguments(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    words: str,
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "agent.yaml").write_text(ECHO)
    assert main(["doctor", *arguments]) == code
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("server", "url", "called", "signed"),
    [
        ("", "", "http://127.0.0.1:6210", "http://127.0.0.1:6210"),
        ("public_url: 'https://v.example/'", "", "https://v.example", "https://v.example"),
        ("public_url: 'https://v.example'", "https://n.example", "https://n.example",
         "https://n.example"),
        ("public_url: 'https://v.example'", "http://localhost:6210", "http://localhost:6210",
         "https://v.example"),
        ("bind: '[::1]:80'", "", "http://[::1]:80", "http://[::1]:80"),
        ("", "wss://u:p@v.example/x/telephony/ws/twilio?a=b", "https://v.example/x",
         "https://v.example/x"),
        ("", "V.example:443", "https://v.example", "https://v.example"),
    ],
)  # fmt: skip
def test_where_it_calls_and_what_it_signs(server: str, url: str, called: str, signed: str):
    made = plan_of(loaded(f"{ECHO}server: {{{server}}}\n"), "twilio", url)
    assert (made.url, made.public) == (called, signed)


def test_addresses_that_a_server_may_believe_to_have():
    config = loaded(f"{ECHO}server: {{public_url: 'https://old.example/'}}\n").config
    found = addresses("https://v.example/voice", config)
    assert found[:3] == [
        "https://old.example", "http://v.example/voice", "https://v.example",
    ]  # fmt: skip
    assert "http://127.0.0.1:6210" in found
    assert len(found) == len(set(found)) < 100
    assert "https://v.example/voice" not in found
    for each in found:  # a signature for an address without port is good for any port
        host = each.removesuffix(":6210")
        assert host == each or host not in found or found.index(host) > found.index(each)
