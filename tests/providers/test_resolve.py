import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from flowcat_server.config.load import Loaded, load_text
from flowcat_server.config.topology import ProviderSpec
from flowcat_server.errors import ConfigError
from flowcat_server.providers import resolve
from flowcat_server.providers.http import Http
from flowcat_server.providers.registry import KINDS, Kind, Options, Provider, Settings
from flowcat_server.providers.resolve import check_providers, settings_for


class SpeechOptions(Options):
    speed: float = 1.0
    style: Literal["calm", "lively"] = "calm"


def create(settings: Settings) -> Any:
    raise AssertionError("nothing is created here")


HOSTED = Provider(
    create,
    options=SpeechOptions,
    env=("ACME_API_KEY", "ACME_KEY"),
    base_url="https://api.acme.example",
    default_model="sonic-3",
    default_voice="v-default",
    retired={"sonic-1": "2026-01-31"},
)
TABLE: dict[tuple[Kind, str], Provider] = {
    ("tts", "acme"): HOSTED,
    ("stt", "acme"): Provider(create, env=("ACME_API_KEY",), default_model="ears-1"),
    ("llm", "acme"): Provider(
        create, env=("ACME_API_KEY",), base_url="https://api.acme.example", model_required=True
    ),
    ("llm", "keyless"): Provider(create, env=("KEYLESS_API_KEY",), key_required=False),
    ("tts", "voice-only"): Provider(create, default_model="joe", default_voice="joe", local=True),
    ("vad", "local"): Provider(create, local=True),
    ("stt", "absent"): Provider(create, requires=("no_such_module_",), extra="ears"),
}


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "find", lambda kind, name: TABLE.get((kind, name)))
    monkeypatch.setattr(
        resolve, "names", lambda kind: tuple(sorted(name for k, name in TABLE if k == kind))
    )


def settle(kind: Kind, block: object, **environ: str) -> Settings:
    spec = ProviderSpec.model_validate(block)
    return settings_for(kind, spec, http=Http(), base_dir=Path("/base"), environ=environ)[1]


def loaded(topology: str) -> Loaded:
    return load_text(
        f"agent: {{ prompt: x }}\ntopology:\n  vad: local\n{topology}", Path("a.yaml"), environ={}
    )


def problems(topology: str, **environ: str) -> Iterator[str]:
    found = loaded(topology)
    yield from map(str, check_providers(found.config, found.document, environ))


def test_settings_from_a_block() -> None:
    settings = settle(
        "tts",
        {"provider": "acme", "model": "sonic-turbo", "voice": "v", "options": {"speed": 2}},
        ACME_KEY="k",
    )
    assert (settings.name, settings.model, settings.voice) == ("acme", "sonic-turbo", "v")
    assert settings.api_key.get_secret_value() == "k"
    assert settings.options == SpeechOptions(speed=2)
    assert settings.base_url == "https://api.acme.example"
    assert settings.base_dir == Path("/base")


def test_defaults() -> None:
    settings = settle("tts", "acme", ACME_API_KEY="k")
    assert (settings.model, settings.voice) == ("sonic-3", "v-default")


@pytest.mark.parametrize(
    ("block", "model", "voice"),
    [
        pytest.param("acme/sonic-turbo", "sonic-turbo", "v-default", id="of the default's family"),
        pytest.param("acme/sonic-1", "sonic-1", "v-default", id="a retired model"),
        pytest.param("acme/79a125e8-cd45", "sonic-3", "79a125e8-cd45", id="a voice, as in Flowcat"),
        pytest.param("voice-only/ann", "ann", "ann", id="where the model is the voice"),
        pytest.param({"provider": "acme", "model": "other", "voice": "v"}, "other", "v", id="both"),
    ],
)
def test_a_lone_model_of_text_to_speech(block: object, model: str, voice: str) -> None:
    settings = settle("tts", block, ACME_API_KEY="k")
    assert (settings.model, settings.voice) == (model, voice)


def test_what_flowcats_files_put_into_options_is_lifted() -> None:
    settings = settle(
        "llm",
        {"provider": "acme", "model": "m", "options": {"base_url": "http://x", "language": "de"}},
    )
    assert (settings.base_url, settings.language) == ("http://x", "de")


def test_a_vendors_key_never_goes_to_another_address() -> None:
    block = {"provider": "acme", "model": "m", "base_url": "http://elsewhere"}
    assert settle("llm", block, ACME_API_KEY="k").api_key.get_secret_value() == ""
    block["api_key_env"] = "MINE"
    assert settle("llm", block, MINE="m").api_key.get_secret_value() == "m"


def test_the_same_address_with_a_slash_is_the_vendors() -> None:
    block = {"provider": "acme", "model": "m", "base_url": "https://api.acme.example/"}
    assert settle("llm", block, ACME_API_KEY="k").api_key.get_secret_value() == "k"


