import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowcat_server.config.load import Loaded, load, load_text
from flowcat_server.config.types import Ports
from flowcat_server.core.keypad import Keys
from flowcat_server.errors import ConfigError

GOOD = Path(__file__).parent.parent / "corpus" / "config" / "good"
AGENT = "agent: { prompt: Help the caller. }\n"


def text(source: str, *flags: str, environ: dict[str, str] | None = None) -> Loaded:
    return load_text(source, Path("agent.yaml"), settings=flags, environ=environ or {})


@pytest.fixture(name="write")
def _write(tmp_path: Path) -> Callable[[str, str], Path]:
    def write(name: str, content: str) -> Path:
        path = tmp_path / name
        path.write_text(content)
        return path

    return write


Write = Callable[[str, str], Path]


def test_a_flowcat_file_runs_unchanged() -> None:
    loaded = load(GOOD / "flowcat.yaml", environ={}, refuse_unknown=True)
    assert loaded.warnings == ()
    config = loaded.config
    assert config.topology.mode == "realtime"
    assert config.topology.realtime.provider == "gemini"
    assert config.topology.realtime.model == ""
    assert config.transport.kind == "webrtc"
    assert config.server.bind == "0.0.0.0:6210"
    assert loaded.graph.start == "hello"
    (edge,) = loaded.graph.outgoing("hello")
    assert (edge.tool_name, edge.condition) == ("all_done", "Nothing is left to do")


REALTIME = AGENT + "topology:\n  mode: realtime\n  provider: openai\n"


def test_a_speech_to_speech_model_has_a_voice_beside_it_only_if_one_is_given() -> None:
    alone = text(REALTIME).config.topology
    assert not alone.fixed_words
    assert [kind for kind, _, _ in alone.used()] == ["realtime"]
    voiced = text(REALTIME + "  tts: {provider: piper, fallback: [scripted]}\n")
    assert voiced.config.topology.fixed_words
    paths = [path for _, path, _ in voiced.config.topology.used()]
    assert paths == ["topology", "topology.tts", "topology.tts.fallback.0"]
    assert voiced.warnings == ()
    assert not text(AGENT + "topology: {tts: piper}\n").config.topology.fixed_words


def test_what_a_speech_to_speech_model_leaves_unread_is_a_warning() -> None:
    turn = "turn: {endpointing: {min_delay: 300ms}, interruption: {enabled: true, min_words: 2}}\n"
    found = text(REALTIME + "  stt: whisper\n" + turn).warnings
    assert [warning.path for warning in found] == [
        "topology.stt",
        "turn.endpointing",
        "turn.interruption.min_words",
    ]
    assert "takes the turns" in found[2].message
    assert text(AGENT + turn).warnings == ()


def test_words_that_nobody_can_say_are_a_warning() -> None:
    words = "turn: {dead_air: {filler: [Hm.], goodbye: [Bye.], give_up_turns: 3}}\n"
    found = text(REALTIME + words).warnings
    assert [w.path for w in found] == ["turn.dead_air.filler", "turn.dead_air.goodbye"]
    assert "topology.tts" in found[0].message
    assert text(REALTIME + "  tts: piper\n" + words).warnings == ()


def test_a_file_with_every_block_loads_in_milliseconds() -> None:
    loaded = load(GOOD / "everything.yaml", environ={}, refuse_unknown=True)
    config = loaded.config
    assert config.agent.seed_vars == {
        "garage": "North Road Garage",
        "pin": "0123",
        "country": "NO",
    }
    assert config.topology.llm.timeout == 2000
    assert config.topology.stt.fallback[0].provider == "whisper"
    assert config.topology.llm.fallback[0].options == {"base_url": "http://127.0.0.1:8080/v1"}
    nodes = loaded.graph.nodes
    assert [node.keypad for node in nodes.values() if node.keypad] == [Keys(4, "*", 3000)]
    assert nodes[loaded.graph.start].protect_greeting
    assert config.turn.endpointing.max_delay == 2500
    assert config.turn.deadlines.llm.first == 5000
    assert config.turn.deadlines.tts.first == 1500
    assert config.turn.idle.say == ["Are you still there?"]
    assert config.webrtc.port_range == Ports(10000, 10100)
    assert config.limits.media_timeout == 20_000
    assert config.records.keep == 30 * 86_400_000
    assert [fact.answer for fact in loaded.knowledge] == ["Eight to six."]
    assert loaded.warnings == ()


