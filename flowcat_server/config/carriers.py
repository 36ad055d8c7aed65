"""The ``carriers`` block: one block for each phone company or switch, by its name."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr

from flowcat_server.config.blocks import Block
from flowcat_server.config.types import Texts
from flowcat_server.core.carrier import Account

_NONE = SecretStr("")


class Carrier(Block):
    """What every carrier has."""

    allow_from: Texts = Field(
        default_factory=list,
        description="Only these addresses or networks may use this carrier's doors; empty: any.",
    )

    def account(self) -> Account:
        """The block in the words that all carriers share."""
        return Account(allow_from=tuple(self.allow_from))


class _Rest(Carrier):
    """A carrier with an API."""

    api_url: str = Field(
        default="", description="The carrier's API, if it is not the usual one (regions)."
    )


class _Basic(Carrier):
    """A carrier that signs nothing, and sends a password."""

    username: str = Field(default="", description="User name that the carrier has to send.")
    password: SecretStr = Field(
        default=_NONE,
        description="Password that the carrier has to send; without it (and without allow_from) "
        "only this machine is served.",
    )


class Twilio(_Rest):
    """Twilio Voice with Media Streams."""

    account_sid: str = Field(
        default="", description="Account SID (AC...), needed to hang up and move."
    )
    auth_token: SecretStr = Field(
        default=_NONE,
        description="Checks webhook signatures; without it only loopback is served.",
    )

    def account(self) -> Account:
        token = self.auth_token.get_secret_value()
        return Account(
            id=self.account_sid,
            secret=token,
            webhook_key=token,
            allow_from=tuple(self.allow_from),
            api=self.api_url,
        )


class SignalWire(_Rest):
    """SignalWire, compatibility (cXML) applications."""

    space: str = Field(
        default="", description="Host of the space, such as example.signalwire.com, for its API."
    )
    project_id: str = Field(default="", description="Project ID, needed to move calls.")
    api_token: SecretStr = Field(default=_NONE, description="API token, needed to move calls.")
    signing_key: SecretStr = Field(
        default=_NONE,
        description="Checks webhook signatures; without it only loopback is served.",
    )
    codec: Literal["PCMU@8000h", "L16@16000h", "L16@24000h"] = Field(
        default="PCMU@8000h", description="Audio of the media socket."
    )
    byte_order: Literal["little", "big"] = Field(
        default="little", description="Byte order of L16 audio; the documentation does not say."
    )

    def account(self) -> Account:
        api = f"https://{self.space}/api/laml/2010-04-01" if self.space else ""
        return Account(
            id=self.project_id,
            secret=self.api_token.get_secret_value(),
            webhook_key=self.signing_key.get_secret_value(),
            allow_from=tuple(self.allow_from),
            api=self.api_url or api,
            options={"codec": self.codec, "byte_order": self.byte_order},
        )


class Cloudonix(_Basic, _Rest):
    """Cloudonix voice applications (CXML)."""

    domain: str = Field(default="", description="Domain, needed to hang up and move.")
    api_token: SecretStr = Field(default=_NONE, description="API key, needed to hang up and move.")

    def account(self) -> Account:
        return Account(
            id=self.domain,
            secret=self.api_token.get_secret_value(),
            user=self.username,
            password=self.password.get_secret_value(),
            allow_from=tuple(self.allow_from),
            api=self.api_url,
        )


class Telnyx(_Rest):
    """Telnyx: TeXML applications, and Call Control applications."""

    public_key: str = Field(
        default="",
        description="Public key of the account (base64): checks webhook signatures; without it "
        "only loopback is served.",
    )
    api_key: SecretStr = Field(
        default=_NONE, description="API key: answers Call Control calls, hangs up and moves."
    )
    codec: Literal["PCMU", "PCMA", "L16"] = Field(
        default="PCMU", description="What the agent's speech is sent in."
    )
    sample_rate: Literal[8000, 16000, 24000] = Field(
        default=8000, description="Hertz of the agent's speech; others than 8000 only for L16."
    )
    byte_order: Literal["little", "big"] = Field(
        default="big", description="Byte order of L16 audio; the documentation does not say."
    )

    def account(self) -> Account:
        return Account(
            secret=self.api_key.get_secret_value(),
            webhook_key=self.public_key,
            allow_from=tuple(self.allow_from),
            api=self.api_url,
            options={
                "codec": self.codec,
                "sample_rate": str(self.sample_rate),
                "byte_order": self.byte_order,
            },
        )


class Exotel(_Basic):
    """Exotel AgentStream (Voicebot applet)."""

    def account(self) -> Account:
        return _basic_account(self)


class _PlivoLike(_Rest):
    """A carrier in Plivo's manner."""

    auth_id: str = Field(default="", description="Auth ID of the account.")
    auth_token: SecretStr = Field(
        default=_NONE,
        description="Auth token of the account: checks webhook signatures, hangs up and moves; "
        "without it only loopback is served.",
    )
    content_type: Literal["audio/x-mulaw;rate=8000", "audio/x-l16;rate=8000",
                          "audio/x-l16;rate=16000"] = Field(
        default="audio/x-mulaw;rate=8000", description="Audio of the media socket."
    )  # fmt: skip
    byte_order: Literal["little", "big"] = Field(
        default="little", description="Byte order of L16 audio; the documentation does not say."
    )

    def account(self) -> Account:
        token = self.auth_token.get_secret_value()
        return Account(
            id=self.auth_id,
            secret=token,
            webhook_key=token,
            allow_from=tuple(self.allow_from),
            api=self.api_url,
            options={"content_type": self.content_type, "byte_order": self.byte_order},
        )


