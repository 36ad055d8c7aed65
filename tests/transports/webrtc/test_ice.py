from __future__ import annotations

import errno
import socket

import pytest

from flowcat_server.transports.webrtc import ice
from flowcat_server.transports.webrtc.ice import (
    IcePolicy,
    PortRange,
    addresses_to_bind,
    bind_udp,
)


class Adapter:
    def __init__(self, name: str, *ips: str) -> None:
        self.name = name
        self.ips = [IP(ip) for ip in ips]


class IP:
    def __init__(self, text: str) -> None:
        # As ifaddr has it: IPv6 is a tuple with flow and scope.
        self.ip = (text, 0, 0) if ":" in text else text


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> list[Adapter]:
    adapters = [Adapter("lo", "127.0.0.1", "::1")]
    monkeypatch.setattr(ice.ifaddr, "get_adapters", lambda: adapters)
    return adapters


def test_every_address_of_the_host_but_container_bridges(host: list[Adapter]) -> None:
    host.append(Adapter("eth0", "192.0.2.2", "fd00::2", "fe80::1"))
    host.append(Adapter("docker0", "172.17.0.1"))
    host.append(Adapter("br-0123456789ab", "172.18.0.1"))
    assert addresses_to_bind(IcePolicy()) == ["192.0.2.2", "fd00::2"]


def test_a_bridge_is_better_than_nothing(host: list[Adapter]) -> None:
    host.append(Adapter("docker0", "172.17.0.1"))
    assert addresses_to_bind(IcePolicy()) == ["172.17.0.1"]


def test_a_host_with_nothing_but_loopback_uses_it(host: list[Adapter]) -> None:
    assert addresses_to_bind(IcePolicy()) == ["127.0.0.1"]


def test_a_local_peer_gets_loopback_too(host: list[Adapter]) -> None:
    host.append(Adapter("eth0", "192.0.2.2"))
    assert addresses_to_bind(IcePolicy(loopback=True)) == ["192.0.2.2", "127.0.0.1"]


def test_the_bind_list_is_final(host: list[Adapter]) -> None:
    host.append(Adapter("eth0", "192.0.2.2"))
    policy = IcePolicy(bind_ips=("10.0.0.5",), advertise_ip="203.0.113.7", loopback=True)
    assert addresses_to_bind(policy) == ["10.0.0.5"]


@pytest.mark.parametrize(
    ("advertised", "bound"),
    [("192.0.2.2", "192.0.2.2"), ("203.0.113.7", "0.0.0.0"), ("127.0.0.1", "0.0.0.0"),
     ("2001:db8::1", "::")],
    ids=["our own", "a NAT's", "the container's host", "IPv6"],
)  # fmt: skip
def test_an_advertised_address_chooses_the_socket(
    host: list[Adapter], advertised: str, bound: str
) -> None:
    host.append(Adapter("eth0", "192.0.2.2"))
    assert addresses_to_bind(IcePolicy(advertise_ip=advertised)) == [bound]


@pytest.mark.parametrize("text", ["", "10000", "10100-10000", "0-5", "60000-70000", "a-b"])
def test_a_wrong_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="port range"):
        PortRange(text)


def test_ports_are_handed_out_in_turn() -> None:
    ports = PortRange("10000-10002")
    first = [next(iter(ports)) for _ in range(4)]
    assert first == [10_000, 10_001, 10_002, 10_000]


def test_a_port_belongs_to_one_call_only() -> None:
    ports = PortRange("47320-47321")
    sockets = [bind_udp("127.0.0.1", ports) for _ in range(2)]
    try:
        assert {sock.getsockname()[1] for sock in sockets} == {47_320, 47_321}
        assert not any(sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) for sock in sockets)
        with pytest.raises(OSError, match="no free port") as error:
            bind_udp("127.0.0.1", ports)
        assert error.value.errno == errno.EADDRINUSE
    finally:
        for sock in sockets:
            sock.close()
