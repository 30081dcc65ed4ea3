"""What a failed TLS session means, in words that tell what to do; the real failures are in the contract tests."""
from __future__ import annotations

import ssl

import pytest

from yadtq.tls import in_words, why_refused


@pytest.mark.parametrize(("text", "says"), [
    ("Hostname mismatch, certificate is not valid for 'kafka1'.", "another name"),
    ("IP address mismatch, certificate is not valid for '10.0.0.1'.", "another name"),
    ("self-signed certificate in certificate chain", r"authority that we trust (kafka_ssl_ca_file)"),
    ("unable to get local issuer certificate", "authority that we trust"),
    ("certificate has expired", "out of date"), ("certificate is not yet valid", "out of date"),
    ("[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate required (_ssl.c:2580)", "refuses our"),
    ("[SSL: TLSV1_ALERT_UNKNOWN_CA] tlsv1 alert unknown ca", "refuses our certificate"),
    ("[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)", "talks no TLS"),
    ("[SSL: RECORD_LAYER_FAILURE] record layer failure", "talks no TLS"),
    ("broker certificate verify failed: 0A000086", "authority that we trust"),
    ("something else", "")])
def test_texts_of_openssl(text: str, says: str) -> None:
    assert says in in_words(text, "kafka_ssl_ca_file")
    assert bool(in_words(text, "x")) == bool(says)


def test_a_connection_that_was_cut_off_is_no_refusal() -> None:
    for error in (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), ConnectionResetError(), None,
                  ssl.SSLZeroReturnError(6, "TLS/SSL connection has been closed")):
        assert why_refused(error, "x") == ""


def test_the_cause_is_found_behind_a_library_s_own_error() -> None:
    error = ConnectionError("Error 1 connecting")
    error.__context__ = ssl.SSLCertVerificationError(1, "certificate verify failed: certificate has expired")
    assert "out of date" in why_refused(error, "x")
