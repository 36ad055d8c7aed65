"""The vendor table holds what the configuration and the client need."""

import re

import pytest
from yarl import URL

from flowcat_server.providers import registry
from flowcat_server.providers.llm._vendors import VENDORS
from flowcat_server.providers.llm.openai import OpenAiModel
from flowcat_server.providers.registry import Provider
from tests.fakes.settings import settings

OWN = {"openai-compatible", "ollama", "vllm", "llama-server", "lm-studio"}


@pytest.fixture(params=sorted(VENDORS))
def row(request: pytest.FixtureRequest) -> tuple[str, Provider]:
    return request.param, VENDORS[request.param]


def test_every_row_is_found_by_its_name(row: tuple[str, Provider]):
    name, provider = row
    assert name in registry.names("llm")
    assert registry.find("llm", name) is provider


def test_names_can_stand_in_a_file_and_in_a_variable(row: tuple[str, Provider]):
    name, provider = row
    assert re.fullmatch(r"[a-z][a-z0-9-]*", name)
    assert all(re.fullmatch(r"[A-Z][A-Z0-9_]*", variable) for variable in provider.env)


def test_keys_only_travel_encrypted(row: tuple[str, Provider]):
    name, provider = row
    if name in OWN:
        assert not provider.key_required
        assert provider.env == ()
        assert provider.base_url == "" or URL(provider.base_url).host == "localhost"
    else:
        assert provider.env
        assert provider.base_url.startswith("https://") or name == "azure"


def test_a_model_is_named_or_asked_for(row: tuple[str, Provider]):
    _, provider = row
    assert provider.model_required == (not provider.default_model)
    assert provider.default_model not in provider.retired


def test_a_client_can_be_made_of_it(row: tuple[str, Provider], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://ours.openai.azure.com")
    _, provider = row
    base_url = provider.base_url or "https://host.test/v1"
    made = provider.create(settings(provider, model="m", base_url=base_url))
    assert isinstance(made, OpenAiModel)


def test_a_replaced_base_url_gets_no_key_of_the_environment():
    environ = {"OPENAI_API_KEY": "sk-1", "MY_KEY": "mine"}
    openai, other = VENDORS["openai"], VENDORS["openai-compatible"]
    find = registry.find_key
    assert find("openai", openai, environ=environ).value.get_secret_value() == "sk-1"
    assert find("openai", openai, environ=environ, replaced_base_url=True).source == ""
    assert find("openai-compatible", other, environ=environ).source == ""
    own = find("openai-compatible", other, explicit_env="MY_KEY", environ=environ)
    assert own.value.get_secret_value() == "mine"
