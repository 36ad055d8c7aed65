"""Genesys: the published signature, and the choice of media."""

from __future__ import annotations

from typing import Any

import pytest

from flowcat_server.carriers import genesys
from flowcat_server.core.audio import MULAW_8K, PCM_16K, AudioFormat
from flowcat_server.core.carrier import Account, Request

CARRIER = genesys.CARRIER
SECRET = "TXlTdXBlclNlY3JldEtleVRlbGxOby0xITJAMyM0JDU="
INPUT = (
    'sig1=("@request-target" "@authority" "audiohook-organization-id" "audiohook-session-id" '
    '"audiohook-correlation-id" "x-api-key");keyid="SGVsbG8sIEkgYW0gdGhlIEFQSSBrZXkh";'
    'nonce="VGhpc0lzQVVuaXF1ZU5vbmNl";alg="hmac-sha256";created=1641013200;expires=3282026430'
)
HEADERS = {
    "audiohook-organization-id": "d7934305-0972-4844-938e-9060eef73d05",
    "audiohook-session-id": "30b0e395-84d3-4570-ac13-9a62d8f514c0",
    "audiohook-correlation-id": "e160e428-53e2-487c-977d-96989bf5c99d",
    "x-api-key": "SGVsbG8sIEkgYW0gdGhlIEFQSSBrZXkh",
    "signature-input": INPUT,
    "signature": "sig1=:NZBwyBHRRyRoeLqy1IzOa9VYBuI8TgMFt2GRDkDuJh4=:",
}
URL = "wss://audiohook.example.com/api/v1/voicebiometrics/ws"


NOW = 1_641_013_205
ACCOUNT = Account(webhook_key=SECRET)


def verdict(change: dict[str, str], account: Account = ACCOUNT, now: int = NOW) -> bool:
    found = CARRIER.verify_handshake(Request("GET", URL, {**HEADERS, **change}), account, now)
    assert found is not None
    return found.proven


def test_the_published_example():
    assert verdict({})
    assert not verdict({}, now=NOW + 6)
    assert not verdict({}, now=NOW - 9)
    assert not verdict({}, Account(webhook_key="no base64!"))
    assert not verdict({}, Account(webhook_key=SECRET, options={"api_key": "other"}))
    assert not verdict({}, Account(webhook_key=SECRET, options={"organization_id": "other"}))
    for name in HEADERS:
        assert not verdict({name: HEADERS[name] + "x"}), name
        assert not verdict({name: ""}), name


@pytest.mark.parametrize(
    "given",
    [
        "sig1=()",
        "sig1",
        INPUT.replace('"@authority" ', ""),
        INPUT.replace("hmac-sha256", "none"),
        INPUT.replace(";created=1641013200", ""),
        INPUT.replace("VGhpc0lzQVVuaXF1ZU5vbmNl", "short"),
        INPUT.replace("3282026430", "1641013204"),
        INPUT + ";" * 3000,
        "\ud800",
    ],
)
def test_other_inputs_are_refused(given: str):
    assert not verdict({"signature-input": given})


def entry(channels: list[str], kind: str = "PCMU", rate: int = 8000) -> dict[str, Any]:
    return {"type": "audio", "format": kind, "channels": channels, "rate": rate}


@pytest.mark.parametrize(
    ("offered", "taken", "audio"),
    [
        ([entry(["external", "internal"]), entry(["external"])], 1, MULAW_8K),
        ([entry(["internal"]), entry(["external"])], 1, MULAW_8K),
        ([entry(["external"], "L16", 16000), entry(["external"])], 1, MULAW_8K),
        ([entry(["external"], "L16", 16000)], 0, PCM_16K),
        ([entry(["external", "internal"])], None, None),
        ([entry(["external"], "OPUS", 48000)], None, None),
        ([], None, None),
        (None, None, None),
        ([None, 5, {"channels": "external"}], None, None),
    ],
    ids=str,
)
def test_one_mono_medium_is_taken(offered: Any, taken: int | None, audio: AudioFormat | None):
    chosen, found = genesys._choose(offered)
    assert found == audio
    assert chosen == (offered[taken] if taken is not None else {})
