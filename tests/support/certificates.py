"""Certificates of a test's own, made by openssl: an authority, servers and clients that it signs, and a stranger.

    ca = Authority(folder)
    server = ca.sign("server", "IP:127.0.0.1,DNS:localhost")
    server.cert, server.key, server.both        # PEM files; `both` is what Kafka calls a PEM keystore
"""
from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

LOOPBACK_NAMES = "IP:127.0.0.1,DNS:localhost"
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")      # an RSA key takes a second


@dataclass(frozen=True)
class Certificate:
    """Paths of PEM files, readable by whoever runs the tests."""

    cert: Path
    key: Path

    @property
    def both(self) -> Path:
        """Key and certificate in one file."""
        path = self.cert.with_suffix(".both.pem")
        path.write_text(self.key.read_text() + self.cert.read_text())
        return path


class Authority:
    """An authority that nobody else knows."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.cert, self._key = folder / f"{name}.pem", folder / f"{name}.key"
        _openssl("req", "-x509", *_NEW_KEY, "-days", "2", "-subj", f"/CN={name} of a test", "-keyout", self._key,
                 "-out", self.cert)

    def sign(self, name: str, names: str = LOOPBACK_NAMES, days: int = 2) -> Certificate:
        """A certificate for a server with these names, or for a client."""
        made = Certificate(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        request, extension = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        extension.write_text(f"subjectAltName={names}\nextendedKeyUsage=serverAuth,clientAuth\n")
        _openssl("req", "-new", *_NEW_KEY, "-subj", f"/CN={name}", "-keyout", made.key, "-out", request)
        _openssl("x509", "-req", "-in", request, "-CA", self.cert, "-CAkey", self._key, "-CAcreateserial", "-days",
                 str(days), "-extfile", extension, "-out", made.cert)
        return made


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=30)
