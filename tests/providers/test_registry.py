"""Which providers there are, and where their keys are found."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from flowcat_server.errors import MissingExtra
from flowcat_server.providers import registry
from flowcat_server.providers.registry import KINDS, Kind, Options, Provider, find_key, key_names

ALL = [(kind, name) for kind in KINDS for name in registry.names(kind)]


@pytest.mark.parametrize(("kind", "name"), ALL, ids=[f"{kind}.{name}" for kind, name in ALL])
def test_every_name_leads_to_a_provider_that_can_be_described(kind: Kind, name: str):
    provider = registry.find(kind, name)
    assert isinstance(provider, Provider)
    assert issubclass(provider.options, Options)
    assert provider.title or provider.local or name == "scripted"
    assert not provider.local or not provider.env
    schema = provider.options.model_json_schema()
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize(("kind", "name"), ALL, ids=[f"{kind}.{name}" for kind, name in ALL])
def test_every_provider_refuses_options_it_does_not_know(kind: Kind, name: str):
    provider = registry.find(kind, name)
    assert provider is not None
    with pytest.raises(ValidationError, match="no_such_option"):
        provider.options.model_validate({"no_such_option": 1})


def test_unknown_names_are_none():
    assert registry.find("llm", "no-such-vendor") is None
    assert registry.find("llm", "_vendors") is None
    assert registry.find("realtime", "__init__") is None


def test_names_are_sorted_and_use_dashes():
    for kind in KINDS:
        names = registry.names(kind)
        assert list(names) == sorted(set(names))
        assert not any("_" in name for name in names)


def test_finding_all_providers_imports_no_heavy_package():
    """`check` reads the table in milliseconds and without any extra installed."""
    heavy = ["onnxruntime", "ctranslate2", "piper", "xllamacpp", "openai", "anthropic", "torch"]
    code = (
        "import sys\n"
        "from flowcat_server.providers import registry\n"
        "[registry.find(kind, name) for kind in registry.KINDS for name in registry.names(kind)]\n"
        f"print([name for name in {heavy!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def vendor(**fields: object) -> Provider:
    return Provider(create=lambda settings: None, **fields)  # type: ignore[arg-type]


HOSTED = vendor(env=("VENDOR_KEY", "OTHER_KEY"))


def found(provider: Provider = HOSTED, **how: object) -> tuple[str, str]:
    key = find_key("my-vendor", provider, **how)  # type: ignore[arg-type]
    return key.value.get_secret_value(), key.source


def test_the_vendors_own_variables_come_first_then_ours():
    assert key_names("my-vendor", HOSTED)[:3] == (
        "VENDOR_KEY",
        "OTHER_KEY",
        "FLOWCAT_MY_VENDOR_API_KEY",
    )
    environ = {"FLOWCAT_MY_VENDOR_API_KEY": "c", "OTHER_KEY": "b", "VENDOR_KEY": ""}
    assert found(environ=environ) == ("b", "OTHER_KEY")
    del environ["OTHER_KEY"]
    assert found(environ=environ) == ("c", "FLOWCAT_MY_VENDOR_API_KEY")
    assert found(environ={}) == ("", "")


def test_the_file_wins_over_the_environment():
    environ = {"VENDOR_KEY": "a", "MINE": "m"}
    assert found(explicit="x", explicit_env="MINE", environ=environ) == ("x", "config")
    assert found(explicit_env="MINE", environ=environ) == ("m", "MINE")


def test_a_key_may_lie_in_a_file(tmp_path: Path):
    secret = tmp_path / "key"
    secret.write_text("from-file\n")
    environ = {"VENDOR_KEY_FILE": str(secret)}
    assert found(environ=environ) == ("from-file", "VENDOR_KEY_FILE")
    assert found(environ={"VENDOR_KEY_FILE": str(tmp_path / "absent")}) == ("", "")


def test_a_replaced_address_is_sent_no_key_from_the_environment():
    environ = {"VENDOR_KEY": "a", "MINE": "m"}
    assert found(replaced_base_url=True, environ=environ) == ("", "")
    assert found(replaced_base_url=True, explicit_env="MINE", environ=environ) == ("m", "MINE")


def test_a_provider_without_variables_takes_no_key_from_the_environment():
    assert found(vendor(), environ={"FLOWCAT_MY_VENDOR_API_KEY": "a"}) == ("", "")


def test_a_key_never_shows_in_text():
    key = find_key("my-vendor", HOSTED, explicit="sk-secret")
    assert "sk-secret" not in f"{key!r} {key}"
    assert isinstance(key.value, SecretStr)


def test_a_missing_package_is_named_with_the_command_that_brings_it():
    provider = vendor(requires=("json", "no_such_package"), extra="voices")
    with pytest.raises(MissingExtra, match=r"no_such_package.*flowcat-server\[voices\]"):
        provider.check_installed("my-vendor")
    vendor(requires=("json",)).check_installed("my-vendor")
