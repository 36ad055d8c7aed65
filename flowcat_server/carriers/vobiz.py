"""Vobiz: streams, documents and webhooks in Plivo's manner.

In, as text frames: ``start``, ``media``, ``playedStream``, ``clearedAudio`` as Plivo sends them::

    {"event":"start","start":{"callId":"..","streamId":"..",
     "mediaFormat":{"encoding":"audio/x-mulaw","sampleRate":8000}}}

Out: ``playAudio``, ``checkpoint``, ``clearAudio``, and ``stop`` before we close. Webhooks are
signed as Plivo's by the vendor's own library (``vobiz-python``), over the address without its
query by other projects' code. https://vobiz.ai/docs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from flowcat_server.carriers._json_stream import Dialect
from flowcat_server.carriers._plivo import PlivoLike
from flowcat_server.core.carrier import Request, RestRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Vobiz(PlivoLike):
    """Plivo's manner, with another signature and other credentials."""

    def signed_texts(self, request: Request, url: str) -> Iterator[str]:
        """As the vendor's library has it, and the address alone, as others have seen it."""
        yield from PlivoLike.signed_texts(self, request, url)
        yield url.partition("?")[0]

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
    unverified="which of two texts its signature covers; the API, which rests on other projects' "
    "code; byte order of L16",
    has_status=True,
    moves_calls=True,
    tells_keys=False,
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
