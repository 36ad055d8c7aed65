"""Documents, messages and signatures, judged by the vendors' own packages.

Twilio's, Plivo's, Telnyx' and Vonage's libraries judge in their carriers' own tests. What is here
needs packages that may be missing (bandwidth-sdk, jambonz-python-sdk, plivo-stream-sdk,
vobiz-python, vonage-voice): each is skipped by itself.
"""

from __future__ import annotations

import json
import time
import xml.etree.ElementTree as ET
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from flowcat_server.core.audio import MULAW_8K
from flowcat_server.core.carrier import Account, LiveCall, Request, Ringing, Started
from tests.carriers.kit import CORPUS, carrier_named
from tests.carriers.test_far_side import ACCOUNT, SECRET, met, webhook

CALL = Ringing("call-1", "+15550100", "+15550199")
URL = "wss://voice.example/telephony/ws/x?token=a&b=c"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def tree(markup: str) -> Any:
    """A document, so that two can be compared: names, attributes, text, children."""

    def walk(each: ET.Element) -> Any:
        return (each.tag, sorted(each.attrib.items()), (each.text or "").strip(),
                [walk(inner) for inner in each])  # fmt: skip

    return walk(ET.fromstring(markup))


# --- Bandwidth ------------------------------------------------------------------------------------


def test_bandwidths_documents_are_ours():
    bxml = pytest.importorskip("bandwidth.models.bxml", reason="bandwidth-sdk is not installed")
    start = bxml.StartStream(
        destination=URL,
        mode="bidirectional",
        name="flowcat",
        tracks="inbound",
        stream_params=[bxml.StreamParam(name="token", value='t<&>"')],
    )
    theirs = bxml.Response([start, bxml.StopStream(name="flowcat", wait="true"), bxml.Hangup()])
    ours = carrier_named("bandwidth").answer(Account(), CALL, URL, {"token": 't<&>"'})
    assert tree(ours.body) == tree(theirs.to_bxml())
    busy = carrier_named("bandwidth").busy(Account(), CALL)
    assert tree(busy.body) == tree(bxml.Response([bxml.Hangup()]).to_bxml())


# --- jambonz --------------------------------------------------------------------------------------


def jambonz_schema() -> Draft202012Validator:
    """The vendor's schema of a whole application."""
    jambonz = pytest.importorskip("jambonz_sdk", reason="jambonz-python-sdk is not installed")
    folder = Path(jambonz.__file__).parent / "schema"
    files = {file: json.loads(file.read_text()) for file in folder.rglob("*.schema.json")}
    registry: Registry[Any] = Registry().with_resources(
        (each["$id"], Resource.from_contents(each)) for each in files.values()
    )
    app = files[folder / "jambonz-app.schema.json"]
    return Draft202012Validator(app, registry=registry)


@pytest.mark.parametrize("options", [{}, {"sample_rate": "24000"}])
def test_jambonz_schema_takes_our_verbs(options: dict[str, str]):
    judge = jambonz_schema()
    account = Account(user="u", password="p", options=options)
    answer = carrier_named("jambonz").answer(account, CALL, URL, {"token": "t"})
    judge.validate(json.loads(answer.body))
    judge.validate(json.loads(carrier_named("jambonz").busy(account, CALL).body))
    assert list(judge.iter_errors([{"verb": "listen"}]))  # it does judge


def test_jambonz_library_finds_the_signature_good():
    signature = pytest.importorskip("jambonz_sdk._signature", reason="no jambonz-python-sdk")
    request = webhook("jambonz")
    given = request.headers["jambonz-signature"]
    assert signature.verify_signature(request.body, given, SECRET, 0)  # however old it is
    with pytest.raises(ValueError, match="failed"):
        signature.verify_signature(request.body, given, "other", 0)


# --- Vobiz ----------------------------------------------------------------------------------------


def test_vobiz_documents_are_ours():
    xml = pytest.importorskip("vobiz.xml", reason="vobiz-python is not installed")
    theirs = xml.ResponseElement()
    theirs.add(
        xml.StreamElement(
            URL, bidirectional=True, keepCallAlive=True, contentType="audio/x-mulaw;rate=8000"
        )
    )
    theirs.add(xml.HangupElement())
    ours = carrier_named("vobiz").answer(Account(), CALL, URL, {})
    assert tree(ours.body) == tree(theirs.to_string())
    busy = xml.ResponseElement()
    busy.add(xml.HangupElement(reason="busy"))
    assert tree(carrier_named("vobiz").busy(Account(), CALL).body) == tree(busy.to_string())