def test_the_short_form_is_a_graph_of_one_node_that_can_end() -> None:
    loaded = load(GOOD / "short.yaml", environ={})
    start = loaded.graph.nodes[loaded.graph.start]
    assert start.prompt == "You answer the phone of a bakery."
    assert start.greeting == "Hello, Corner Bakery."
    assert start.protect_greeting
    assert start.keypad == Keys(length=6)
    (edge,) = loaded.graph.outgoing(start.id)
    assert loaded.graph.nodes[edge.target].kind == "end"


def test_without_a_topology_everything_is_local() -> None:
    used = [(kind, spec.provider) for kind, _, spec in text(AGENT).config.topology.used()]
    assert used == [("vad", "silero"), ("stt", "whisper"), ("llm", "intents"), ("tts", "piper")]


def test_a_stage_that_is_left_out_is_local() -> None:
    topology = text(AGENT + "topology: { llm: openai/gpt-4o }").config.topology
    assert (topology.stt.provider, topology.llm.provider, topology.llm.model) == (
        "whisper",
        "openai",
        "gpt-4o",
    )


def test_only_the_first_slash_splits_the_short_form() -> None:
    spec = text(AGENT + "topology: { llm: groq/meta/llama }").config.topology.llm
    assert (spec.provider, spec.model) == ("groq", "meta/llama")


def test_echo_needs_no_agent() -> None:
    assert text("topology: { mode: echo }").config.topology.mode == "echo"


def test_an_empty_block_is_as_good_as_none() -> None:
    assert text(AGENT + "server:\ncarriers:\n  twilio:\n").config.server.bind == "0.0.0.0:6210"


def test_unknown_keys_of_flowcats_blocks_are_warnings_unless_refused() -> None:
    source = AGENT + "server: { bnid: ':1' }\nx-anything: 1\n"
    (warning,) = text(source).warnings
    assert str(warning) == (
        "agent.yaml:2:11: server.bnid: warning: unknown key 'bnid'; did you mean 'bind'? "
        "(known: bind, public_url, trusted_proxies, api_token, drain_timeout, workers, redis)"
    )
    with pytest.raises(ConfigError, match="bnid"):
        load_text(source, Path("agent.yaml"), environ={}, refuse_unknown=True)


def test_unknown_keys_of_our_blocks_are_errors() -> None:
    with pytest.raises(ConfigError, match=r"limits.max_cals: unknown key .* 'max_calls'"):
        text(AGENT + "limits: { max_cals: 3 }")


def test_all_mistakes_are_told_at_once() -> None:
    source = """
agent: { graph_inline: { nodes: [] } }
server: { bind: 5 }
limits: { max_calls: x, foo: 1 }
topology: { stt: { model: a } }
"""
    with pytest.raises(ConfigError) as caught:
        text(source)
    assert [problem.path for problem in caught.value.problems] == [
        "agent.graph_inline.nodes",
        "server.bind",
        "limits.max_calls",
        "limits.foo",
        "topology.stt.provider",
    ]


def test_precedence_flag_environment_local_file_default(write: Write) -> None:
    path = write(
        "agent.yaml",
        AGENT
        + "limits: { max_calls: 1, max_call: 1m }\n"
        + "server: { bind: ':1', public_url: 'http://a' }\n",
    )
    write("agent.local.yaml", "limits: { max_calls: 2 }\nserver: { bind: ':2' }\n")
    environ = {
        "FLOWCAT__SERVER__BIND": ":3",
        "FLOWCAT_PUBLIC_URL": "https://b",
        "FLOWCAT__SERVER__PUBLIC_URL": "https://c",
    }
    loaded = load(path, settings=["server.public_url=https://d"], environ=environ)
    config = loaded.config
    assert config.limits.max_call == 60_000
    assert config.limits.max_calls == 2
    assert config.server.bind == ":3"
    assert config.server.public_url == "https://d"
    assert loaded.origin("limits.max_call").endswith("agent.yaml:2")
    assert loaded.origin("limits.max_calls").endswith("agent.local.yaml:1")
    assert loaded.origin("server.bind") == "FLOWCAT__SERVER__BIND"
    assert loaded.origin("server.public_url") == "--set"
    assert loaded.origin("limits.media_timeout") == "default"
    assert {file.name for file in loaded.files} == {"agent.yaml", "agent.local.yaml"}


