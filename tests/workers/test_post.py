"""Mail between workers, and connections that change hands with it."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from flowcat_server.core.carrier import CallStatus
from flowcat_server.workers.post import MAX_BYTES, Ended, Moved, Post, Told


@pytest.fixture
def post() -> Iterator[Post]:
    made = Post(3)
    yield made
    made.close()


@pytest.fixture
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    ends = socket.socketpair()
    yield ends
    for end in ends:
        end.close()


def test_messages_arrive_whole_in_order_and_at_one_worker(post: Post):
    told = Told.of("twilio", CallStatus("CA1", "completed"))
    for message in (Ended(), told, Moved(b"x" * 100_000, 7)):
        assert post.send(2, message)
    assert [message for message, _ in post.read(2)] == [Ended(), told, Moved(b"x" * 100_000, 7)]
    assert list(post.read(1)) == []


def test_a_connection_is_the_readers_and_the_senders_copy_may_be_closed(
    post: Post, connection: tuple[socket.socket, socket.socket]
):
    given, far = connection
    assert post.send(1, Moved(b"GET /"), given.fileno())
    given.close()
    ((message, taken),) = post.read(1)
    assert message == Moved(b"GET /")
    assert taken is not None
    with taken:
        taken.sendall(b"answer")
        assert far.recv(10) == b"answer"
        far.sendall(b"more")
        assert taken.recv(10) == b"more"


def test_what_a_dead_worker_was_given_goes_to_another(
    post: Post, connection: tuple[socket.socket, socket.socket]
):
    given, far = connection
    post.send(2, Ended())
    post.send(2, Moved(b"GET /"), given.fileno())
    given.close()
    assert post.pass_on(2, [3]) == 1
    ((_, taken),) = post.read(3)
    assert taken is not None
    with taken:
        taken.sendall(b"answer")
        assert far.recv(10) == b"answer"


def test_what_nobody_can_take_is_closed(
    post: Post, connection: tuple[socket.socket, socket.socket]
):
    given, far = connection
    post.send(2, Moved(b"GET /"), given.fileno())
    given.close()
    assert post.pass_on(2, []) == 0
    assert far.recv(10) == b""


def test_a_full_inbox_and_a_message_that_is_too_long_are_refused(post: Post):
    assert not post.send(1, Moved(b"x" * MAX_BYTES))
    sent = 0
    while post.send(1, Moved(b"x" * 10_000)):
        sent += 1
        assert sent < 10_000
    assert sent > 5
