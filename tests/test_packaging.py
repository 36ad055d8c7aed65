"""The wheel, the extras, the Dockerfile and compose.yml, tried in clean directories."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from flowcat_server.config.load import load
from flowcat_server.config.types import parse_duration
from flowcat_server.providers.resolve import check_providers

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
OFFLINE = """\
agent: { greeting: Hello., prompt: You are a test. }
topology: { stt: scripted, llm: scripted, tts: scripted, vad: energy }
"""


# --- the Dockerfile as text -------------------------------------------------------------------


def instructions() -> list[tuple[str, str, str]]:
    """Every instruction: its stage, its name, its arguments on one line."""
    found = []
    stage = ""
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.MULTILINE))
    for line in filter(None, (line.strip() for line in joined.splitlines())):
        name, _, rest = line.partition(" ")
        if name == "FROM":
            stage = rest.partition(" AS ")[2]
        found.append((stage, name, rest.strip()))
    return found


def ancestry(stage: str) -> list[str]:
    """A stage and what it is built from, itself last."""
    parents = {s: rest.split()[0] for s, name, rest in instructions() if name == "FROM"}
    line = [stage]
    while parents.get(line[0], "") in parents:
        line.insert(0, parents[line[0]])
    return line


def in_image(stage: str, name: str) -> list[str]:
    """The arguments of every such instruction that makes a stage."""
    stages = ancestry(stage)
    return [rest for where, what, rest in instructions() if where in stages and what == name]


@pytest.mark.parametrize("stage", ["base", "local"])
class TestImage:
    def test_runs_as_an_unprivileged_numeric_user(self, stage: str) -> None:
        assert int(in_image(stage, "USER")[-1]) > 0
        assert not any(where == stage and name == "RUN" for where, name, _ in instructions())

    def test_tells_nobody_what_it_runs(self, stage: str) -> None:
        assert "ORT_DISABLE_TELEMETRY=1" in " ".join(in_image(stage, "ENV"))

    def test_holds_no_compiler(self, stage: str) -> None:
        assert not [rest for rest in in_image(stage, "RUN") if "apt-get" in rest or "gcc" in rest]

    def test_is_stopped_by_the_signal_that_drains(self, stage: str) -> None:
        assert in_image(stage, "STOPSIGNAL") == ["SIGTERM"]

    def test_keeps_calls_in_a_volume_that_its_user_owns(self, stage: str) -> None:
        (volume,) = in_image(stage, "VOLUME")
        environment = " ".join(in_image(stage, "ENV"))
        assert f"FLOWCAT__RECORDS__DIR={volume}" in environment
        assert any(f"-o flowcat -g flowcat -m 0700 {volume}" in x for x in in_image(stage, "RUN"))

    def test_exposes_the_page_and_the_media_ports(self, stage: str) -> None:
        assert in_image(stage, "EXPOSE") == ["6210/tcp 10000-10100/udp"]


def test_the_default_image_is_the_one_with_models() -> None:
    assert [stage for stage, name, _ in instructions() if name == "FROM"][-1] == "local"


def test_packages_are_pinned_and_never_compiled() -> None:
    installs = [rest for _, name, rest in instructions() if name == "RUN" and "install --o" in rest]
    assert len(installs) == 2
    for install in installs:
        assert "--only-binary :all:" in install
        assert "--constraint /src/requirements-dev.lock" in install


def test_the_context_holds_exactly_what_is_copied() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_in = {line[1:] for line in ignored if line.startswith("!")}
    copied = set()
    for _, name, rest in instructions():
        if name == "COPY" and not rest.startswith("--from"):
            copied.update(rest.split()[:-1])
    assert let_in == copied
    assert all((ROOT / path).exists() for path in copied)


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint") or shutil.which(
        "hadolint", path=Path(sys.executable).parent
    )
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    done = run([hadolint, "--no-color", str(ROOT / "Dockerfile")])
    assert done.returncode == 0, done.stdout


# --- compose.yml ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """compose.yml with nothing set in the environment."""
    text = (ROOT / "compose.yml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text))
    return found


def test_the_server_takes_its_settings_from_compose(compose: dict[str, Any]) -> None:
    environment = {
        name: "" if value is None else str(value)
        for name, value in compose["services"]["server"]["environment"].items()
    }
    config = load(
        ROOT / "configs" / "default.yaml", environ=environment, refuse_unknown=True
    ).config
    assert config.webrtc.advertise_ip == "127.0.0.1"
    assert str(config.webrtc.port_range) == "10000-10100"
    assert config.observability.log.format == "json"
    assert config.server.api_token.get_secret_value() == ""


def test_every_key_of_compose_has_a_reader(compose: dict[str, Any]) -> None:
    from flowcat_server.config.environment import VARIABLES
    from flowcat_server.config.overrides import PREFIX
    from flowcat_server.providers.registry import KINDS, find, names

    known = set(VARIABLES)
    for kind in KINDS:
        for name in names(kind):
            provider = find(kind, name)
            known.update(provider.env if provider else ())
    given = compose["services"]["server"]["environment"]
    assert [name for name in given if name not in known and not name.startswith(PREFIX)] == []


def test_calls_may_finish_before_the_container_is_killed(compose: dict[str, Any]) -> None:
    server = compose["services"]["server"]
    drain = parse_duration(server["environment"]["FLOWCAT__SERVER__DRAIN_TIMEOUT"])
    assert parse_duration(server["stop_grace_period"]) >= drain + 15_000


def test_media_ports_are_published_as_they_are_advertised(compose: dict[str, Any]) -> None:
    server = compose["services"]["server"]
    ports = server["environment"]["FLOWCAT__WEBRTC__PORT_RANGE"]
    assert f"{ports}:{ports}/udp" in server["ports"]
    assert f"{ports}/udp" in in_image("local", "EXPOSE")[0]


def test_the_database_is_optional_private_and_waited_for(compose: dict[str, Any]) -> None:
    database = compose["services"]["database"]
    assert database["profiles"] == ["postgres"]
    assert "ports" not in database
    assert database["volumes"][0].partition(":")[0] in compose["volumes"]
    assert database["healthcheck"]["test"][0] == "CMD-SHELL"
    waits = compose["services"]["server"]["depends_on"]["database"]
    assert waits == {"condition": "service_healthy", "required": False}


# --- installed ---------------------------------------------------------------------------------


def run(command: list[str], cwd: Path | None = None, **environ: str) -> Any:
    """Run a command with no settings of this shell."""
    return subprocess.run(
        command,
        cwd=cwd,
        env=clean(environ),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


CARRIERS = ("TWILIO_", "SIGNALWIRE_", "TELNYX_", "PLIVO_", "VOBIZ_", "VONAGE_")


def clean(environ: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without what would set something in the server."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("FLOWCAT", "PYTHON", "PYTEST", "ORT_", "CI", *CARRIERS))
        and not name.endswith("_API_KEY")
    }
    return {**kept, **environ}


def uv() -> str:
    """The installer; with its cache a clean environment takes seconds."""
    found = shutil.which("uv", path=Path(sys.executable).parent) or shutil.which("uv")
    if found is None:
        pytest.skip("uv is not installed")
    return found


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git would bring, and nothing else."""
    listed = run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT)
    if listed.returncode:
        pytest.skip("this is no git checkout")
    copy = tmp_path_factory.mktemp("clone")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    return copy