def test_flowcats_variables_set_their_keys() -> None:
    config = text(
        AGENT,
        environ={
            "FLOWCAT_PUBLIC_URL": "https://voice.example.com",
            "FLOWCAT_WEBRTC_ADVERTISE_IP": "203.0.113.7",
            "FLOWCAT_WEBRTC_BIND_IP": "10.0.0.1, 10.0.0.2",
            "FLOWCAT_API_TOKEN": "0123",
        },
    ).config
    assert config.server.public_url == "https://voice.example.com"
    assert config.webrtc.advertise_ip == "203.0.113.7"
    assert config.webrtc.bind_ips == ["10.0.0.1", "10.0.0.2"]
    assert config.server.api_token.get_secret_value() == "0123"


@pytest.mark.parametrize(
    ("flag", "path", "value"),
    [
        ("topology.llm=openai/gpt-6-luna", "topology.llm.model", "gpt-6-luna"),
        ("topology.llm={provider: x, options: {t: 0.5}}", "topology.llm.options", {"t": 0.5}),
        ("topology.fallback=[openai/base.en]", "topology.fallback.0.model", "base.en"),
        ("agent.seed_vars.phone=+4412", "agent.seed_vars", {"phone": "+4412"}),
        ('agent.name="5"', "agent.name", "5"),
        ("agent.greeting={{hello}}: you", "agent.greeting", "{{hello}}: you"),
        ("agent.greeting=a=b", "agent.greeting", "a=b"),
        ("turn.idle.after=3s", "turn.idle.after", 3000),
        ("carriers.twilio={auth_token: ''}", "carriers.twilio.account_sid", ""),
    ],
)
def test_flags(flag: str, path: str, value: Any) -> None:
    found: Any = text(AGENT, flag).config
    for part in path.split("."):
        found = found[int(part)] if part.isdecimal() else getattr(found, part)
    assert found == value


def test_a_flag_replaces_a_whole_provider_or_one_key_of_a_short_form() -> None:
    source = AGENT + "topology: { llm: { provider: openai, model: a, base_url: 'http://x' } }"
    assert text(source, "topology.llm=anthropic").config.topology.llm.base_url == ""
    source = AGENT + "topology: { llm: openai/a }"
    spec = text(source, "topology.llm.model=b").config.topology.llm
    assert (spec.provider, spec.model) == ("openai", "b")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("nonsense", "--set takes key=value"),
        ("a..b=1", "--set takes key=value"),
        ("agent.prompt.x=1", "agent.prompt is not a block"),
        ("knowledge.3.answer=x", "unknown key|list"),
        ("agent.name=[1", "not YAML"),
        ("limits.max_calls=none", r"^--set: limits.max_calls: must be a whole number"),
    ],
)
def test_wrong_flags(flag: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        text(AGENT, flag)


def test_only_files_are_expanded() -> None:
    environ = {"NAME": "Ava", "FLOWCAT__AGENT__NAME": "${NAME}"}
    loaded = text("agent: { prompt: 'I am ${NAME}' }", "agent.greeting=${NAME}", environ=environ)
    agent = loaded.config.agent
    assert (agent.prompt, agent.name, agent.greeting) == ("I am Ava", "${NAME}", "${NAME}")


def test_a_value_that_is_overridden_need_not_expand() -> None:
    source = AGENT + "server: { public_url: '${MISSING}' }"
    loaded = text(source, environ={"FLOWCAT_PUBLIC_URL": "https://a.example.com"})
    assert loaded.config.server.public_url == "https://a.example.com"


def test_an_unset_provider_key_counts_as_not_given() -> None:
    source = AGENT + "topology: { llm: { provider: openai, api_key: '${MISSING}' } }"
    assert text(source).config.topology.llm.api_key.get_secret_value() == ""


def test_a_number_from_the_environment_is_a_number() -> None:
    loaded = text(AGENT + "limits: { max_calls: '${N:-7}' }", environ={"N": "9"})
    assert loaded.config.limits.max_calls == 9


def test_a_key_in_the_file_is_a_warning_and_is_never_shown() -> None:
    loaded = text(AGENT + "topology: { llm: { provider: openai, api_key: sk-123 } }")
    (warning,) = loaded.warnings
    assert "leave it to the environment" in warning.message
    assert "sk-123" not in str(warning)
    assert "sk-123" not in repr(loaded.config)


def test_keys_that_the_mode_does_not_read_are_warnings() -> None:
    loaded = text(AGENT + "topology: { mode: realtime, stt: whisper }")
    assert [problem.path for problem in loaded.warnings] == ["topology.stt"]


def test_a_twilio_account_without_its_token_is_a_warning() -> None:
    sid = "AC" + "0" * 32
    loaded = text(AGENT + f"carriers: {{ twilio: {{ account_sid: {sid} }} }}")
    assert [problem.path for problem in loaded.warnings] == ["carriers.twilio"]
    with pytest.raises(ConfigError, match="must be AC and 32 hexadecimal digits"):
        text(AGENT + "carriers: { twilio: { account_sid: SK12 } }")


def test_json_files_load(write: Write) -> None:
    path = write("agent.json", '{"agent": {"prompt": "Hi"}, "limits": {"max_calls": 3}}')
    write("agent.local.json", '{"limits": {"max_calls": 4}}')
    assert load(path, environ={}).config.limits.max_calls == 4


def test_a_graph_file_is_read_beside_the_agent_file(write: Write) -> None:
    write("flow.json", '{"nodes": [{"id": "s", "type": "start", "data": {"promtp": "x"}}]}')
    loaded = load(write("agent.yaml", "agent: { graph: ./flow.json, greeting: Hi }"), environ={})
    assert loaded.graph.nodes["s"].greeting == "Hi"
    assert [file.name for file in loaded.files] == ["agent.yaml", "flow.json"]
    (warning,) = loaded.warnings
    assert warning.file.endswith("flow.json")
    assert warning.path == "nodes.0.data.promtp"


def test_mistakes_in_a_graph_file_name_that_file(write: Write) -> None:
    write("flow.yaml", "nodes:\n  - id: s\n    type: agent\n")
    with pytest.raises(ConfigError, match=r"flow.yaml:1:1: nodes: the graph has no start node"):
        load(write("agent.yaml", "agent: { graph: flow.yaml }"), environ={})


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", "agent: ä".encode("latin-1")])
def test_a_file_that_is_not_utf8(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "agent.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(path)


@pytest.mark.parametrize("name", ["missing.yaml", ".", "a\0b"])
def test_a_file_that_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="no file|directory|cannot be read"):
        load(tmp_path / name)


WORDS = st.sampled_from(
    ["agent", "prompt", "graph_inline", "nodes", "edges", "id", "type", "data", "startCall", "end",
     "topology", "stt", "llm", "fallback", "provider", "mode", "realtime", "server", "bind", "turn",
     "idle", "after", "say", "tools", "name", "http", "url", "carriers", "twilio", "webrtc",
     "port_range", "ice_servers", "urls", "limits", "max_calls", "records", "keep", "redact",
     "extraction_variables", "extraction_enabled", "transfer_targets", "source", "target", "8s",
     "knowledge", "questions", "answer", "path", ".", "/", "trusted_proxies", "bind_ips"]
)  # fmt: skip
SCALARS = st.one_of(
    WORDS,
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["${X}", "${X:-y}", "${", "\ud800", "http://[", "1" * 400]),
)
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(WORDS | st.text(max_size=5), inner, max_size=5)
    ),
    max_leaves=20,
)


