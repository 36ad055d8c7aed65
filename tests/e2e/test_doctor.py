"""``doctor --carrier`` against a server process, as people run it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flowcat_server.cli.far_side import SIDES
from tests.cli.visits import BLOCKS
from tests.e2e.conftest import ROOT, StartServer, free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]
SOME = ("audiosocket", "genesys", "telnyx", "twilio", "vonage")
"""A wire of each kind."""


def agent(port: int, **blocks: str) -> str:
    listed = "\n".join(f"  {name}: {{{block}}}" for name, block in blocks.items())
    return f"""\
topology: {{mode: echo}}
carriers:
{listed}
server: {{bind: "127.0.0.1:{port}"}}
"""


def doctor(file: Path, *arguments: str) -> tuple[int, list[dict[str, str]]]:
    command = [sys.executable, "-m", "flowcat_server", "doctor", str(file), "--json", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, check=False)
    return done.returncode, json.loads(done.stdout or "[]")


def test_carriers_reach_a_server(start_server: StartServer, tmp_path: Path):
    tcp = free_port()
    blocks = {name: BLOCKS[name] for name in SOME}
    blocks["audiosocket"] = f"bind: '127.0.0.1:{tcp}'"
    server = start_server(agent(0, **blocks))
    file = tmp_path / "doctors.yaml"
    file.write_text(agent(server.port, **blocks))
    for name in SOME:
        code, steps = doctor(file, "--carrier", name, "--seconds", "1")
        assert code == 0, (name, steps)
        said = [step["name"] for step in steps if step["status"] == "ok"]
        assert ("greeting" if SIDES[name].can_sign else "messages") in said, (name, steps)


def test_a_server_with_another_key(start_server: StartServer, tmp_path: Path):
    server = start_server(agent(0, twilio="auth_token: the-right-one-of-the-two"))
    file = tmp_path / "doctors.yaml"
    file.write_text(agent(server.port, twilio="auth_token: the-wrong-one-of-the-two"))
    code, steps = doctor(file, "--carrier", "twilio")
    assert code == 1
    assert "signed with carriers.twilio.auth_token" in steps[-1]["detail"]
    assert server.text().count("webhook_refused") > 10
