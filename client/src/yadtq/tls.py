"""TLS to Kafka and Redis: the one context for both, checked before anything connects, and what a failure means.

Owns how certificates are verified (always, host name included; TLS 1.2 at least) and the words for what went wrong.
Runs in whatever process connects. Contexts are kept and made anew when one of their files has changed, so that renewed
certificates are used by the next connection. Never connects, never turns verification off.
"""
from __future__ import annotations

import os
import ssl
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from yadtq.errors import ConfigurationError

if TYPE_CHECKING:
    from yadtq.config import Settings

OPTIONS: Final = ("ssl_ca_file", "ssl_cert_file", "ssl_key_file")   # of kafka_ and of redis_


def context(settings: Settings, service: str) -> ssl.SSLContext:
    """The context for connections to "kafka" or "redis". ConfigurationError names the option whose file is no good."""
    names = [f"{service}_{option}" for option in OPTIONS]
    files = tuple((name, str(getattr(settings, name))) for name in names)
    return _context(tuple((name, path, _age(name, path)) for name, path in files))


def check_files(settings: Settings) -> None:
    """Whether the files of both are there and make sense; ConfigurationError when not."""
    if settings.kafka_security_protocol.endswith("SSL"):
        context(settings, "kafka")
    if settings.redis_ssl:
        context(settings, "redis")


def _age(name: str, path: str) -> int:
    if not path:
        return 0
    try:
        return os.stat(path).st_mtime_ns
    except OSError as error:
        raise ConfigurationError(f"{name}: {path}: {error.strerror}") from error


@lru_cache(maxsize=8)
def _context(files: tuple[tuple[str, str, int], ...]) -> ssl.SSLContext:
    (ca_name, ca, _), (cert_name, cert, _), (_, key, _) = files
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)          # verifies the certificate and the host name
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca:
        _load(ca_name, ca, lambda: made.load_verify_locations(ca), "certificates in PEM form")
    else:
        made.load_default_certs()
    if cert:
        _load(cert_name, f"{cert} with {key}", lambda: made.load_cert_chain(cert, key, _no_password),
              "a certificate and the key that belongs to it, both in PEM form and the key without a password")
    return made


def _load(name: str, what: str, load: object, wanted: str) -> None:
    try:
        load()              # type: ignore[operator]
    except ssl.SSLError as error:
        raise ConfigurationError(f"{name}: {what}: holds not {wanted} ({error.reason or error})") from error
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{name}: {what}: {getattr(error, 'strerror', None) or error}") from error


def _no_password() -> str:
    """Instead of asking for one at the terminal."""
    raise ValueError("the key is protected by a password, which nobody could type in at a start")


def why_refused(error: BaseException | None, ca_option: str) -> str:
    """What a handshake that can't succeed means, in words; "" when `error` and its causes are of another kind, a
    connection that was cut off among them."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    if error is None or isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)):
        return ""
    return in_words(str(getattr(error, "verify_message", "") or error), ca_option)


_MEANINGS: Final = (                    # parts of OpenSSL's texts, the first that fits counts
    (("hostname mismatch", "ip address mismatch", "not valid for"), "its certificate is for another name"),
    (("alert certificate expired", "certificate required", "certificate_required", "alert bad certificate",
      "alert unknown ca", "alert handshake failure", "alert certificate unknown", "alert access denied"),
     "it refuses our certificate, or wants one that was not given"),
    (("expired", "not yet valid"), "its certificate is out of date"),
    (("verify", "self-signed", "self signed", "unable to get"),
     "its certificate is not signed by an authority that we trust ({ca_option})"),
    (("wrong version number", "wrong_version_number", "unknown protocol", "record layer", "http request"),
     "it talks no TLS at this port"),
    (("alert protocol version", "unsupported protocol", "no shared cipher"), "no version of TLS or cipher in common"))


def in_words(text: str, ca_option: str) -> str:
    """The same for a library that only hands on OpenSSL's text."""
    low = text.lower()
    for parts, meaning in _MEANINGS:
        if any(part in low for part in parts):
            return f"{meaning.format(ca_option=ca_option)}: {text}"
    return ""
