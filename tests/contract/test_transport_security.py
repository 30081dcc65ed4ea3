"""SASL and TLS: what the settings say reaches both libraries and the administration, on a broker that insists on it."""
from __future__ import annotations

import gc
import ssl
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.transport_support import REAL, consuming, created, producing, read, settings_of
from tests.support.services import KafkaServer, random_free_port
from yadtq.errors import KafkaConnectionError
from yadtq.transport import open_admin, open_consumer, open_producer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from yadtq.config import Settings

pytestmark = [pytest.mark.integration, pytest.mark.slow]

USER, PASSWORD = "yadtq", "s3cret pass;word"
_LOGIN = "org.apache.kafka.common.security"


class SecureKafka(KafkaServer):
    """A broker with one more listener, SASL over TLS with a certificate of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.secure_port = random_free_port()
        self.certificate = folder / "cert.pem"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
                        "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
                        "-keyout", folder / "key.pem", "-out", self.certificate], check=True, capture_output=True)
        self.store = folder / "store.pem"
        self.store.write_text((folder / "key.pem").read_text() + self.certificate.read_text())

    def prepare(self) -> None:
        super().prepare()
        plain, secure = f"PLAINTEXT://127.0.0.1:{self.port}", f"SASL_SSL://127.0.0.1:{self.secure_port}"
        with self.config.open("a") as config:
            config.write(f"""
listeners={plain},{secure},CONTROLLER://127.0.0.1:{self.controller_port}
advertised.listeners={plain},{secure}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512
listener.name.sasl_ssl.plain.sasl.jaas.config={_LOGIN}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={_LOGIN}.scram.ScramLoginModule required;
ssl.keystore.type=PEM
ssl.keystore.location={self.store}
""")


@pytest.fixture(scope="module")
def secure_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    server = SecureKafka(tmp_path_factory.mktemp("secure"))
    server.start()
    admin: Any = open_admin(settings_of("auto", server.bootstrap, "unused"))
    admin._admin.alter_user_scram_credentials([_scram_user()])
    admin.close()
    yield server
    server.kill()


def _scram_user() -> Any:
    from kafka.admin import ScramMechanism, UserScramCredentialUpsertion

    return UserScramCredentialUpsertion(USER, ScramMechanism.SCRAM_SHA_512, PASSWORD)


def secured(server: SecureKafka, transport: str, prefix: str, mechanism: str) -> Settings:
    return settings_of(transport, f"127.0.0.1:{server.secure_port}", prefix, kafka_security_protocol="SASL_SSL",
                       kafka_sasl_mechanism=mechanism, kafka_sasl_username=USER, kafka_sasl_password=PASSWORD,
                       kafka_ssl_ca_file=str(server.certificate), kafka_request_timeout_ms=5000)


@pytest.mark.parametrize("transport", REAL)
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_records_move_over_sasl_and_tls(
        transport: str, mechanism: str, secure_kafka: SecureKafka, topic_prefix: str) -> None:
    settings = created(secured(secure_kafka, transport, topic_prefix, mechanism))
    with producing(settings) as producer, consuming(settings, {0: 0}) as consumer:
        producer.send(settings.kafka_task_topic, 0, b"secret")
        assert [record.value for record in read(consumer, 1)] == [b"secret"]


@pytest.mark.parametrize("transport", REAL)
def test_a_wrong_password_or_certificate_is_told_within_the_deadline(
        transport: str, secure_kafka: SecureKafka, topic_prefix: str) -> None:
    right = secured(secure_kafka, transport, topic_prefix, "SCRAM-SHA-512").replace(kafka_request_timeout_ms=1500)
    for wrong in (right.replace(kafka_sasl_password="wrong"), right.replace(kafka_ssl_ca_file="")):
        for open_one in (open_producer, open_consumer, open_admin):
            start_s = time.monotonic()
            with pytest.raises(KafkaConnectionError):
                open_one(wrong)
            assert time.monotonic() - start_s < 6
    for thing in gc.get_objects():  # kafka-python forgets the sockets of failed handshakes; a warning each, later
        if isinstance(thing, ssl.SSLSocket):
            thing.close()