@given(tree=TREES)
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=2000)
def test_any_tree_is_a_configuration_or_a_config_error(tree: Any) -> None:
    _either(json.dumps(tree), Path("agent.json"))


@given(st.text(alphabet=st.sampled_from("agent:promt{}[]-&*!|'\"%#,? \n~<${}0123456789")))
@settings(deadline=2000)
def test_any_text_is_a_configuration_or_a_config_error(source: str) -> None:
    _either(source, Path("agent.yaml"))
    _either("agent: { prompt: x }\n" + source, Path("agent.yaml"))


@given(st.text(max_size=40), st.text(max_size=20))
@settings(deadline=2000)
def test_any_setting_is_a_configuration_or_a_config_error(flag: str, value: str) -> None:
    for setting in (flag, f"agent.name={value}", f"{flag}={value}", f"limits.{flag}={value}"):
        with suppress(ConfigError):
            assert text(AGENT, setting).config.agent.prompt is not None


def _either(source: str, path: Path) -> None:
    try:
        loaded = load_text(source, path, environ={"X": "x"})
    except ConfigError as error:
        assert any(not problem.warning for problem in error.problems)  # noqa: PT017
        assert str(error)  # noqa: PT017
    else:
        assert loaded.graph.start in loaded.graph.nodes


def test_a_language_without_words_of_turn_taking_is_a_warning() -> None:
    loaded = text(AGENT + "topology: { stt: { provider: deepgram, language: fi } }")
    (warning,) = loaded.warnings
    assert warning.path == "topology.stt.language"
    assert "'fi'" in warning.message
    assert text(AGENT + "topology: { stt: { provider: deepgram, language: de-AT } }").warnings == ()
    fixed = "turn: { endpointing: { mode: fixed } }\n"
    assert (
        text(AGENT + fixed + "topology: { stt: { language: fi, provider: deepgram } }").warnings
        == ()
    )