def execute(line: str, clone: Path, venv: Path) -> None:
    """A RUN line of the Dockerfile, with uv in pip's place and these directories in its ones."""
    dist = clone.parent / "dist"
    line = line.replace("/venv/bin/pip install", f"{uv()} pip install --python /venv/bin/python")
    line = line.replace("pip wheel --no-deps --wheel-dir", f"{uv()} build -q --wheel --out-dir")
    line = line.replace("python -m venv", f"{uv()} venv -q --python {sys.executable}")
    for inside, outside in (("/src", clone), ("/dist", dist), ("/venv", venv)):
        line = re.sub(rf"(?<![\w.-]){inside}\b", str(outside), line)
    done = run(["sh", "-ec", line], cwd=clone)
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


def run_lines(stage: str) -> list[str]:
    """The RUN instructions of one stage."""
    return [rest for where, name, rest in instructions() if where == stage and name == "RUN"]


@pytest.fixture(scope="module")
def wheel(clone: Path) -> Path:
    """The wheel, built as the Dockerfile builds it."""
    for line in run_lines("wheel"):
        execute(line, clone, clone)
    (found,) = (clone.parent / "dist").glob("*.whl")
    return found


def environment(stage: str, clone: Path, directory: Path) -> Path:
    """The programs of a clean environment, installed as the Dockerfile installs it."""
    for part in ancestry(stage):
        for line in run_lines(part):
            execute(line, clone, directory / "venv")
    return directory / "venv" / "bin"


