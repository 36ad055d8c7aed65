"""Every file of the corpus is wrong, and its golden message says why."""

from pathlib import Path

import pytest

from flowcat_server.config.load import load
from flowcat_server.errors import ConfigError

FOLDER = Path(__file__).parent.parent / "corpus" / "config" / "faulty"
FILES = sorted(path.name for path in FOLDER.glob("*.yaml"))


def test_there_are_at_least_twenty() -> None:
    assert len(FILES) >= 20
    assert {Path(name).stem for name in FILES} == {path.stem for path in FOLDER.glob("*.txt")}


@pytest.mark.parametrize("name", FILES)
def test_message(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)
    with pytest.raises(ConfigError) as caught:
        load(name, environ={}, refuse_unknown=True)
    assert str(caught.value) + "\n" == Path(name).with_suffix(".txt").read_text()
    for problem in caught.value.problems:
        assert problem.file == name
        assert problem.line >= 1
        assert problem.column >= 1
