"""The HTTP tool against a real server: what it asks, and what nobody can make it ask."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from yarl import URL

from flowcat_server.core.agent import Agent, Profile
from flowcat_server.core.graph import Graph, Node
from flowcat_server.core.interfaces import ToolCall, ToolSpec
from flowcat_server.errors import ToolError
from flowcat_server.tools.http_request import MAX_BODY_BYTES, HttpRunner, _url
from flowcat_server.tools.toolbox import Tool, Toolbox


@dataclass
class Seen:
    """One request, as it came over the wire."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Service:
    """A web service that answers what the test wants."""

    url: str
    client: aiohttp.ClientSession
    seen: list[Seen] = field(default_factory=list)
    answer: web.Response | None = None
    hangs: bool = False
    drops: bool = False
    streams: int = 0
    """Bytes to answer in small pieces."""

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        path = request.raw_path
        self.seen.append(Seen(request.method, path, request.headers, body))
        if self.hangs:
            await asyncio.sleep(3600)
        if self.drops:
            assert request.transport is not None
            request.transport.abort()
        if self.streams:
            response = web.StreamResponse(headers={"Content-Type": "text/plain"})
            await response.prepare(request)
            for _ in range(0, self.streams, 4096):
                await response.write(b"x" * 4096)
                await asyncio.sleep(0)
            return response
        return self.answer or web.json_response({"free": ["9:00", "9:30"]})

    def tool(self, path: str = "/slots", method: str = "POST", **options: Any) -> HttpRunner:
        return HttpRunner(lambda: self.client, method, self.url + path, **options)


@pytest_asyncio.fixture
async def service() -> AsyncIterator[Service]:
    async with aiohttp.ClientSession() as client:
        made = Service("", client)
        runner = web.ServerRunner(web.Server(made.handle), shutdown_timeout=0.01)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield made
        await runner.cleanup()


# --- what is sent ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
async def test_the_arguments_are_the_body(service: Service, method: str):
    arguments = {"day": "Friday", "people": 4, "notes": None, "x": ["ü", {"a": 1.5}]}
    result = await service.tool(method=method).run(arguments, {})
    assert json.loads(result) == {"free": ["9:00", "9:30"]}
    (seen,) = service.seen
    assert (seen.method, seen.path, seen.json) == (method, "/slots", arguments)
    assert seen.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_get_and_delete_have_no_body(service: Service, method: str):
    await service.tool(method=method).run({"day": "Friday"}, {})
    (seen,) = service.seen
    assert (seen.method, seen.body) == (method, b"")
    assert "Content-Type" not in seen.headers


async def test_templates_are_filled_everywhere_and_keep_their_types(service: Service):
    tool = service.tool(
        "/d/{{args.day}}/{{run_id}}?v={{args.day}}",
        headers={"X-Caller": "{{caller_number}}", "Authorization": "Bearer k", "X-None": "{{no}}"},
        query={"n": "{{args.n}}", "all": True, "gone": "{{args.gone}}", "who": "is {{name | x}}"},
        body={
            "n": "{{args.n}}",
            "list": ["{{ args.l }}", "{{args.gone}}"],
            "text": "for {{args.n}}",
            "nested": {"flag": "{{args.flag}}", "number": 5},
        },
    )
    arguments = {"day": "2 May", "n": 4, "l": [1, {"a": 2}], "flag": False}
    await tool.run(arguments, {"run_id": "r1", "caller_number": "+1555"})
    (seen,) = service.seen
    assert URL(seen.path, encoded=True).path == "/d/2 May/r1"
    assert list(URL(seen.path, encoded=True).query.items()) == [
        ("v", "2 May"),
        ("n", "4"),
        ("all", "true"),
        ("who", "is x"),
    ]
    assert seen.headers["X-Caller"] == "+1555"
    assert seen.headers["Authorization"] == "Bearer k"
    assert seen.json == {
        "n": 4,
        "list": [[1, {"a": 2}], None],
        "text": "for 4",
        "nested": {"flag": False, "number": 5},
    }


async def test_a_content_type_of_ones_own_is_kept(service: Service):
    await service.tool(headers={"content-type": "application/vnd.x+json"}).run({}, {})
    assert service.seen[0].headers["content-type"] == "application/vnd.x+json"


# --- injection ------------------------------------------------------------------------------------

HOSTILE = [
    "../admin",
    "a/../../admin",
    "x?admin=1",
    "x#y",
    "x&admin=1",
    "%2e%2e/admin",
    "..%2fadmin",
    "@evil.example/",
    "//evil.example",
    "\\..\\admin",
    "a b\tc",
    "x\r\nX-Admin: 1",
    "{{secret}}",
    "\x00",
    "漢😀",
    '","admin":true,"x":"',
]


@pytest.mark.parametrize("value", HOSTILE)
async def test_a_hostile_value_stays_one_value(service: Service, value: str):
    tool = service.tool(
        "/users/{{args.id}}/slots",
        headers={"X-Id": "{{args.id}}"},
        query={"q": "{{args.id}}"},
        body={"id": "{{args.id}}", "text": "<{{args.id}}>"},
    )
    await tool.run({"id": value}, {"secret": "s3cret"})
    (seen,) = service.seen
    path, _, query = seen.path.partition("?")
    assert path.count("/") == 3
    assert URL(path, encoded=True).raw_parts[-1] == "slots"
    assert URL("?" + query, encoded=True).query.getall("q") == [value]
    assert seen.json == {"id": value, "text": f"<{value}>"}
    assert "X-Admin" not in seen.headers
    assert "s3cret" not in seen.path + str(seen.headers)


