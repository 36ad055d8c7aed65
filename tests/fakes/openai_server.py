"""A vendor of OpenAI's chat completions on loopback, for tests; the official SDK can drive it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tests.fakes.sse_server import Answer, Received, SseServer


def chunk(
    delta: dict[str, Any] | None = None,
    *,
    finish: str | None = None,
    usage: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """One ``chat.completion.chunk``; without `delta` and `finish`, without choices."""
    choices = []
    if delta is not None or finish:
        choices.append({"index": 0, "delta": delta or {}, "finish_reason": finish})
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_780_000_000,
        "model": "fake",
        "choices": choices,
        "usage": usage,
    }


def usage(input_tokens: int = 12, output_tokens: int = 3, cached: int = 0) -> dict[str, Any]:
    return {
        "prompt_tokens": input_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": input_tokens + output_tokens,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def sse(*chunks: dict[str, Any], done: bool = True) -> bytes:
    """Chunks as they stand in the body."""
    lines = [b"data: " + json.dumps(item).encode() + b"\n\n" for item in chunks]
    return b"".join(lines) + (b"data: [DONE]\n\n" if done else b"")


def text_reply(*pieces: str) -> Answer:
    """A reply of text, one chunk per piece."""
    chunks = [chunk({"role": "assistant", "content": ""})]
    chunks += [chunk({"content": piece}) for piece in pieces]
    chunks += [chunk(finish="stop"), chunk(usage=usage(output_tokens=len(pieces)))]
    return Answer([sse(item, done=False) for item in chunks] + [sse()])


def tool_reply(*calls: tuple[str, dict[str, Any]], text: str = "") -> Answer:
    """A reply that calls tools, their arguments in fragments."""
    chunks = [chunk({"role": "assistant", "content": text or None})]
    for index, (name, arguments) in enumerate(calls):
        whole = json.dumps(arguments)
        head = {"id": f"call_{index}", "type": "function"}
        chunks.append(
            chunk(
                {
                    "tool_calls": [
                        {"index": index, **head, "function": {"name": name, "arguments": ""}}
                    ]
                }
            )
        )
        for start in range(0, len(whole), 5):
            piece = {"arguments": whole[start : start + 5]}
            chunks.append(chunk({"tool_calls": [{"index": index, "function": piece}]}))
    chunks += [chunk(finish="tool_calls"), chunk(usage=usage())]
    return Answer([sse(item, done=False) for item in chunks] + [sse()])


def error_reply(status: int, message: str, kind: str = "", code: str | None = None) -> Answer:
    """A refusal in OpenAI's form."""
    body = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return Answer([json.dumps(body).encode()], status, "application/json")


class OpenAiServer(SseServer):
    """``POST /v1/chat/completions``; a key is only looked at when `key` is set."""

    def __init__(self, key: str = "", answers: Sequence[Answer] = ()) -> None:
        super().__init__("/v1/chat/completions")
        self.key = key
        self.answers.extend(answers)

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    def check(self, request: Received) -> Answer | None:
        given = request.headers.get("authorization", "")
        if self.key and given != f"Bearer {self.key}":
            masked = given.removeprefix("Bearer ")
            return error_reply(
                401,
                f"Incorrect API key provided: {masked}.",
                "invalid_request_error",
                "invalid_api_key",
            )
        return None
