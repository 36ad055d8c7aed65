"""Anthropic's Messages API on loopback, for tests; the official SDK can drive it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tests.fakes.sse_server import Answer, Received, SseServer


def event(kind: str, **fields: Any) -> bytes:
    """One event as it stands in the body."""
    data = json.dumps({"type": kind, **fields})
    return f"event: {kind}\ndata: {data}\n\n".encode()


def start(input_tokens: int = 12, cached: int = 0) -> bytes:
    return event(
        "message_start",
        message={
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "fake",
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {
                "input_tokens": input_tokens,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": cached,
                "output_tokens": 1,
            },
        },
    )


def text_block(index: int, *pieces: str) -> list[bytes]:
    return [
        event("content_block_start", index=index, content_block={"type": "text", "text": ""}),
        *(
            event("content_block_delta", index=index, delta={"type": "text_delta", "text": piece})
            for piece in pieces
        ),
        event("content_block_stop", index=index),
    ]


def tool_block(index: int, name: str, arguments: dict[str, Any]) -> list[bytes]:
    whole = json.dumps(arguments) if arguments else ""
    block = {"type": "tool_use", "id": f"toolu_{index}", "name": name, "input": {}}
    return [
        event("content_block_start", index=index, content_block=block),
        *(
            event(
                "content_block_delta",
                index=index,
                delta={"type": "input_json_delta", "partial_json": whole[at : at + 4]},
            )
            for at in range(0, len(whole), 4)
        ),
        event("content_block_stop", index=index),
    ]


def stop(reason: str = "end_turn", output_tokens: int = 5) -> list[bytes]:
    return [
        event(
            "message_delta",
            delta={"stop_reason": reason, "stop_sequence": None},
            usage={"output_tokens": output_tokens},
        ),
        event("message_stop"),
    ]


def text_reply(*pieces: str) -> Answer:
    """A reply of text, one event per piece, with a ping as the service sends them."""
    return Answer([start(), event("ping"), *text_block(0, *pieces), *stop()])


def tool_reply(name: str, arguments: dict[str, Any], text: str = "") -> Answer:
    """A reply that calls one tool, perhaps after some text."""
    blocks = text_block(0, text) if text else []
    blocks += tool_block(1 if text else 0, name, arguments)
    return Answer([start(), *blocks, *stop("tool_use")])


def error_reply(status: int, kind: str, message: str) -> Answer:
    """A refusal in Anthropic's form."""
    body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}
    return Answer([json.dumps(body).encode()], status, "application/json")


class AnthropicServer(SseServer):
    """``POST /v1/messages``; a key is only looked at when `key` is set."""

    def __init__(self, key: str = "", answers: Sequence[Answer] = ()) -> None:
        super().__init__("/v1/messages")
        self.key = key
        self.answers.extend(answers)

    def check(self, request: Received) -> Answer | None:
        version = request.headers.get("anthropic-version")
        if version not in ("2026-10-21", "2023-06-01"):
            return error_reply(400, "invalid_request_error", "anthropic-version: unknown")
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        given = bearer or request.headers.get("x-api-key", "")
        if self.key and given != self.key:
            return error_reply(401, "authentication_error", f"invalid credentials {given}")
        if version == "2026-10-21" and {"temperature", "top_p", "top_k"} & request.body.keys():
            return error_reply(400, "invalid_request_error", "temperature: not permitted")
        return None