@pytest.mark.parametrize("value", ["", ".", "..", None], ids=repr)
@pytest.mark.parametrize("template", ["/users/{{args.id}}", "/users/{{args.id}}/x", "/{{args.id}}"])
async def test_a_value_that_would_name_another_resource_is_refused(
    service: Service, value: str | None, template: str
):
    for method in ("DELETE", "POST"):
        with pytest.raises(ToolError, match="missing or not usable"):
            await service.tool(template, method=method).run({"id": value}, {})
    with pytest.raises(ToolError):
        await service.tool(template).run({}, {})
    assert service.seen == []


async def test_pieces_that_make_dots_together_are_refused_too(service: Service):
    with pytest.raises(ToolError):
        await service.tool("/a/{{args.x}}{{args.y}}/b").run({"x": ".", "y": "."}, {})
    with pytest.raises(ToolError):
        await service.tool("/a/.{{args.x}}/b").run({"x": "."}, {})
    await service.tool("/a/{{args.x}}{{args.y}}/b").run({"x": ".", "y": "a"}, {})
    assert service.seen[0].path == "/a/.a/b"


async def test_what_the_file_itself_writes_is_not_judged(service: Service):
    await service.tool("/a//b/{{args.x | all}}/").run({}, {})
    assert service.seen[0].path == "/a//b/all/"


@given(st.text(max_size=30), st.text(max_size=30))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_value_changes_host_path_depth_or_query(one: str, two: str):
    template = "https://api.example/a/{{args.one}}/b/{{args.two}}?q={{args.one}}&r=1"
    try:
        url = URL(_url(template, {"args": {"one": one, "two": two}}))
    except ToolError:
        assert {one, two} & {"", ".", ".."}
        return
    assert (url.host, url.scheme, url.explicit_port) == ("api.example", "https", None)
    assert len(url.raw_parts) == 5
    assert (url.raw_parts[1], url.raw_parts[3]) == ("a", "b")
    assert list(url.query) == ["q", "r"]
    assert url.fragment == ""


# --- answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 307, 400, 404, 500, 503])
async def test_anything_but_success_is_told_to_the_model(service: Service, status: int):
    service.answer = web.Response(
        status=status, text="no such day" * 1000, headers={"Location": service.url + "/secret"}
    )
    with pytest.raises(ToolError) as error:
        await service.tool().run({}, {})
    assert str(error.value).startswith(f"The service answered {status}: no such day")
    assert len(str(error.value)) < 600
    assert [seen.path for seen in service.seen] == ["/slots"]  # redirects are not followed


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "text/html", "application/octet-stream", "text/plain; charset=nonsense", "x"]
    + [f"text/plain; charset={name}" for name in ("hex", "base64", "utf-8", "rot13", "zlib")],
)
async def test_text_of_any_type_is_read(service: Service, content_type: str):
    service.answer = web.Response(body="grüße".encode(), headers={"Content-Type": content_type})
    assert await service.tool().run({}, {}) == "grüße"


async def test_the_answers_own_character_set_is_used(service: Service):
    headers = {"Content-Type": "text/plain; charset=iso-8859-1"}
    service.answer = web.Response(body="grüße".encode("latin-1"), headers=headers)
    assert await service.tool().run({}, {}) == "grüße"


async def test_an_answer_in_many_pieces_is_read_whole_up_to_a_limit(service: Service):
    service.streams = 100_000
    assert len(await service.tool().run({}, {})) == 25 * 4096
    service.streams = 10 * MAX_BODY_BYTES
    assert len(await service.tool().run({}, {})) == MAX_BODY_BYTES


async def test_a_service_that_drops_the_connection(service: Service):
    service.drops = True
    with pytest.raises(ToolError, match="could not be reached"):
        await service.tool().run({}, {})


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/x", "http://no.such.host.invalid/", "nonsense", "http://[/", ""]
)
async def test_an_address_that_leads_nowhere(service: Service, url: str):
    with pytest.raises(ToolError, match="could not be reached"):
        await HttpRunner(lambda: service.client, "GET", url).run({}, {})


async def test_values_that_json_does_not_know_are_sent_as_text(service: Service):
    await service.tool(body={"when": "{{args.when}}"}).run({"when": {1, 2}.__class__}, {})
    assert service.seen[0].json == {"when": "<class 'set'>"}


async def test_a_service_that_hangs_is_left_at_the_tools_deadline(service: Service):
    service.hangs = True
    spec = ToolSpec("slots", "d")
    toolbox = Toolbox([Tool(spec, service.tool(), timeout_ms=50)])
    graph = Graph({"s": Node("s", "start", "Start", tools=("slots",))}, (), "s")
    agent = Agent(Profile("p", graph, {}, toolbox.specs))
    with pytest.raises(ToolError, match=r"No answer within 0\.05 seconds"):
        await toolbox.run(ToolCall("1", "slots", {}), agent)
