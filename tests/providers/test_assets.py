from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from flowcat_server.errors import AssetError
from flowcat_server.providers import assets
from flowcat_server.providers.assets import Asset, locate, verify
from flowcat_server.providers.native import SETTINGS

CONTENT = b"weights"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that cannot be imported, with a data file in it."""
    directory = tmp_path / "flowcat_test_asset"
    (directory / "data").mkdir(parents=True)
    (directory / "__init__.py").write_text("raise ImportError('must not be imported')")
    (directory / "data" / "model.bin").write_bytes(CONTENT)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(assets, "_verified", {})
    return directory


def asset(path: str = "data/model.bin", content: bytes = CONTENT) -> Asset:
    digest = hashlib.sha256(content).hexdigest()
    return Asset("flowcat_test_asset", path, digest, "test-asset==1.2.3")


def test_a_file_is_found_without_importing_its_package(package: Path) -> None:
    assert verify(asset()) == package / "data" / "model.bin"


def test_another_file_is_refused_and_the_error_says_what_to_reinstall(package: Path) -> None:
    (package / "data" / "model.bin").write_bytes(b"someone else's weights")
    with pytest.raises(AssetError, match=r"--force-reinstall.*test-asset==1\.2\.3"):
        verify(asset())


def test_a_refused_file_is_looked_at_again(package: Path) -> None:
    file = package / "data" / "model.bin"
    file.write_bytes(b"cut")
    with pytest.raises(AssetError):
        verify(asset())
    file.write_bytes(CONTENT)
    assert verify(asset()) == file


def test_a_file_is_read_once_per_process(package: Path) -> None:
    verify(asset())
    (package / "data" / "model.bin").write_bytes(b"changed since")
    assert verify(asset()) == package / "data" / "model.bin"


@pytest.mark.parametrize(
    "missing",
    [asset("data/absent.bin"), Asset("flowcat_no_such_package", "x", "", "test-asset==1.2.3")],
    ids=["file", "package"],
)
def test_what_is_absent_is_named_with_its_installation(package: Path, missing: Asset) -> None:
    with pytest.raises(AssetError, match=r"not installed: pip install 'test-asset==1\.2\.3'"):
        locate(missing)


def test_native_threads_are_limited_without_importing_anything_heavy() -> None:
    script = (
        "import os, sys\n"
        "from flowcat_server.providers.native import configure_libraries\n"
        "assert configure_libraries()\n"
        "assert 'numpy' not in sys.modules and 'asyncio' not in sys.modules\n"
        "print(os.environ['OPENBLAS_NUM_THREADS'], os.environ['OMP_NUM_THREADS'])\n"
    )
    root = Path(assets.__file__).parents[2]
    environment = {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "3"}
    found = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    # What the user has set stays.
    assert found.stdout.split() == ["1", "3"]
    assert "OMP_NUM_THREADS" in SETTINGS
