"""Vobiz: streams, documents and webhooks in Plivo's manner.

In, as text frames: ``start``, ``media``, ``playedStream``, ``clearedAudio`` as Plivo sends them::

    {"event":"start","start":{"callId":"..","streamId":"..",
     "mediaFormat":{"encoding":"audio/x-mulaw","sampleRate":8000}}}

Out: ``playAudio``, ``checkpoint``, ``clearAudio``, and ``stop`` before we close. Webhooks are
signed over the address without its query, and the nonce. https://vobiz.ai/docs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from flowcat_server.carriers._json_stream import Dialect
from flowcat_server.carriers._plivo import PlivoLike
from flowcat_server.core.carrier import Request, RestRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Vobiz(PlivoLike):
    """Plivo's manner, with another signature and other credentials."""

    def signed_text(self, request: Request, url: str) -> str:
        """The address alone."""
        del request
        return url.partition("?")[0]

    def credentials(self, request: RestRequest, owner: str, secret: str) -> RestRequest:
        """A request with what proves who asks."""
        return replace(request, headers={"X-Auth-ID": owner, "X-Auth-Token": secret})


CARRIER = Vobiz(
    name="vobiz",
    title="Vobiz",
    wire='`<Stream bidirectional="true">`',
    audio="mu-law, 8 kHz; L16, 8 or 16 kHz",
    docs="https://vobiz.ai/docs",
    paste="the application's answer URL (POST)",
    credential="auth_token",
    unverified="signatures and the API, which rest on other projects' code; byte order of L16",
    has_status=True,
    dial_keys=("auth_id", "auth_token"),
    detection="`machine_detection`",
    ticket_in="query",
    dialect=Dialect(
        ids=("streamId",),
        media="playAudio",
        mark="checkpoint",
        clear="clearAudio",
        flat_mark=True,
        names_format=True,
        end="stop",
    ),
    header="x-vobiz-signature",
    api="https://api.vobiz.ai/api/v1",
)
