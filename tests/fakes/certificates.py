"""Certificates, good and bad, made on the spot."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as new_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)


@dataclass
class Authority:
    """Signs certificates; its own is signed by another, or by itself."""

    name: str
    above: Authority | None = None

    @cached_property
    def key(self) -> EllipticCurvePrivateKey:
        return new_key(SECP256R1())

    @cached_property
    def certificate(self) -> x509.Certificate:
        signer = self.above or self
        return self._sign(
            self.name, self.key, signer, NOW + 300 * DAY, x509.BasicConstraints(True, None)
        )

    def _sign(
        self,
        name: str,
        key: EllipticCurvePrivateKey,
        signer: Authority,
        until: dt.datetime,
        *extensions: x509.ExtensionType,
    ) -> x509.Certificate:
        issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, signer.name)])
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - 90 * DAY)
            .not_valid_after(until)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key()), False
            )
        )
        for extension in extensions:
            builder = builder.add_extension(extension, isinstance(extension, x509.BasicConstraints))
        return builder.sign(signer.key, SHA256())

    def context(
        self,
        folder: Path,
        *,
        host: str = "127.0.0.1",
        days: int = 60,
        chain: tuple[Authority, ...] = (),
    ) -> ssl.SSLContext:
        """A server's end of TLS with a certificate for `host`; `chain` is sent with it."""
        key = new_key(SECP256R1())
        try:
            name: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            name = x509.DNSName(host)
        leaf = self._sign(host, key, self, NOW + days * DAY, x509.SubjectAlternativeName([name]))
        file = folder / f"{host}{days}{len(chain)}.pem"
        parts = [
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            leaf.public_bytes(Encoding.PEM),
            *(each.certificate.public_bytes(Encoding.PEM) for each in chain),
        ]
        file.write_bytes(b"".join(parts))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def trusted(self, folder: Path) -> Path:
        """A file for ``SSL_CERT_FILE``."""
        file = folder / "trusted.pem"
        file.write_bytes(self.certificate.public_bytes(Encoding.PEM))
        return file
