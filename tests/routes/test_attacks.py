"""Eight attacks on every carrier's doors: each cell of the table is tried, or says why not.

A carrier is attacked where it lets calls in: at its webhook and then at its media socket, or,
where it asks no webhook, at the socket's handshake.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from flowcat_server import carriers
from tests.fakes import genesys
from tests.fakes.audiosocket import listening
from tests.fakes.doors import ECHO, PUBLIC, Doors, doors
from tests.fakes.peers import PEERS, SWITCHES, Asked, Peer, Place, media, path_of, ring, send
from tests.routes.test_audiosocket import connected

POLICY_VIOLATION = 1008
EVIL = "evil.example"
ALLOWED = "192.0.2.7"
FORWARDED = {
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": EVIL,
    "X-Forwarded-For": ALLOWED,
    "X-Real-IP": ALLOWED,
    "Forwarded": f"for={ALLOWED};host={EVIL};proto=https",
}
"""What only a proxy that we trust may say."""

WEBHOOKS: Mapping[str, Peer] = {peer.name: peer for peer in PEERS}
HANDSHAKES: Mapping[str, Peer] = {peer.name: peer for peer in SWITCHES}

PASSWORD = "a password proves who asks, and covers nothing of what is asked"
BODY = "its signature covers time and body, and not the address"
BARE = "a TCP connection of bare frames: no header, no address and no token, only where it is from"
NOT_APPLICABLE: Mapping[str, Mapping[str, str]] = {
    "replayed": {
        **dict.fromkeys(("cloudonix", "exotel", "bandwidth", "asterisk", "freeswitch"), PASSWORD),
        "audiosocket": BARE,
    },
    "wrong port": {
        **dict.fromkeys(("cloudonix", "exotel", "bandwidth", "asterisk", "freeswitch"), PASSWORD),
        **dict.fromkeys(("telnyx", "vonage", "jambonz"), BODY),
        "audiosocket": BARE,
    },
    "proxy-rewritten": {"audiosocket": BARE},
    "token reuse": {"audiosocket": BARE},
    "foreign call id": {"audiosocket": BARE},
    "expired": {"audiosocket": BARE},
    "other carrier's token": {"audiosocket": BARE},
}
Attack = Callable[[Path, str], Awaitable[None]]


# --- helpers --------------------------------------------------------------------------------------


async def place_of(house: Doors, peer: Peer, call: str) -> Place:
    """Where a call goes whose webhook is as it should be."""
    rung = await ring(house, peer, call)
    assert rung.status == 200, rung
    return peer.place(rung.text)


async def turned_away(house: Doors, asked: Asked, headers: Mapping[str, str]) -> None:
    """A webhook gets nowhere, and costs no place."""
    before = house.calls.count
    rung = await send(house, asked, headers)
    assert rung.status in (401, 403), rung
    assert house.calls.count == before


async def no_upgrade(house: Doors, path: str, headers: Mapping[str, str]) -> None:
    """A handshake gets nowhere."""
    with pytest.raises(aiohttp.WSServerHandshakeError) as error:
        await house.client.ws_connect(house.url + path, headers=headers)
    assert error.value.status in (401, 403)
    assert house.calls.count == 0


async def closed_out(house: Doors, peer: Peer, call: str, place: Place) -> None:
    """A media socket that is let in is shown out, and its call does not begin."""
    before = house.calls.count
    async with media(house, peer, call, place) as leg:
        assert await leg.closed() == POLICY_VIOLATION
    assert house.calls.count == before
    assert not house.calls.live


async def goes_through(house: Doors, peer: Peer, call: str, place: Place) -> None:
    """The same without an attack is a call."""
    async with media(house, peer, call, place):
        await house.settled(1)
    await house.settled(0)


def with_token(place: Place, token: str) -> Place:
    """The place with another token."""
    old = token_of(place)
    return Place(
        place.url.replace(old, token),
        {name: value.replace(old, token) for name, value in place.parameters.items()},
    )


def token_of(place: Place) -> str:
    query = urlsplit(place.url).query.partition("token=")[2]
    path = urlsplit(place.url).path.partition("/token/")[2]
    token = place.parameters.get("token") or query or path
    assert token.count(".") == 2
    return token


def switch_place(name: str, token: str) -> Place:
    """The socket of a switch that has somehow come by a token."""
    return Place(f"/telephony/ws/{name}?token={token}")


async def genesys_refused(house: Doors, token: str, call: str = genesys.CALL) -> None:
    path = f"{genesys.PATH}?token={token}"
    headers = genesys.signed(house.clock.now, path=path, nonce=f"nonce-of-{token[-20:]}-{call}")
    async with house.client.ws_connect(house.url + path, headers=headers) as socket:
        await genesys.Client(socket).open(call)
        while not socket.closed:
            message = await socket.receive(timeout=5)
            assert "opened" not in str(message.data)
    assert socket.close_code == POLICY_VIOLATION
    assert house.calls.count == 0


# --- the attacks ----------------------------------------------------------------------------------


async def unsigned(tmp_path: Path, name: str) -> None:
    """Nothing that proves who asks, or what proves somebody else."""
    if name in WEBHOOKS:
        peer = WEBHOOKS[name]
        async with doors(tmp_path, peer.yaml) as house:
            await turned_away(house, peer.webhook(peer.new_call()), {})
        async with doors(tmp_path / "others", peer.others()) as house:
            asked = peer.webhook(peer.new_call())
            await turned_away(house, asked, peer.sign(asked, PUBLIC + asked.path, house.clock.now))
    elif name in HANDSHAKES:
        peer = HANDSHAKES[name]
        for yaml, headers in ((peer.yaml, {}), (peer.others(), dict(peer.socket_headers))):
            async with doors(tmp_path, yaml) as house:
                await no_upgrade(house, f"/telephony/ws/{name}", headers)
    elif name == "genesys":
        async with doors(tmp_path, genesys.YAML) as house:
            await no_upgrade(house, genesys.PATH, {})
            forged = genesys.signed(house.clock.now, secret="b3RoZXI=")
            await no_upgrade(house, genesys.PATH, forged)
    else:
        yaml = f"{ECHO}carriers: {{audiosocket: {{allow_from: 192.0.2.0/24}}}}\n"
        async with doors(tmp_path, ECHO) as house, listening(house, yaml) as address:
            async with connected(address) as switch:
                with suppress(ConnectionError):
                    await switch.start()
                assert await switch.closed() == []
            assert house.calls.count == 0


async def replayed(tmp_path: Path, name: str) -> None:
    """What was signed and good is sent once more."""
    if name == "genesys":
        async with doors(tmp_path, genesys.YAML) as house:
            headers = genesys.signed(house.clock.now)
            async with house.client.ws_connect(house.url + genesys.PATH, headers=headers):
                pass
            await no_upgrade(house, genesys.PATH, headers)
        return
    peer = WEBHOOKS[name]
    assert peer.signed
    async with doors(tmp_path, peer.yaml) as house:
        asked = peer.webhook(peer.new_call())
        headers = peer.sign(asked, PUBLIC + asked.path, house.clock.now)
        assert (await send(house, asked, headers)).status == 200
        await turned_away(house, asked, headers)
        assert house.calls.count == 1


async def wrong_port(tmp_path: Path, name: str) -> None:
    """Signed for another port, scheme or host; the default port makes no difference."""
    if name == "genesys":
        async with doors(tmp_path, genesys.YAML) as house:
            for host in ("voice.example:8443", EVIL):
                headers = genesys.signed(house.clock.now, host=host)
                await no_upgrade(house, genesys.PATH, headers)
            headers = genesys.signed(house.clock.now, host="voice.example:443")
            async with house.client.ws_connect(house.url + genesys.PATH, headers=headers):
                pass
        return
    peer = WEBHOOKS[name]
    assert peer.covers_url
    async with doors(tmp_path, peer.yaml) as house:
        for other in ("https://voice.example:8443", "http://voice.example", f"https://{EVIL}"):
            asked = peer.webhook(peer.new_call())
            await turned_away(house, asked, peer.sign(asked, other + asked.path, house.clock.now))
        asked = peer.webhook(peer.new_call())
        headers = peer.sign(asked, "https://voice.example:443" + asked.path, house.clock.now)
        assert (await send(house, asked, headers)).status == 200


async def proxy_rewritten(tmp_path: Path, name: str) -> None:
    """Headers of a proxy that nobody trusts: they change neither who asks nor who we are."""
    trusted = "server: {trusted_proxies: [127.0.0.1]}\n"
    if name == "genesys":
        yaml = genesys.YAML.partition("server:")[0]
        headers = {**genesys.signed(0.0, host=EVIL), **FORWARDED}
        async with doors(tmp_path, yaml) as house:
            headers |= genesys.signed(house.clock.now, host=EVIL)
            await no_upgrade(house, genesys.PATH, headers)
        async with (
            doors(tmp_path, yaml + trusted) as house,
            house.client.ws_connect(house.url + genesys.PATH, headers=headers),
        ):
            pass
        return
    peer = WEBHOOKS.get(name) or HANDSHAKES[name]
    yaml = peer.yaml.partition("server:")[0]
    fenced = yaml.replace(peer.block, f"{peer.block}, allow_from: ['{ALLOWED}']")
    if name in HANDSHAKES:
        place = Place(f"/telephony/ws/{name}")
        headers = {**peer.socket_headers, **FORWARDED}
        async with doors(tmp_path, fenced) as house:
            await no_upgrade(house, path_of(place), headers)
        async with (
            doors(tmp_path, fenced + trusted) as house,
            media(house, peer, peer.new_call(), place, headers),
        ):
            await house.settled(1)
        return
    asked = peer.webhook(peer.new_call())
    async with doors(tmp_path, fenced) as house:  # the address is not believed
        signed = peer.sign(asked, house.url + asked.path, house.clock.now)
        await turned_away(house, asked, {**signed, **FORWARDED})
    async with doors(tmp_path, yaml) as house:  # nor is the host
        if peer.covers_url:
            signed = peer.sign(asked, f"https://{EVIL}{asked.path}", house.clock.now)
            await turned_away(house, asked, {**signed, **FORWARDED})
        signed = peer.sign(asked, house.url + asked.path, house.clock.now)
        rung = await send(house, asked, {**signed, **FORWARDED})
        assert rung.status == 200
        assert peer.place(rung.text).url.startswith(house.url.replace("http", "ws"))
        assert EVIL not in rung.text
    async with doors(tmp_path, fenced + trusted) as house:
        signed = peer.sign(asked, f"https://{EVIL}{asked.path}", house.clock.now)
        rung = await send(house, asked, {**signed, **FORWARDED})
        assert rung.status == 200
        assert peer.place(rung.text).url.startswith(f"wss://{EVIL}/")


async def token_reuse(tmp_path: Path, name: str) -> None:
    """A socket comes with a token that has been used."""
    if name == "genesys":
        async with doors(tmp_path, genesys.YAML) as house:
            token = house.tokens.mint(name, genesys.CALL)
            await house.tokens.consume(token, name, genesys.CALL)
            await genesys_refused(house, token)
        return
    peer = WEBHOOKS.get(name) or HANDSHAKES[name]
    async with doors(tmp_path, peer.yaml) as house:
        call = peer.new_call()
        if name in WEBHOOKS:
            place = await place_of(house, peer, call)
        else:
            place = switch_place(name, house.tokens.mint(name, call))
        await goes_through(house, peer, call, place)
        await closed_out(house, peer, call, place)


async def foreign_call_id(tmp_path: Path, name: str) -> None:
    """A socket names a call that is not its token's; the token survives for the right one."""
    if name == "genesys":
        async with doors(tmp_path, genesys.YAML) as house:
            await genesys_refused(house, house.tokens.mint(name, "another call"))
            headers = genesys.signed(house.clock.now)
            async with house.client.ws_connect(house.url + genesys.PATH, headers=headers) as socket:
                client = genesys.Client(socket)
                await client.open(organization="somebody else")
                assert (await client.expect("disconnect"))["parameters"] == {"reason": "error"}
            assert house.calls.count == 0
        return
    peer = WEBHOOKS.get(name) or HANDSHAKES[name]
    async with doors(tmp_path, peer.yaml) as house:
        call, other = peer.new_call(), peer.new_call()
        if name in WEBHOOKS:
            place = await place_of(house, peer, call)
            await place_of(house, peer, other)
        else:
            place = switch_place(name, house.tokens.mint(name, call))
        await closed_out(house, peer, other, place)
        await goes_through(house, peer, call, place)