@pytest.fixture(scope="module")
def base(wheel: Path, clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment of the image without models."""
    return environment("base-packages", clone, tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def local(wheel: Path, clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment of the image with models."""
    return environment("local-packages", clone, tmp_path_factory.mktemp("local"))


@contextlib.contextmanager
def serving(
    bin_: Path, *arguments: str, cwd: Path, **environ: str
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """An installed server; killed at the end if it still runs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [str(bin_ / "flowcat-server"), "run", *arguments, "--bind", f"127.0.0.1:{port}"]
    with (cwd / "log").open("w+") as log:
        process = subprocess.Popen(command, cwd=cwd, env=clean(environ), stderr=log, text=True)
        try:
            end = time.monotonic() + 45
            while get(f"http://127.0.0.1:{port}/readyz")[0] != 200:
                if process.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    pytest.fail(f"the server did not start:\n{log.read()}")
                time.sleep(0.1)
            yield process, port
        finally:
            process.kill()
            process.wait()


def get(url: str) -> tuple[int, str]:
    """Status and body; 0 where nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        error.close()
        return error.code, ""
    except OSError:
        return 0, ""


def healthcheck(port: int) -> int:
    """The exit code of the image's own health check."""
    (rest,) = in_image("local", "HEALTHCHECK")
    command = json.loads(rest[rest.index("[") :])
    source = command[-1].replace("6210", str(port))
    return int(run([sys.executable, *command[1:-1], source]).returncode)


@pytest.mark.e2e
class TestWheel:
    def test_holds_the_page_the_agents_the_data_and_the_types(self, wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            names = set(archive.namelist())
        for directory, inside in (("web", "_data/web"), ("configs", "_data/configs")):
            for file in (ROOT / directory).iterdir():
                assert f"flowcat_server/{inside}/{file.name}" in names
        data = [p for p in (ROOT / "flowcat_server").rglob("*") if p.is_file()]
        wanted = {str(p.relative_to(ROOT)) for p in data if "__pycache__" not in p.parts}
        assert wanted <= names
        assert "flowcat_server/py.typed" in names
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)

    def test_holds_nothing_else(self, wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            tops = {name.partition("/")[0] for name in archive.namelist()}
        assert {top for top in tops if not top.endswith(".dist-info")} == {"flowcat_server"}


@pytest.mark.e2e
@pytest.mark.timeout(180)
class TestWithoutExtras:
    def test_installs_no_model_runtime_and_no_vendor_library(self, base: Path) -> None:
        listed = run([uv(), "pip", "list", "--format", "json", "--python", str(base / "python")])
        names = {package["name"] for package in json.loads(listed.stdout)}
        heavy = {"onnxruntime", "ctranslate2", "piper-tts", "xllamacpp"}
        vendors = {"openai", "anthropic", "deepgram-sdk", "cartesia", "elevenlabs", "twilio"}
        assert not names & (heavy | vendors)

    def test_says_its_version_and_checks_a_file(self, base: Path, tmp_path: Path) -> None:
        (tmp_path / "agent.yaml").write_text(OFFLINE)
        version = run([str(base / "flowcat-server"), "version"], cwd=tmp_path)
        assert re.fullmatch(r"flowcat-server \d+\.\d+\.\d+\n", version.stdout), version.stderr
        checked = run([str(base / "flowcat-server"), "check"], cwd=tmp_path)
        assert checked.returncode == 0, checked.stdout

    def test_serves_an_agent_that_needs_no_extra(self, base: Path, tmp_path: Path) -> None:
        (tmp_path / "agent.yaml").write_text(OFFLINE)
        with serving(base, cwd=tmp_path) as (process, port):
            assert '<script type="module"' in get(f"http://127.0.0.1:{port}/")[1]
            assert get(f"http://127.0.0.1:{port}/web/app.js")[0] == 200
            assert healthcheck(port) == 0
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=10) == 0
            assert healthcheck(port) != 0
        assert (tmp_path / "calls" / "calls.sqlite").is_file()

    def test_names_the_command_that_installs_what_is_missing(
        self, base: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "agent.yaml").write_text("agent: { prompt: You are a test. }\n")
        checked = run([str(base / "flowcat-server"), "check"], cwd=tmp_path)
        assert checked.returncode == 1
        for extra in ("whisper", "intents", "piper"):
            assert f"pip install 'flowcat-server[{extra}]'" in checked.stdout
        started = run([str(base / "flowcat-server"), "run", "--bind", "127.0.0.1:0"], cwd=tmp_path)
        assert started.returncode == 2
        assert "pip install 'flowcat-server[" in started.stderr
        assert "Traceback" not in started.stderr


@pytest.mark.e2e
@pytest.mark.timeout(180)
class TestWithModels:
    def test_the_bundled_agent_runs_outside_the_repository(
        self, local: Path, tmp_path: Path
    ) -> None:
        with serving(local, cwd=tmp_path) as (_, port):
            info = json.loads(get(f"http://127.0.0.1:{port}/api/info")[1])
        assert info["agent"]["name"] == "receptionist"
        assert info["topology"]["stt"].startswith("whisper")
        assert (tmp_path / "calls").is_dir()

    def test_nothing_reports_what_runs_here(self, local: Path, tmp_path: Path) -> None:
        # onnxruntime, left to itself, keeps an identifier of the machine in the user's cache and
        # tells its maker about each session: https://github.com/microsoft/onnxruntime/pull/27379
        home = tmp_path / "home"
        home.mkdir()
        with serving(local, cwd=tmp_path, HOME=str(home)):
            assert [path for path in home.rglob("*") if path.is_file()] == []


def test_the_bundled_agents_need_no_more_than_the_local_extra() -> None:
    for file in (ROOT / "configs").glob("*.yaml"):
        loaded = load(file, environ={}, refuse_unknown=True)
        assert list(check_providers(loaded.config, loaded.document, {})) == []


def test_the_shell_lines_of_the_dockerfile_can_be_read_by_a_shell() -> None:
    for _, name, rest in instructions():
        if name == "RUN":
            assert shlex.split(rest)
