"""What workers inherit: sockets, and a directory that no dead server leaves behind for long."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flowcat_server.errors import ConfigError
from flowcat_server.workers.team import bind, count, make_room


def test_what_a_server_that_was_killed_left_is_removed_by_the_next_one(tmp_path: Path):
    alive, held = make_room(tmp_path)
    dead, lock = make_room(tmp_path)
    (dead / "board.sqlite").touch()
    os.close(lock)  # as the kernel does with all that a process held
    stranger = tmp_path / "flowcat-notes"
    stranger.mkdir()
    new, other = make_room(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([alive, new, stranger])
    assert new.stat().st_mode & 0o777 == 0o700
    os.close(held)
    os.close(other)


def test_workers_are_a_number_or_as_many_as_there_are_cores():
    assert count(3) == 3
    assert count("auto") == len(os.sched_getaffinity(0))


def test_an_address_in_use_is_a_mistake_of_the_file():
    (taken,) = bind("server.bind", "127.0.0.1:0")
    taken.listen()
    port = taken.getsockname()[1]
    with pytest.raises(ConfigError, match=f"carriers.x: cannot listen on 127.0.0.1:{port}: "):
        bind("carriers.x", f"127.0.0.1:{port}")
    taken.close()


def test_a_name_with_several_addresses_has_one_port():
    bound = bind("server.bind", "localhost:0")
    assert len({each.getsockname()[1] for each in bound}) == 1
    for each in bound:
        each.close()