@pytest.mark.parametrize("query", ["", "?b=2&a=1"])
def test_a_signature_of_vobiz_library_is_good(query: str):
    vobiz = pytest.importorskip("vobiz.utils.signature_v3", reason="vobiz-python is not installed")
    url = f"https://voice.example/telephony/answer/vobiz{query}"
    form = {"CallUUID": "c", "From": "15550100", "Empty": ""}
    text = vobiz.construct_post_url(url, dict(form)).decode()
    given = vobiz.get_signature_v3(SECRET.encode(), text, "nonce").decode()
    headers = {"x-vobiz-signature-v3": given, "x-vobiz-signature-v3-nonce": "nonce"}
    request = Request("POST", url, headers, form=list(form.items()))
    verdict = carrier_named("vobiz").verify(request, ACCOUNT, int(time.time()))
    assert verdict is not None
    assert verdict.proven


def test_vobiz_library_finds_the_far_sides_signature_good():
    vobiz = pytest.importorskip("vobiz.utils.signature_v3", reason="vobiz-python is not installed")
    request = webhook("vobiz")
    assert vobiz.validate_v3_signature(
        "POST",
        request.url,
        request.headers["x-vobiz-signature-v3-nonce"],
        SECRET,
        request.headers["x-vobiz-signature-v3"],
        dict(request.form or ()),
    )


# --- Plivo's streams ------------------------------------------------------------------------------


def plivo_types() -> Any:
    """The types alone: the package imports FastAPI, which nothing here needs."""
    package = find_spec("plivo_stream")
    if package is None or package.submodule_search_locations is None:
        pytest.skip("plivo-stream-sdk is not installed")
    file = Path(package.submodule_search_locations[0]) / "types.py"
    spec = spec_from_file_location("plivo_stream_types", file)
    assert spec is not None
    assert spec.loader is not None
    types = module_from_spec(spec)
    spec.loader.exec_module(types)
    return types


def test_plivos_types_take_what_we_send_and_we_what_they_say():
    types = plivo_types()
    ours, theirs, begun = met("plivo")
    assert isinstance(begun, Started)
    types.PlayAudioEvent.model_validate_json(ours.audio(bytes(160)))
    types.CheckpointEvent.model_validate_json(ours.mark("m1") or "")
    types.ClearAudioEvent.model_validate_json(ours.clear() or "")
    (start,) = theirs.start()
    types.StartEvent.model_validate_json(start)
    types.MediaEvent.model_validate_json(theirs.say(MULAW_8K.silence(20)))


def test_plivos_types_take_what_is_recorded():
    types = plivo_types()
    kinds = {
        "start": types.StartEvent,
        "media": types.MediaEvent,
        "playedStream": types.PlayedStreamEvent,
        "clearedAudio": types.ClearedAudioEvent,
    }
    taken = 0
    for line in (CORPUS / "plivo" / "call.jsonl").read_text().splitlines():
        row = json.loads(line)
        message = row.get("message", {})
        if message.get("event") in kinds and not {"fault", "ignored"} & set(row["means"]):
            # What is recorded may say less than the types ask for: a number of its own.
            kinds[message["event"]].model_validate({"sequenceNumber": 1, **message})
            taken += 1
    assert taken >= 3


# --- Vonage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", ["8000", "16000", "24000"])
def test_vonages_models_take_our_ncco(rate: str):
    ncco = pytest.importorskip("vonage_voice.models.ncco", reason="vonage-voice is not installed")
    account = Account(options={"sample_rate": rate})
    (connect,) = json.loads(carrier_named("vonage").answer(account, CALL, URL, {"t": "x"}).body)
    (endpoint,) = connect["endpoint"]
    kind = endpoint.pop("content-type")
    given = {name: value for name, value in connect.items() if name != "endpoint"}
    model = ncco.WebsocketEndpoint.model_validate({**endpoint, "contentType": kind})
    built = ncco.Connect(
        endpoint=[model], from_=given.pop("from", None), **_without_action(given)
    ).model_dump(by_alias=True, exclude_none=True, mode="json")
    assert built == connect | {"endpoint": [{**endpoint, "content-type": kind}]}
    (talk,) = json.loads(carrier_named("vonage").busy(account, CALL).body)
    said = ncco.Talk(**_without_action(talk)).model_dump(exclude_none=True, mode="json")
    assert said == talk


def test_vonages_models_take_our_transfer():
    ncco = pytest.importorskip("vonage_voice.models.ncco", reason="vonage-voice is not installed")
    from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    key = generate_private_key(65537, 2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    account = Account(id="application", secret=pem)
    call = LiveCall("call-1", from_number="+15550199")
    request = carrier_named("vonage").transfer(account, call, "+15550111", 0)
    assert request is not None
    (connect,) = request.json["destination"]["ncco"]
    (endpoint,) = connect["endpoint"]
    built = ncco.Connect(
        endpoint=[ncco.PhoneEndpoint.model_validate(endpoint)], from_=connect["from"]
    ).model_dump(by_alias=True, exclude_none=True, mode="json")
    assert built == connect


def _without_action(action: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in action.items() if name != "action"}
