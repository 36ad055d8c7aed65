import pytest
from pydantic import BaseModel, ValidationError

from flowcat_server.config.types import (
    Duration,
    PortRange,
    Ports,
    Texts,
    format_duration,
    parse_bind,
    parse_duration,
    parse_workers,
)


class Sample(BaseModel):
    wait: Duration = 5
    ports: PortRange = None
    say: Texts = []


@pytest.mark.parametrize(
    ("written", "milliseconds"),
    [
        ("300ms", 300),
        ("8s", 8000),
        ("1.5s", 1500),
        ("10m", 600_000),
        ("2h", 7_200_000),
        ("30d", 2_592_000_000),
        (8, 8000),
        (0.25, 250),
        ("8", 8000),
        (0, 0),
        ("10 m", 600_000),
    ],
)
def test_durations_are_milliseconds(written: object, milliseconds: int) -> None:
    assert Sample.model_validate({"wait": written}).wait == milliseconds


@pytest.mark.parametrize(
    "written",
    [
        "",
        "s",
        "-1s",
        "8 parsecs",
        -1,
        True,
        None,
        [1],
        float("nan"),
        float("inf"),
        "1e9d",
        "99999d",
    ],
)
def test_not_durations(written: object) -> None:
    with pytest.raises(ValidationError):
        Sample.model_validate({"wait": written})


@pytest.mark.parametrize("milliseconds", [0, 1, 300, 1500, 8000, 600_000, 7_200_000, 86_400_000])
def test_a_duration_survives_being_written(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds)) == milliseconds


def test_port_ranges() -> None:
    assert Sample.model_validate({"ports": "10000-10100"}).ports == Ports(10000, 10100)
    assert Sample.model_validate({"ports": 5000}).ports == Ports(5000, 5000)
    assert Sample.model_validate({"ports": ""}).ports is None


@pytest.mark.parametrize("written", ["80-90", "2000-1000", "x", "1-2-3", 99999, True])
def test_not_port_ranges(written: object) -> None:
    with pytest.raises(ValidationError):
        Sample.model_validate({"ports": written})


def test_one_text_is_a_list() -> None:
    assert Sample.model_validate({"say": "Hi"}).say == ["Hi"]
    assert Sample.model_validate({"say": ["a", "b"]}).say == ["a", "b"]


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("0.0.0.0:6210", ("0.0.0.0", 6210)),
        (":6210", ("0.0.0.0", 6210)),
        ("[::1]:80", ("::1", 80)),
        ("localhost:0", ("localhost", 0)),
    ],
)
def test_bind(written: str, address: tuple[str, int]) -> None:
    assert parse_bind(written) == address


@pytest.mark.parametrize("written", ["", "host", "host:", "host:x", ":99999", "::1:80", ":²"])
def test_not_a_bind(written: str) -> None:
    with pytest.raises(ValueError, match="address:port"):
        parse_bind(written)


@pytest.mark.parametrize("written", [1, 4, 256, "auto"])
def test_numbers_of_workers(written: object) -> None:
    assert parse_workers(written) == written


@pytest.mark.parametrize("written", [0, -1, 257, 2.0, True, None, "", "2", "Auto"])
def test_not_numbers_of_workers(written: object) -> None:
    with pytest.raises(ValueError, match="must be a whole number from 1 to 256, or auto"):
        parse_workers(written)
