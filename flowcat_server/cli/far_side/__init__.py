"""The other end of every carrier's wire: what it asks, signs, says and hears.

`doctor` calls a running server with it, and the tests call the doors. That both ends are ours
proves nothing about a vendor: signatures and documents are judged by the vendors' own libraries in
`tests/carriers`.
"""

from __future__ import annotations

from collections.abc import Mapping

from flowcat_server.cli.far_side.asterisk import ASTERISK, FREESWITCH
from flowcat_server.cli.far_side.audiosocket import AUDIOSOCKET
from flowcat_server.cli.far_side.bandwidth import BANDWIDTH
from flowcat_server.cli.far_side.exotel import EXOTEL
from flowcat_server.cli.far_side.genesys import GENESYS
from flowcat_server.cli.far_side.jambonz import JAMBONZ
from flowcat_server.cli.far_side.model import FarSide
from flowcat_server.cli.far_side.plivo import PLIVO, VOBIZ
from flowcat_server.cli.far_side.twilio import CLOUDONIX, SIGNALWIRE, TELNYX, TWILIO
from flowcat_server.cli.far_side.vonage import VONAGE

SIDES: Mapping[str, FarSide] = {
    side.name: side
    for side in (
        ASTERISK, AUDIOSOCKET, BANDWIDTH, CLOUDONIX, EXOTEL, FREESWITCH, GENESYS, JAMBONZ, PLIVO,
        SIGNALWIRE, TELNYX, TWILIO, VOBIZ, VONAGE,
    )
}  # fmt: skip
