"""``flowcat-server bench``: one caller on a clock of the test's, the verdict, and a real run."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import wave
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import pytest

from flowcat_server.cli import bench, main
from flowcat_server.cli.load.caller import FRAME_BYTES, Caller, Measures, tag, tagged
from flowcat_server.cli.load.process import listeners, usage
from flowcat_server.cli.load.run import Outcome, Plan
from flowcat_server.cli.load.socket import MediaSocket
from flowcat_server.core.audio import decode, encode, rms
from tests.e2e.conftest import launch

SPEECH = b"\x90" * FRAME_BYTES * 10
Capture = pytest.CaptureFixture[str]


def caller(speech: bytes = b"") -> tuple[Caller, Measures]:
    measures = Measures()
    made = Caller(0, "0" * 32, measures, speech)
    made.dialled(0.0)
    made.start("")
    return made, measures


def media(audio: bytes) -> bytes:
    return json.dumps({"event": "media", "media": {"payload": b64encode(audio).decode()}}).encode()


def payload(messages: list[str]) -> bytes:
    return b64decode(json.loads(messages[-1])["media"]["payload"])


# --- frames ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1, 15, 16, 12_345, 2**32 - 1])
def test_a_number_survives_mu_law(number: int):
    frame = tag(number)
    assert len(frame) == FRAME_BYTES
    assert tagged(encode(decode(frame, "mulaw"), "mulaw")) == number


def test_the_numbers_of_an_hour_are_below_what_a_voice_detector_looks_at():
    hour = 3600 * 50
    levels = [rms(decode(tag(number), "mulaw")) for number in range(0, hour, 97)]
    assert max(levels) < 26  # -62 dBFS, the gate of Silero


def test_what_is_no_frame_of_ours_has_no_number():
    assert tagged(b"\xff" * FRAME_BYTES) is None
    spoiled = bytearray(tag(77))
    spoiled[5] ^= 3
    assert tagged(bytes(spoiled)) is None


# --- an echo --------------------------------------------------------------------------------------


def test_every_frame_of_an_echo_is_accounted_for_however_it_is_cut():
    phone, measures = caller()
    said = [payload(phone.tick(n * 0.02)) for n in range(10)]
    stream = b"\xff" * 33 + b"".join(said[:4] + said[5:])  # one is lost, some silence before
    for at in range(0, len(stream), 70):
        phone.hear(media(stream[at : at + 70]), 0.3)
    assert phone.echoes
    assert (measures.sent, measures.echoed, measures.doubled) == (10, 9, 0)
    assert measures.echo[0] == pytest.approx(0.3)
    assert measures.echo[-1] == pytest.approx(0.3 - 9 * 0.02)


def test_a_frame_that_comes_twice_is_counted():
    phone, measures = caller()
    said = payload(phone.tick(0.0))
    phone.hear(media(said + said), 0.1)
    assert (measures.echoed, measures.doubled) == (1, 1)


def test_only_the_measured_time_counts():
    phone, measures = caller()
    measures.begin, measures.end = 1.0, 2.0
    for at in (0.5, 1.5, 2.5):
        phone.hear(media(payload(phone.tick(at))), at + 0.01)
    assert (measures.sent, measures.echoed) == (1, 1)


# --- an agent -------------------------------------------------------------------------------------


def test_speech_that_comes_ahead_is_not_late_and_a_gap_within_it_is():
    phone, measures = caller()
    phone.hear(media(b"\x90" * 160), 1.0)
    phone.hear(media(b"\x90" * 800), 1.0)
    phone.hear(media(b"\x90" * 800), 1.15)  # 1.02 + 0.1 have been played by 1.12
    phone.hear(media(b"\x90" * 800), 3.0)  # something new
    assert measures.first == [1.0]
    assert measures.late == pytest.approx([0.0, 0.03])
    assert not phone.echoes


def test_a_question_is_asked_in_a_quiet_moment_and_its_answer_timed():
    phone, measures = caller(SPEECH)
    phone.hear(media(b"\x90" * 800), 0.0)  # plays until 0.1
    spoken = [n for n in range(120) if payload(phone.tick(n * 0.02)) in SPEECH]
    assert spoken == list(range(spoken[0], spoken[0] + 10))
    assert spoken[0] * 0.02 == pytest.approx(1.1, abs=0.05)
    ended = spoken[-1] * 0.02
    phone.hear(media(b"\x90" * 800), ended + 0.7)
    assert measures.asked == 1
    assert measures.answers == pytest.approx([0.7])


def test_marks_come_back_when_played_and_at_once_on_clear():
    phone, _ = caller()
    phone.hear(media(b"\x90" * 800), 0.0)
    mark = json.dumps({"event": "mark", "mark": {"name": "m1"}}).encode()
    assert phone.hear(mark, 0.0) == []
    assert all("mark" not in message for message in phone.tick(0.08))
    assert any('"m1"' in message for message in phone.tick(0.1))
    phone.hear(media(b"\x90" * 800), 0.2)
    phone.hear(mark, 0.2)
    (back,) = phone.hear(b'{"event":"clear"}', 0.21)
    assert json.loads(back)["mark"]["name"] == "m1"


@pytest.mark.parametrize("message", [b"", b"{}", b"[]", b'{"event":"media"}', b'{"event":"?"}'])
def test_what_cannot_be_read_is_counted(message: bytes):
    phone, measures = caller()
    assert phone.hear(message, 0.0) == []
    assert measures.unreadable == 1


# --- the socket -----------------------------------------------------------------------------------


class Wire:
    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def close(self) -> None:
        pass


def opened() -> tuple[MediaSocket, Wire, list[bytes], list[str]]:
    came: list[bytes] = []
    over: list[str] = []
    wire = Wire()
    made = MediaSocket("h", "/p", lambda: None, came.append, over.append)
    made.connection_made(wire)  # type: ignore[arg-type]
    made.data_received(b"HTTP/1.1 101 Switching Protocols\r\n")
    made.data_received(b"Upgrade: websocket\r\n\r\n")
    return made, wire, came, over


def test_frames_are_read_however_they_arrive():
    made, _, came, over = opened()
    long = b"x" * 300
    stream = b"\x81\x02hi" + b"\x81\x7e\x01\x2c" + long + b"\x88\x04\x03\xf5no"
    for byte in stream:
        made.data_received(bytes((byte,)))
    assert came == [b"hi", long]
    assert over == ["closed by the server: no"]


@pytest.mark.parametrize("size", [3, 125, 126, 500])
def test_what_is_sent_is_masked(size: int):
    made, wire, _, _ = opened()
    made.send("a" * size)
    data = wire.written[-1]
    start = 2 if size < 126 else 4
    assert data[1] & 0x80
    assert (data[1] & 127, size) in ((size, size), (126, size))
    mask, body = data[start : start + 4], data[start + 4 :]
    assert bytes(b ^ mask[i % 4] for i, b in enumerate(body)) == b"a" * size


def test_a_ping_is_answered_and_a_refusal_told():
    made, wire, _, _ = opened()
    made.data_received(b"\x89\x01x")
    assert wire.written[-1][0] == 0x8A
    over: list[str] = []
    refused = MediaSocket("h", "/p", lambda: None, lambda _: None, over.append)
    refused.connection_made(Wire())  # type: ignore[arg-type]
    refused.data_received(b"HTTP/1.1 403 Forbidden\r\n\r\n")
    assert over == ["refused: HTTP/1.1 403 Forbidden"]


# --- the verdict ----------------------------------------------------------------------------------


def outcome(**change: Any) -> Outcome:
    measures = Measures(sent=100, echoed=100, echo=[0.001] * 100, first=[0.02])
    made = Outcome(Plan("http://h", 2, 1, 1, b""), measures, live=2, echoes=True)
    for name, value in change.items():
        setattr(measures if hasattr(measures, name) else made, name, value)
    return made


def test_percentiles_are_values_that_were_measured():
    spread = bench.spread([n / 1000 for n in range(1, 1001)])
    assert spread == {"p50": 500, "p90": 900, "p99": 990, "p999": 999, "max": 1000}
    assert bench.spread([]) is None
    assert bench.spread([0.5]) == dict.fromkeys(("p50", "p90", "p99", "p999", "max"), 500)


def test_a_run_without_a_fault_is_held():
    assert bench.faults(outcome()) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"echoed": 97}, "3 frames lost"),
        ({"doubled": 1}, "1 frames doubled"),
        ({"live": 1}, "1 calls did not come up"),
        ({"echo": [0.001] * 90 + [0.05] * 10}, "p99 50 ms"),
        ({"unreadable": 4}, "4 unreadable messages"),
        ({"echoes": False, "first": []}, "nothing was heard of the server"),
        ({"echoes": False, "late": [0.1] * 5, "heard": 5}, "p99 100 ms"),
    ],
)
def test_every_fault_is_named(change: dict[str, Any], fault: str):
    assert fault in bench.faults(outcome(**change))


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["bench", "--calls", "0"], 2),
        (["bench", "--seconds", "0"], 2),
        (["bench", "ftp://example"], 1),
        (["bench", "--speech", "missing.wav"], 1),
    ],
)
def test_wrong_arguments_are_refused(arguments: list[str], code: int, capsys: Capture):
    assert main(arguments) == code
    assert "Traceback" not in capsys.readouterr().err


def test_a_speech_file_of_another_shape_is_named(tmp_path: Path, capsys: Capture):
    file = tmp_path / "say.wav"
    with wave.open(str(file), "wb") as sound:
        sound.setnchannels(2)
        sound.setsampwidth(2)
        sound.setframerate(44_100)
        sound.writeframes(bytes(400))
    assert main(["bench", "--speech", str(file)]) == 1
    assert "found 44100 Hz, 16 bits, 2 channels; allowed: 8000 Hz" in capsys.readouterr().err


def test_the_process_behind_a_port_is_found():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        assert listeners(port) == []
        listener.listen()
        found = listeners(port)
    seen = usage(found)
    assert seen is not None
    assert seen.processes == 1
    assert seen.rss_kb > 1000
    assert usage([]) is None


@pytest.mark.e2e
def test_a_server_that_echoes_is_held_and_a_full_one_is_not(tmp_path: Path):
    config = "topology: {mode: echo}\nlimits: {max_calls: 4}\nrecords: {audio: none}\n"
    server = launch(tmp_path, config)
    try:
        held = run_bench(server.url, "--calls", "3")
        full = run_bench(server.url, "--calls", "6")
    finally:
        server.stop()
    code, (result,) = held
    assert (code, result["held"], result["faults"]) == (0, True, [])
    assert result["frames"]["sent"] == result["frames"]["echoed"] > 3 * 2 * 40
    assert result["ms"]["echo"]["p50"] < 20
    assert result["cores"] > 0
    assert result["rss_kb"] > 10_000
    code, (result,) = full
    assert (code, result["held"]) == (1, False)
    assert "2 calls: busy" in result["faults"]


@pytest.mark.e2e
def test_an_agent_is_asked_and_its_answer_timed(tmp_path: Path):
    agent = """
agent: {prompt: Be kind., greeting: Hello.}
topology:
  vad: {provider: scripted}
  stt: {provider: scripted, options: {lines: [when are you open], loop: true, partials: true}}
  llm: {provider: scripted, options: {replies: [From nine to five.], loop: true}}
  tts: {provider: scripted}
records: {audio: none}
"""
    file = tmp_path / "say.wav"
    with wave.open(str(file), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(decode(b"\x90" * 8000, "mulaw"))
    server = launch(tmp_path, agent)
    try:
        code, (result,) = run_bench(server.url, "--calls", "2", "--speech", str(file), seconds=6)
    finally:
        server.stop()
    assert (code, result["faults"]) == (0, [])
    assert result["asked"] >= 2
    assert 300 < result["ms"]["answer"]["p50"] < 2000
    assert result["ms"]["late"]["p99"] < 20


def run_bench(url: str, *arguments: str, seconds: int = 2) -> tuple[int, list[dict[str, Any]]]:
    command = [sys.executable, "-m", "flowcat_server", "bench", url, "--json", *arguments]
    done = subprocess.run(
        [*command, "--seconds", str(seconds)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)
