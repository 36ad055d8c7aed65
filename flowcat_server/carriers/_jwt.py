"""JSON Web Tokens (RFC 7519), as far as carriers need them: HS256 to check, RS256 to make."""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from flowcat_server.carriers._values import encode_json, parse_object

MAX_CHARS = 4096


def claims(token: str, secret: str) -> Mapping[str, Any] | None:
    """What a token says that was signed with HS256 and this secret; None: it was not."""
    parts = token.split(".") if len(token) <= MAX_CHARS and token.isascii() else []
    if len(parts) != 3:
        return None
    head, body, given = (_decode(part) for part in parts)
    expected = hmac.new(secret.encode(), ".".join(parts[:2]).encode(), sha256).digest()
    if not hmac.compare_digest(expected, given):
        return None
    header, said = parse_object(head), parse_object(body)
    if not isinstance(header, dict) or header.get("alg") != "HS256":
        return None
    return said if isinstance(said, dict) else None


def make(said: Mapping[str, Any], private_key: str) -> str:
    """A token signed with RS256; empty if the key is no RSA key in PEM."""
    try:
        key = load_pem_private_key(private_key.encode(), None)
    except (ValueError, TypeError):
        return ""
    if not isinstance(key, RSAPrivateKey):
        return ""
    head = _encode(encode_json({"alg": "RS256", "typ": "JWT"}).encode())
    signed = f"{head}.{_encode(encode_json(dict(said)).encode())}"
    return f"{signed}.{_encode(key.sign(signed.encode(), PKCS1v15(), SHA256()))}"


def _decode(part: str) -> bytes:
    try:
        return urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        return b""


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