def test_a_key_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from-file\n")
    settings = settle("stt", "acme", ACME_API_KEY_FILE=str(tmp_path / "key"))
    assert settings.api_key.get_secret_value() == "from-file"


def test_settings_are_refused_with_the_place() -> None:
    with pytest.raises(ConfigError, match=r"^topology.stt.provider: no key for acme: set ACME_API"):
        settings_for(
            "stt",
            ProviderSpec(provider="acme"),
            http=Http(),
            base_dir=Path(),
            environ={},
            path="topology.stt",
        )


@pytest.mark.parametrize(
    ("topology", "expected"),
    [
        pytest.param(
            "  stt: acmee",
            "a.yaml:4:8: topology.stt.provider: there is no stt provider 'acmee'; did you mean "
            "'acme'? (known: absent, acme)",
            id="unknown",
        ),
        pytest.param(
            "  stt: voice-only",
            "a.yaml:4:8: topology.stt.provider: there is no stt provider 'voice-only'; it is a "
            "provider for tts (known: absent, acme)",
            id="of another kind",
        ),
        pytest.param(
            "  stt: acme",
            "a.yaml:4:8: topology.stt.provider: no key for acme: set ACME_API_KEY in the "
            "environment (also tried: FLOWCAT_ACME_API_KEY, ACME_API_KEY_FILE, "
            "FLOWCAT_ACME_API_KEY_FILE)",
            id="no key",
        ),
        pytest.param(
            "  stt: { provider: acme, api_key_env: MINE }",
            "a.yaml:4:39: topology.stt.api_key_env: the environment variable MINE is not set",
            id="own variable unset",
        ),
        pytest.param(
            "  stt: absent",
            "a.yaml:4:8: topology.stt.provider: provider 'absent' needs the package "
            "'no_such_module_': pip install 'flowcat-server[ears]'",
            id="extra not installed",
        ),
        pytest.param(
            "  llm: { provider: keyless, options: { temprature: 1 } }",
            "a.yaml:4:40: topology.llm.options.temprature: keyless has no option 'temprature' "
            "(it has none)",
            id="option where there is none",
        ),
        pytest.param(
            "  tts: { provider: acme, api_key: '${K:-k}', options: { sped: 1 } }",
            "a.yaml:4:57: topology.tts.options.sped: acme has no option 'sped'; did you mean "
            "'speed'? (known: speed, style)",
            id="unknown option",
        ),
        pytest.param(
            "  tts: { provider: acme, api_key: '${K:-k}', options: { style: lvely } }",
            "a.yaml:4:64: topology.tts.options.style: must be one of calm, lively; found "
            "\"lvely\"; did you mean 'lively'?",
            id="wrong option",
        ),
        pytest.param(
            "  llm: { provider: acme, api_key: '${K:-k}' }",
            "a.yaml:4:8: topology.llm.model: acme needs the name of a model",
            id="no model",
        ),
        pytest.param(
            "  tts: { provider: acme, model: sonic-1, api_key: '${K:-k}' }",
            "a.yaml:4:33: topology.tts.model: warning: the vendor's last day for the model "
            "'sonic-1' is 2026-01-31",
            id="retired",
        ),
        pytest.param(
            "  llm: { provider: keyless, fallback: [{ provider: acme, model: m }] }",
            "a.yaml:4:52: topology.llm.fallback.0.provider: warning: no key for acme: set "
            "ACME_API_KEY in the environment (also tried: FLOWCAT_ACME_API_KEY, "
            "ACME_API_KEY_FILE, FLOWCAT_ACME_API_KEY_FILE)",
            id="a fallback without a key is a warning",
        ),
        pytest.param(
            "  llm: { provider: keyless, fallback: [nobody] }",
            "a.yaml:4:40: topology.llm.fallback.0.provider: there is no llm provider 'nobody' "
            "(known: acme, keyless)",
            id="an unknown fallback is an error",
        ),
    ],
)
def test_problems(topology: str, expected: str) -> None:
    assert expected in list(problems(topology))


def test_nothing_to_say_about_a_right_file() -> None:
    topology = "  stt: acme\n  llm: acme/m\n  tts: voice-only"
    assert list(problems(topology, ACME_API_KEY="k")) == []


def test_checking_all_providers_imports_no_vendors_library() -> None:
    heavy = "onnxruntime ctranslate2 piper xllamacpp openai anthropic cartesia deepgram av aiortc"
    code = f"""
import sys
from flowcat_server.config.topology import ProviderSpec
from flowcat_server.providers.registry import names
from flowcat_server.providers.resolve import examine
count = 0
for kind in {KINDS!r}:
    for name in names(kind):
        examine(kind, ProviderSpec(provider=name, model="m"), {{}})
        count += 1
loaded = [name for name in {heavy.split()!r} if name in sys.modules]
assert count > 4, count
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
