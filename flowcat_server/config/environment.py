"""Environment variables that have a name of their own, and the key that each of them sets.

Any key can also be set as ``FLOWCAT__SERVER__BIND``; see `overrides`. Providers' keys are looked
up by the registry, under the vendors' own names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from flowcat_server.config.document import Path


@dataclass(frozen=True, slots=True)
class Sets:
    """The key of the agent file that a variable stands for."""

    path: Path


class Environment(BaseSettings):
    """Flowcat's variables, ours of the same kind, and the carriers' own. An empty one is unset."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore")

    flowcat_public_url: Annotated[str | None, Sets(("server", "public_url"))] = Field(
        default=None, description="This server as carriers and browsers reach it."
    )
    flowcat_api_token: Annotated[SecretStr | None, Sets(("server", "api_token"))] = Field(
        default=None, description="Token for the page and the API from other machines."
    )
    flowcat_webrtc_advertise_ip: Annotated[str | None, Sets(("webrtc", "advertise_ip"))] = Field(
        default=None, description="Address that browsers are told."
    )
    flowcat_webrtc_bind_ip: Annotated[list[str] | None, NoDecode, Sets(("webrtc", "bind_ips"))] = (
        Field(default=None, description="Local addresses used for media, separated by commas.")
    )
    flowcat_voice: Annotated[str | None, Sets(("topology", "voice"))] = Field(
        default=None, description="Voice of the speech-to-speech provider."
    )
    twilio_account_sid: Annotated[str | None, Sets(("carriers", "twilio", "account_sid"))] = Field(
        default=None, description="Account SID at Twilio."
    )
    twilio_auth_token: Annotated[SecretStr | None, Sets(("carriers", "twilio", "auth_token"))] = (
        Field(default=None, description="Auth token at Twilio; checks its webhooks.")
    )
    signalwire_project_id: Annotated[str | None, Sets(("carriers", "signalwire", "project_id"))] = (
        Field(default=None, description="Project ID at SignalWire.")
    )
    signalwire_api_token: Annotated[
        SecretStr | None, Sets(("carriers", "signalwire", "api_token"))
    ] = Field(default=None, description="API token at SignalWire.")
    signalwire_signing_key: Annotated[
        SecretStr | None, Sets(("carriers", "signalwire", "signing_key"))
    ] = Field(default=None, description="Signing key at SignalWire; checks its webhooks.")
    telnyx_api_key: Annotated[SecretStr | None, Sets(("carriers", "telnyx", "api_key"))] = Field(
        default=None, description="API key at Telnyx."
    )
    telnyx_public_key: Annotated[str | None, Sets(("carriers", "telnyx", "public_key"))] = Field(
        default=None, description="Public key at Telnyx; checks its webhooks."
    )
    plivo_auth_id: Annotated[str | None, Sets(("carriers", "plivo", "auth_id"))] = Field(
        default=None, description="Auth ID at Plivo."
    )
    plivo_auth_token: Annotated[SecretStr | None, Sets(("carriers", "plivo", "auth_token"))] = (
        Field(default=None, description="Auth token at Plivo; checks its webhooks.")
    )
    vobiz_auth_id: Annotated[str | None, Sets(("carriers", "vobiz", "auth_id"))] = Field(
        default=None, description="Auth ID at Vobiz."
    )
    vobiz_auth_token: Annotated[SecretStr | None, Sets(("carriers", "vobiz", "auth_token"))] = (
        Field(default=None, description="Auth token at Vobiz; checks its webhooks.")
    )
    vonage_api_key: Annotated[str | None, Sets(("carriers", "vonage", "api_key"))] = Field(
        default=None, description="API key at Vonage."
    )
    vonage_signature_secret: Annotated[
        SecretStr | None, Sets(("carriers", "vonage", "signature_secret"))
    ] = Field(default=None, description="Signature secret at Vonage; checks its webhooks.")
    vonage_application_id: Annotated[str | None, Sets(("carriers", "vonage", "application_id"))] = (
        Field(default=None, description="Application ID at Vonage.")
    )
    vonage_private_key: Annotated[SecretStr | None, Sets(("carriers", "vonage", "private_key"))] = (
        Field(default=None, description="Private key of the application at Vonage (PEM).")
    )

    @field_validator("flowcat_webrtc_bind_ip", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Environment:
        """The variables of `environ`; it need not be the process's own."""
        return cls(**_Given(cls, environ)())

    def set_keys(self) -> Iterator[tuple[str, Path, Any]]:
        """Every variable that is set: its name, the key it sets, the value."""
        for name, path in VARIABLES.items():
            value = getattr(self, name.lower())
            if isinstance(value, SecretStr):
                value = value.get_secret_value()
            if value is not None:
                yield name, path, value


class _Given(EnvSettingsSource):
    """Reads a mapping where pydantic-settings would read the process's environment."""

    def __init__(self, settings: type[BaseSettings], environ: Mapping[str, str]) -> None:
        self._environ = {name.lower(): value for name, value in environ.items()}
        super().__init__(settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name: value for name, value in self._environ.items() if value}


VARIABLES: Mapping[str, Path] = {
    name.upper(): next(mark.path for mark in field.metadata if isinstance(mark, Sets))
    for name, field in Environment.model_fields.items()
}
"""Every variable with a name of its own, and the key it sets."""