async def expired(tmp_path: Path, name: str) -> None:
    """A token that is a minute old; a signature with a time that is five minutes off."""
    if name == "genesys":
        async with doors(tmp_path, genesys.YAML) as house:
            for late in (11, -4):
                await no_upgrade(house, genesys.PATH, genesys.signed(house.clock.now - late))
            token = house.tokens.mint(name, genesys.CALL)
            house.clock.now += 61
            await genesys_refused(house, token)
        return
    peer = WEBHOOKS.get(name) or HANDSHAKES[name]
    async with doors(tmp_path, peer.yaml) as house:
        call = peer.new_call()
        if name in WEBHOOKS:
            place = await place_of(house, peer, call)
        else:
            place = switch_place(name, house.tokens.mint(name, call))
        house.clock.now += 61
        await closed_out(house, peer, call, place)
        if peer.dated:
            for age in (301, -301):
                asked = peer.webhook(peer.new_call())
                headers = peer.sign(asked, PUBLIC + asked.path, house.clock.now - age)
                await turned_away(house, asked, headers)


async def other_carriers_token(tmp_path: Path, name: str) -> None:
    """A token that was minted for the same call id at another carrier."""
    other = "plivo" if name == "twilio" else "twilio"
    if name == "genesys":
        async with doors(tmp_path, genesys.YAML) as house:
            await genesys_refused(house, house.tokens.mint(other, genesys.CALL))
        return
    peer = WEBHOOKS.get(name) or HANDSHAKES[name]
    async with doors(tmp_path, peer.yaml) as house:
        call = peer.new_call()
        wrong = house.tokens.mint(other, call)
        if name in WEBHOOKS:
            place = with_token(await place_of(house, peer, call), wrong)
        else:
            place = switch_place(name, wrong)
        await closed_out(house, peer, call, place)