class Plivo(_PlivoLike):
    """Plivo Voice with audio streaming."""


class Vobiz(_PlivoLike):
    """Vobiz, with its streams in Plivo's manner."""


class Vonage(_Rest):
    """Vonage Voice API with WebSocket endpoints."""

    api_key: str = Field(default="", description="API key of the account; webhooks must name it.")
    signature_secret: SecretStr = Field(
        default=_NONE,
        description="Signature secret of the account: checks signed webhooks; without it only "
        "loopback is served.",
    )
    application_id: str = Field(
        default="", description="Application, needed to hang up and move; webhooks must name it."
    )
    private_key: SecretStr = Field(
        default=_NONE,
        description="The application's private key (PEM), needed to hang up and move.",
    )
    sample_rate: Literal[8000, 16000, 24000] = Field(
        default=16000, description="Hertz of the media socket."
    )

    def account(self) -> Account:
        return Account(
            id=self.application_id,
            secret=self.private_key.get_secret_value(),
            webhook_key=self.signature_secret.get_secret_value(),
            allow_from=tuple(self.allow_from),
            api=self.api_url,
            options={"api_key": self.api_key, "sample_rate": str(self.sample_rate)},
        )


class Asterisk(_Basic):
    """Asterisk's chan_websocket: the switch opens the socket."""

    def account(self) -> Account:
        return _basic_account(self)


class AudioSocket(Carrier):
    """Asterisk's AudioSocket, over bare TCP."""

    bind: str = Field(
        default="", description='Address and port to listen on, such as "0.0.0.0:9092"; empty: off.'
    )


class Jambonz(_Basic):
    """jambonz, verb listen."""

    webhook_secret: SecretStr = Field(
        default=_NONE,
        description="Webhook secret of the account: checks signatures; without it only loopback "
        "is served.",
    )
    sample_rate: Literal[8000, 16000, 24000] = Field(
        default=8000, description="Hertz of the media socket."
    )

    def account(self) -> Account:
        return _basic_account(
            self, self.webhook_secret.get_secret_value(), sample_rate=str(self.sample_rate)
        )


class Genesys(Carrier):
    """Genesys Cloud AudioHook / Audio Connector."""

    api_key: str = Field(default="", description="API key that the integration sends.")
    client_secret: SecretStr = Field(
        default=_NONE,
        description="Client secret of the integration (base64): checks the handshake's "
        "signature; without it only loopback is served.",
    )
    organization_id: str = Field(
        default="", description="The only organization that is served; empty: any that signs."
    )

    def account(self) -> Account:
        return Account(
            webhook_key=self.client_secret.get_secret_value(),
            allow_from=tuple(self.allow_from),
            options={"api_key": self.api_key, "organization_id": self.organization_id},
        )


class Bandwidth(_Basic):
    """Bandwidth voice applications (BXML)."""

    def account(self) -> Account:
        return _basic_account(self)


class FreeSwitch(_Basic):
    """FreeSWITCH, mod_audio_stream or mod_audio_fork: the switch opens the socket."""

    sample_rate: Literal[8000, 16000, 24000, 48000] = Field(
        default=8000, description="Hertz of the media socket where its address says none."
    )

    def account(self) -> Account:
        return _basic_account(self, sample_rate=str(self.sample_rate))


def _basic_account(block: _Basic, webhook_key: str = "", **options: str) -> Account:
    return Account(
        webhook_key=webhook_key,
        user=block.username,
        password=block.password.get_secret_value(),
        allow_from=tuple(block.allow_from),
        options=options,
    )


class Carriers(Block):
    """Phone companies and switches by name; addresses for all of them are served in any case."""

    twilio: Twilio = Field(default_factory=Twilio, description="Twilio.")
    signalwire: SignalWire = Field(default_factory=SignalWire, description="SignalWire.")
    cloudonix: Cloudonix = Field(default_factory=Cloudonix, description="Cloudonix.")
    telnyx: Telnyx = Field(default_factory=Telnyx, description="Telnyx.")
    exotel: Exotel = Field(default_factory=Exotel, description="Exotel.")
    plivo: Plivo = Field(default_factory=Plivo, description="Plivo.")
    vobiz: Vobiz = Field(default_factory=Vobiz, description="Vobiz.")
    vonage: Vonage = Field(default_factory=Vonage, description="Vonage.")
    asterisk: Asterisk = Field(default_factory=Asterisk, description="Asterisk, over WebSocket.")
    audiosocket: AudioSocket = Field(
        default_factory=AudioSocket, description="Asterisk, over AudioSocket (TCP)."
    )
    jambonz: Jambonz = Field(default_factory=Jambonz, description="jambonz.")
    genesys: Genesys = Field(default_factory=Genesys, description="Genesys Cloud AudioHook.")
    bandwidth: Bandwidth = Field(default_factory=Bandwidth, description="Bandwidth.")
    freeswitch: FreeSwitch = Field(default_factory=FreeSwitch, description="FreeSWITCH.")

    def block(self, name: str) -> Carrier:
        """One carrier's block."""
        block: Carrier = getattr(self, name)
        return block
