"""``routes`` in the agent file: further agent files, rules, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowcat_server.cli.main import main
from flowcat_server.config.load import Loaded, load
from flowcat_server.errors import ConfigError

MAIN = """\
agent: {name: desk, prompt: Be kind.}
routes:
  agents: {sales: sales.yaml, support: team/support.yaml}
  rules:
    - {to: "+4420*", agent: sales}
    - {from: [anonymous, "+1900*"], carrier: plivo, agent: support, variables: {team: night}}
    - {header: {X-Team: support}, agent: support}
  webhook: {url: "https://example.com/route", secret: s, default: desk}
"""
SALES = "agent: {prompt: Sell.}\n"
SUPPORT = "agent: {prompt: 'Help ${WHOM:-people}.'}\nknowledge: [{path: faq.md}]\n"


def write(folder: Path, **files: str) -> Path:
    given = {"main": MAIN, "sales": SALES, "support": SUPPORT, **files}
    (folder / "team").mkdir(exist_ok=True)
    (folder / "agent.yaml").write_text(given["main"])
    (folder / "sales.yaml").write_text(given["sales"])
    (folder / "team" / "support.yaml").write_text(given["support"])
    (folder / "team" / "faq.md").write_text("## When?\nNow.\n")
    return folder / "agent.yaml"


def loaded(folder: Path, **files: str) -> Loaded:
    return load(write(folder, **files), environ={})


def problems(folder: Path, **files: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        loaded(folder, **files)
    return [f"{p.path}: {p.message}" for p in error.value.problems if not p.warning]


def test_agent_files_are_whole_agent_files_beside_the_main_one(tmp_path: Path):
    file = loaded(tmp_path)
    assert list(file.agents) == ["sales", "support"]
    assert file.agents["sales"].config.agent.prompt == "Sell."
    support = file.agents["support"]
    assert support.config.agent.prompt == "Help people."
    assert support.knowledge[0].questions == ("When?",)
    assert support.base_dir == tmp_path / "team"
    assert file.warnings == ()
    names = [path.name for path in file.files]
    assert names == ["agent.yaml", "sales.yaml", "support.yaml", "faq.md"]


def test_rules_say_what_has_to_fit(tmp_path: Path):
    to, caller, header = loaded(tmp_path).config.routes.rules
    assert (to.to, to.agent) == (["+4420*"], "sales")
    assert (caller.from_, caller.carrier) == (["anonymous", "+1900*"], ["plivo"])
    assert caller.variables == {"team": "night"}
    assert header.header == {"X-Team": "support"}


def test_a_local_file_beside_an_agents_file_is_laid_over_it(tmp_path: Path):
    (tmp_path / "sales.local.yaml").write_text("agent: {prompt: Sell more.}\n")
    assert loaded(tmp_path).agents["sales"].config.agent.prompt == "Sell more."


def test_what_the_main_file_decides_is_left_out_of_the_others_with_a_warning(tmp_path: Path):
    server_wide = (
        "server: {bind: 'nonsense'}\nlimits: {max_calls: 1}\nrecords: {audio: none}\n"
        "carriers: {twilio: {account_sid: bad}}\nwebrtc: {}\nobservability: {metrics: false}\n"
        "routes: {agents: {sales: sales.yaml}}\n"
    )
    file = loaded(tmp_path, sales=SALES + server_wide)
    said = {p.path: p for p in file.warnings}
    assert set(said) == {
        "server", "limits", "records", "carriers", "webrtc", "observability", "routes",
    }  # fmt: skip
    assert said["limits"].file.endswith("sales.yaml")
    assert said["limits"].line == 3
    assert "agent.yaml decides it" in said["limits"].message
    assert file.agents["sales"].config.limits.max_calls == 50


def test_the_environment_and_set_are_the_main_files_alone(tmp_path: Path):
    path = write(tmp_path)
    environ = {"FLOWCAT__AGENT__PROMPT": "From outside.", "TWILIO_AUTH_TOKEN": "t"}
    file = load(path, environ=environ, settings=["agent.greeting=Hello"])
    assert file.config.agent.prompt == "From outside."
    assert file.agents["sales"].config.agent.prompt == "Sell."
    assert file.agents["sales"].config.agent.greeting == ""
    assert file.warnings == ()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("agent: sales}", "agent: sails}",
         "routes.rules.0.agent: there is no agent 'sails'; did you mean 'sales'? "
         "(known: desk, sales, support)"),
        ("carrier: plivo", "carrier: plivvo",
         "routes.rules.1.carrier: there is no carrier 'plivvo'; did you mean 'plivo'?"),
        ("default: desk", "default: dsk",
         "routes.webhook.default: there is no agent 'dsk'; did you mean 'desk'?"),
        ("https://example.com/route", "example.com/route",
         "routes.webhook.url: must be an http:// or https:// address"),
        ("{sales: sales.yaml,", "{desk: sales.yaml,",
         "routes.agents.desk: is the name of this file's own agent"),
        ("{sales: sales.yaml,", "{sales: gone.yaml,", "routes.agents.sales: there is no file"),
        ("{sales: sales.yaml,", "{'two words': sales.yaml,",
         "routes.agents.two words: must consist of letters, digits"),
        ('to: "+4420*"', "too: 1", "routes.rules.0.too: unknown key 'too'; did you mean 'to'?"),
        ("from: [anonymous", "form: [anonymous",
         "routes.rules.1.form: unknown key 'form'; did you mean 'from'?"),
        ('to: "+4420*"', "to: 100", "routes.rules.0.to.0: must be text; found 100")
    ],
)  # fmt: skip
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, said: str):
    assert old in MAIN
    found = problems(tmp_path, main=MAIN.replace(old, new))
    assert any(problem.startswith(said) for problem in found), found


def test_mistakes_of_an_agents_file_have_their_place_in_it(tmp_path: Path):
    path = write(tmp_path, sales="agent: {prompt: Sell.}\nturn: {nonsense: 1}\n")
    with pytest.raises(ConfigError) as error:
        load(path, environ={})
    (problem,) = error.value.problems
    assert problem.file.endswith("sales.yaml")
    assert (problem.line, problem.path) == (2, "turn.nonsense")


def test_a_rule_behind_one_that_fits_everything_is_never_reached(tmp_path: Path):
    rules = "routes:\n  rules: [{agent: desk}, {to: '1', agent: desk}]\n"
    (warning,) = loaded(tmp_path, main="agent: {name: desk, prompt: x}\n" + rules).warnings
    assert (warning.path, warning.message.split(":")[0]) == (
        "routes.rules.1",
        "is never reached",
    )


def test_check_looks_at_the_providers_of_every_agent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    path = write(tmp_path, support=SUPPORT + "topology: {llm: openai}\n")
    assert main(["check", str(path)]) == 1
    out = capsys.readouterr().out
    assert "team/support.yaml:3" in out
    assert "OPENAI_API_KEY" in out


def test_show_prints_reserved_words_as_they_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["show", str(write(tmp_path))]) == 0
    out = capsys.readouterr().out
    assert "from:" in out
    assert "from_" not in out
    assert 'secret: "(hidden)"' in out
