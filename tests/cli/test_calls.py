from __future__ import annotations

import asyncio
import json
import re
import shutil
import time
from pathlib import Path

import pytest

from flowcat_server.cli.main import main
from flowcat_server.core import ended
from flowcat_server.core import events as ev
from flowcat_server.records.models import CallRow
from flowcat_server.records.store import Store

NOW = time.time_ns() // 1_000_000
DAY = 86_400_000
LATENCY = ev.Latency(400, 90, 210, 40, 120, 15)


async def _fill(directory: Path) -> None:
    store = await Store.open(directory=directory)
    for call_id, at in (("aa01", NOW - 40 * DAY), ("ab02", NOW - 2 * DAY), ("ab03", NOW - DAY)):
        name = store.new_recording(call_id, at)
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * 1_500_000)
        writer = await store.call_accepted(
            CallRow(call_id, "front-desk", "twilio", at, "+44\x1b[2K123", "+44999", "CA1", name)
        )
        for event in (
            ev.NodeEntered(1, "start", "Greeting"),
            ev.TurnCompleted(1_500, 0, "", "Hello, Bright Dental.", 5),
            ev.CallerText(2_600, 1, "What are your hours?", final=True),
            ev.ToolStarted(3_000, "t1", "hours", {"day": "monday"}),
            ev.ToolEnded(3_080, "t1", "hours", "9 to 5", ok=True, duration_ms=80),
            ev.AgentSpeaking(3_400, True, 1),
            ev.AgentHeard(6_000, 1, "Nine to", " five on Mondays.", True, 700, "mark"),
            ev.TurnCompleted(
                6_000, 1, "What are your hours?", "Nine to", 2_000, True, LATENCY, "start"
            ),
            ev.DigitPressed(6_500, "4"),
            ev.CallEnded(65_300, ended.PROVIDER_FAILED, "deepgram: gone", {"name": "Jo"}),
        ):
            writer.on_event(event)
        await store.call_ended(call_id)
    await store.close()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("kept")
    asyncio.run(_fill(directory))
    return directory


@pytest.fixture
def config(tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("FLOWCAT_CONFIG", raising=False)
    monkeypatch.setenv("TZ", "UTC")
    path = tmp_path / "agent.yaml"
    path.write_text("agent: {prompt: Be brief.}\nrecords: {dir: ./kept}\n")
    shutil.copytree(kept, tmp_path / "kept")
    return path


def command(config: Path, *words: str) -> int:
    return main(["calls", *words, "--config", str(config)])


def test_ls_is_a_table_newest_first(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(config, "ls") == 0

    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["ID", "STARTED", "DOOR", "WHO", "LENGTH", "TURNS", "LATENCY", "ENDED"]
    assert [row.split()[0] for row in rows] == ["ab03", "ab02", "aa01"]
    assert re.search(
        r"twilio +\+44\\x1b\[2K123 +01:05 +2 \(1 cut\) +875 ms +provider.failed", rows[0]
    )
    assert len({row.index("provider.failed") for row in rows}) == 1, "columns are aligned"


def test_ls_pages(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(config, "ls", "--limit", "1", "--before", "ab03", "--json")

    assert [call["id"] for call in json.loads(capsys.readouterr().out)] == ["ab02"]


def test_show_tells_the_conversation(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(config, "show", "ab03") == 0

    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "provider.failed: deepgram: gone" in out
    assert 'Variables  name="Jo"' in out
    assert str(config.parent / "kept") in out
    talk = [line for line in out.splitlines() if re.match(r"\d\d:\d\d\.\d  ", line)]
    assert talk == [
        "00:00.0  node    Greeting",
        "00:00.0  agent   Hello, Bright Dental.",
        "00:02.0  caller  What are your hours?",
        '00:03.0  tool    hours({"day": "monday"}) in 80 ms',
        "00:03.0          9 to 5",
        "00:03.4  agent   Nine to [cut off, not heard: five on Mondays.]",
        "00:03.4          875 ms = endpointing 400 + stt tail 90 + llm first token 210 + "
        "llm first sentence 40 + tts first audio 120 + send 15",
        "00:06.5  key     *",
    ]


def test_show_as_json(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(config, "show", "aa", "--json")

    call = json.loads(capsys.readouterr().out)
    assert call["id"] == "aa01"
    assert call["turns"][1]["endpointing_ms"] == 400
    assert Path(call["recording_file"]).is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "zz"], "there is no call zz"),
        (["show", "ab"], "ab could be ab03, ab02"),
        (["rm", "ab03", "ab"], "ab could be"),
        (["rm"], "say which calls"),
        (["rm", "ab03", "--older", "1d"], "say which calls"),
        (["ls", "--before", "zz"], "there is no call zz"),
    ],
)
def test_what_is_wrong_is_said(
    config: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert command(config, *words) == 1
    assert message in capsys.readouterr().err
    command(config, "ls", "--json")
    assert len(json.loads(capsys.readouterr().out)) == 3, "nothing was removed"


@pytest.mark.parametrize("words", [["rm", "x", "--older", "soon"], ["ls", "--limit", "0"], []])
def test_wrong_arguments_are_refused(config: Path, words: list[str]) -> None:
    assert command(config, *words) == 2


def test_rm_removes_rows_and_files(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(config, "rm", "ab02", "aa") == 0

    assert capsys.readouterr().out == "removed 2 calls, 2 recordings (3.0 MB)\n"
    command(config, "ls", "--json")
    assert [call["id"] for call in json.loads(capsys.readouterr().out)] == ["ab03"]
    assert len(list((config.parent / "kept").glob("*/*.wav"))) == 1


def test_rm_by_age(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(config, "rm", "--older", "30d", "--dry-run")
    assert capsys.readouterr().out == "would remove 1 call\n"
    command(config, "rm", "--older", "30d", "--json")

    assert json.loads(capsys.readouterr().out) == {"calls": 1, "files": 1, "bytes": 1_500_000}
    command(config, "rm", "--older", "30d")
    assert capsys.readouterr().out == "removed 0 calls, 0 recordings, older than 30d\n"


def test_live_and_orphaned_calls_are_told_apart(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = config.parent / "kept"

    async def in_mid_call() -> list[int]:
        store = await Store.open(directory=directory)
        await store.call_accepted(CallRow("ff01", "front-desk", "webrtc", NOW))
        codes = [
            await asyncio.to_thread(command, config, "ls", "--limit", "1"),
            await asyncio.to_thread(command, config, "rm", "ff01"),
        ]
        await store.close()
        return codes

    assert asyncio.run(in_mid_call()) == [0, 1]
    out, err = capsys.readouterr()
    assert out.splitlines()[1].endswith("live")
    assert "the call is live" in err
    command(config, "ls", "--limit", "1")
    assert "orphaned" in capsys.readouterr().out
    assert command(config, "rm", "ff01") == 0


def test_no_records_yet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLOWCAT_CONFIG", raising=False)
    config = tmp_path / "agent.yaml"
    config.write_text("agent: {prompt: Be brief.}\n")

    assert command(config, "ls") == 1
    assert "there is no records database" in capsys.readouterr().err
    assert not (tmp_path / "calls").exists()
