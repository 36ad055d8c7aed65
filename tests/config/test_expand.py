import pytest

from flowcat_server.config.expand import UnsetVariable, expand

ENVIRONMENT = {"NAME": "Ava", "EMPTY": "", "NESTED": "${NAME}"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("Hi ${NAME}!", "Hi Ava!"),
        ("${NAME}${NAME}", "AvaAva"),
        ("${EMPTY}", ""),
        ("${EMPTY:-x}", "x"),
        ("${MISSING:-}", ""),
        ("${MISSING:-a b}", "a b"),
        ("${MISSING:-${NAME}}", "Ava"),
        ("${MISSING:-{}}", "{}"),
        ("$${NAME} costs $5", "${NAME} costs $5"),
        ("$$", "$"),
        ("$NAME", "$NAME"),
        ("{{name}}", "{{name}}"),
        ("${NAME:?unused}", "Ava"),
        ("${NESTED}", "${NAME}"),
    ],
)
def test_expands(text: str, expected: str) -> None:
    assert expand(text, ENVIRONMENT) == expected


def test_unset_without_default() -> None:
    with pytest.raises(UnsetVariable, match="MISSING is not set"):
        expand("${MISSING}", {})


def test_own_message() -> None:
    with pytest.raises(UnsetVariable, match="^ask Jo$"):
        expand("${EMPTY:?ask Jo}", ENVIRONMENT)


@pytest.mark.parametrize("text", ["${", "${}", "${a b}", "${NAME-x}", "${1}", "${NAME"])
def test_malformed(text: str) -> None:
    with pytest.raises(ValueError, match="variable|closed"):
        expand(text, ENVIRONMENT)