ATTACKS: Mapping[str, Attack] = {
    "unsigned": unsigned,
    "replayed": replayed,
    "wrong port": wrong_port,
    "proxy-rewritten": proxy_rewritten,
    "token reuse": token_reuse,
    "foreign call id": foreign_call_id,
    "expired": expired,
    "other carrier's token": other_carriers_token,
}

CELLS = [
    (attack, name)
    for attack in ATTACKS
    for name in carriers.names()
    if name not in NOT_APPLICABLE.get(attack, {})
]


@pytest.mark.parametrize(("attack", "name"), CELLS)
async def test_an_attack_gets_nowhere(tmp_path: Path, attack: str, name: str):
    (tmp_path / "others").mkdir()
    await ATTACKS[attack](tmp_path, name)


def test_every_cell_is_tried_or_explained():
    explained = [(a, name) for a, names in NOT_APPLICABLE.items() for name in names]
    table = [(attack, name) for attack in ATTACKS for name in carriers.names()]
    assert sorted([*CELLS, *explained]) == sorted(table)
    assert len(table) == 8 * 14
    known: dict[str, Any] = {**WEBHOOKS, **HANDSHAKES}
    for attack, names in NOT_APPLICABLE.items():
        for name, reason in names.items():
            if reason == BARE:
                assert carriers.find(name).over == "tcp"  # type: ignore[union-attr]
            elif reason == BODY:
                assert known[name].signed
                assert not known[name].covers_url
            else:
                assert "password" in known[name].block
                assert attack in ("replayed", "wrong port")


async def test_a_password_that_is_sent_again_gets_no_second_place(tmp_path: Path):
    """What a replay can do where it cannot be told: ask about the same call again."""
    for name in ("cloudonix", "exotel", "bandwidth"):
        peer = WEBHOOKS[name]
        (tmp_path / name).mkdir()
        async with doors(tmp_path / name, peer.yaml) as house:
            call = peer.new_call()
            first = await place_of(house, peer, call)
            await place_of(house, peer, call)
            assert house.calls.count == 1
            await goes_through(house, peer, call, first)


@pytest.mark.parametrize("name", [peer.name for peer in PEERS if peer.signed and peer.covers_call])
async def test_what_was_signed_for_one_call_is_not_good_for_another(tmp_path: Path, name: str):
    peer = WEBHOOKS[name]
    async with doors(tmp_path, peer.yaml) as house:
        asked, other = peer.webhook(peer.new_call()), peer.webhook(peer.new_call())
        headers = peer.sign(asked, PUBLIC + asked.path, house.clock.now)
        await turned_away(house, other, headers)
        if asked.method == "POST":
            changed = asked.body.replace(b"15550100", b"15550101")
            await turned_away(house, replace(asked, body=changed), headers)
