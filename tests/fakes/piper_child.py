"""A synthesis process without a synthesizer: speaks the wire of `_wire`, obeys its text.

``python tests/fakes/piper_child.py [refuse]``. Sound is one byte pair per character of the text,
in two pieces. "die" ends the process, "fail" is refused, "hang" gives one piece and no end,
"mute" gives none; "cancelled" says which requests were cancelled, in samples.
"""

import json
import os
import sys

from flowcat_server.providers.tts._wire import HEADER, Kind, pack, unpack_header


def send(kind: Kind, request: int, payload: bytes = b"") -> None:
    sys.stdout.buffer.write(pack(kind, request, payload))
    sys.stdout.buffer.flush()


def speak(request: int, text: str, cancelled: list[int]) -> None:
    if text == "die":
        os._exit(3)
    if text == "fail":
        send(Kind.FAILED, request, b"cannot say that")
        return
    if text == "cancelled":
        send(Kind.AUDIO, request, b"".join(n.to_bytes(2, "little") for n in cancelled))
    elif text != "mute":
        words = [[word, 100 * i, 100 * i + 90] for i, word in enumerate(text.split())]
        send(Kind.WORDS, request, json.dumps(words).encode())
        send(Kind.AUDIO, request, b"\x01\x00" * (len(text) // 2))
        if text == "hang":
            return
        send(Kind.AUDIO, request, b"\x02\x00" * (len(text) - len(text) // 2))
    send(Kind.DONE, request)


def main() -> None:
    source = sys.stdin.buffer
    cancelled: list[int] = []
    while header := source.read(HEADER.size):
        length, kind, request = unpack_header(header)
        payload = source.read(length)
        if kind is Kind.SETUP and "refuse" in sys.argv:
            send(Kind.FAILED, 0, b"no such model")
            return
        if kind is Kind.SETUP:
            send(Kind.READY, 0, json.dumps({"sample_rate": 22050}).encode())
        elif kind is Kind.SPEAK:
            speak(request, json.loads(payload)["text"], cancelled)
        elif kind is Kind.CANCEL:
            cancelled.append(request)


if __name__ == "__main__":
    main()
