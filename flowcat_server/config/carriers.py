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
    dtmf: Literal["auto", "in_band", "carrier"] = Field(
        default="auto",
        description="Where keys come from. carrier: it tells of them; in_band: they are heard in "
        "the caller's audio, and what the carrier tells is not counted; auto: in_band where the "
        "carrier never tells.",
    )

    def account(self) -> Account:
        """The block in the words that all carriers share."""
        return Account(allow_from=tuple(self.allow_from))


class _Rest(Carrier):
    """A carrier with an API."""

    api_url: str = Field(
        default="", description="The carrier's API, if it is not the usual one (regions)."
    )


class _Dials(_Rest):
    """A carrier that can make calls."""

    from_number: str = Field(
        default="",
        pattern=r"^(\+[1-9][0-9]{6,14})?$",
        description="Number that people see who are called, in E.164: +441234567890.",
    )


class _Basic(Carrier):
    """A carrier that signs nothing, and sends a password."""

    username: str = Field(default="", description="User name that the carrier has to send.")
    password: SecretStr = Field(
        default=_NONE,
        description="Password that the carrier has to send; without it (and without allow_from) "
        "only this machine is served.",
    )


class Twilio(_Dials):
    """Twilio Voice with Media Streams."""

    account_sid: str = Field(
        default="", description="Account SID (AC...), needed to hang up, move and make calls."
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
            from_number=self.from_number,
        )


class SignalWire(_Dials):
    """SignalWire, compatibility (cXML) applications."""

    space: str = Field(
        default="", description="Host of the space, such as example.signalwire.com, for its API."
    )
    project_id: str = Field(default="", description="Project ID, needed to move and make calls.")
    api_token: SecretStr = Field(
        default=_NONE, description="API token, needed to move and make calls."
    )
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
            from_number=self.from_number,
            options={"codec": self.codec, "byte_order": self.byte_order},
        )


class Cloudonix(_Basic, _Dials):
    """Cloudonix voice applications (CXML)."""

    domain: str = Field(default="", description="Domain, needed to hang up, move and make calls.")
    api_token: SecretStr = Field(
        default=_NONE, description="API key, needed to hang up, move and make calls."
    )

    def account(self) -> Account:
        return Account(
            id=self.domain,
            secret=self.api_token.get_secret_value(),
            user=self.username,
            password=self.password.get_secret_value(),
            allow_from=tuple(self.allow_from),
            api=self.api_url,
            from_number=self.from_number,
        )


class Telnyx(_Dials):
    """Telnyx: TeXML applications, and Call Control applications."""

    public_key: str = Field(
        default="",
        description="Public key of the account (base64): checks webhook signatures; without it "
        "only loopback is served.",
    )
    api_key: SecretStr = Field(
        default=_NONE,
        description="API key: answers Call Control calls, hangs up, moves and makes calls.",
    )
    connection_id: str = Field(
        default="",
        description="Call Control application (connection) that makes calls.",
    )
    texml_application_id: str = Field(
        default="",
        description="TeXML application that makes calls, instead of connection_id; needs "
        "account_id.",
    )
    account_id: str = Field(default="", description="The account of texml_application_id.")
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
            from_number=self.from_number,
            options={
                "codec": self.codec,
                "sample_rate": str(self.sample_rate),
                "byte_order": self.byte_order,
                "connection_id": self.connection_id,
                "texml_application_id": self.texml_application_id,
                "account_id": self.account_id,
            },
        )


class Exotel(_Basic, _Dials):
    """Exotel AgentStream (Voicebot applet)."""

    account_sid: str = Field(default="", description="Account SID, needed to make calls.")
    api_key: str = Field(default="", description="API key, needed to make calls.")
    api_token: SecretStr = Field(default=_NONE, description="API token, needed to make calls.")

    def account(self) -> Account:
        return _basic_account(
            self,
            owner=self.api_key,
            secret=self.api_token.get_secret_value(),
            account_sid=self.account_sid,
        )


class _PlivoLike(_Dials):
    """A carrier in Plivo's manner."""

    auth_id: str = Field(default="", description="Auth ID of the account.")
    auth_token: SecretStr = Field(
        default=_NONE,
        description="Auth token of the account: checks webhook signatures, hangs up and makes "
        "calls; without it only loopback is served.",
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
            from_number=self.from_number,
            options={"content_type": self.content_type, "byte_order": self.byte_order},
        )


class Plivo(_PlivoLike):
    """Plivo Voice with audio streaming."""


class Vobiz(_PlivoLike):
    """Vobiz, with its streams in Plivo's manner."""


class Vonage(_Dials):
    """Vonage Voice API with WebSocket endpoints."""

    api_key: str = Field(default="", description="API key of the account; webhooks must name it.")
    signature_secret: SecretStr = Field(
        default=_NONE,
        description="Signature secret of the account: checks signed webhooks; without it only "
        "loopback is served.",
    )
    application_id: str = Field(
        default="",
        description="Application, needed to hang up, move and make calls; webhooks must name it.",
    )
    private_key: SecretStr = Field(
        default=_NONE,
        description="The application's private key (PEM), needed to hang up, move and make calls.",
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
            from_number=self.from_number,
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


class Jambonz(_Basic, _Dials):
    """jambonz, verb listen."""

    webhook_secret: SecretStr = Field(
        default=_NONE,
        description="Webhook secret of the account: checks signatures; without it only loopback "
        "is served.",
    )
    sample_rate: Literal[8000, 16000, 24000] = Field(
        default=8000, description="Hertz of the media socket."
    )
    account_sid: str = Field(default="", description="Account, needed to make calls.")
    api_key: SecretStr = Field(default=_NONE, description="API key, needed to make calls.")
    application_sid: str = Field(
        default="", description="Application of the calls that are made; needed for it."
    )

    def account(self) -> Account:
        return _basic_account(
            self,
            self.webhook_secret.get_secret_value(),
            owner=self.account_sid,
            secret=self.api_key.get_secret_value(),
            sample_rate=str(self.sample_rate),
            application_sid=self.application_sid,
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


class Bandwidth(_Basic, _Dials):
    """Bandwidth voice applications (BXML)."""

    account_id: str = Field(default="", description="Account, needed to make calls.")
    client_id: str = Field(
        default="", description="Client ID of the API credential (OAuth 2.0), to make calls."
    )
    client_secret: SecretStr = Field(
        default=_NONE, description="Client secret of the API credential, to make calls."
    )
    application_id: str = Field(
        default="", description="Voice application of from_number, needed to make calls."
    )

    def account(self) -> Account:
        return _basic_account(
            self,
            owner=self.client_id,
            secret=self.client_secret.get_secret_value(),
            account_id=self.account_id,
            application_id=self.application_id,
        )


class FreeSwitch(_Basic):
    """FreeSWITCH, mod_audio_stream or mod_audio_fork: the switch opens the socket."""

    sample_rate: Literal[8000, 16000, 24000, 48000] = Field(
        default=8000, description="Hertz of the media socket where its address says none."
    )

    def account(self) -> Account:
        return _basic_account(self, sample_rate=str(self.sample_rate))


def _basic_account(
    block: _Basic, webhook_key: str = "", owner: str = "", secret: str = "", **options: str
) -> Account:
    return Account(
        id=owner,
        secret=secret,
        webhook_key=webhook_key,
        user=block.username,
        password=block.password.get_secret_value(),
        allow_from=tuple(block.allow_from),
        api=getattr(block, "api_url", ""),
        from_number=getattr(block, "from_number", ""),
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
