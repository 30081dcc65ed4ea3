"""SASL and TLS: what the settings say reaches both libraries and the administration, on a broker that insists on it;
and whoever is not let in is told why at once, not after a time-out."""
from __future__ import annotations

import gc
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.transport_support import REAL, consuming, created, producing, read, settings_of
from yadtq.errors import ConfigurationError, KafkaConnectionError, KafkaRefused
from yadtq.transport import open_admin, open_consumer, open_producer
from yadtqd.group_member import GroupMember

if TYPE_CHECKING:
    from tests.support.secure_kafka import SecureKafka
    from yadtq.config import Settings

pytestmark = [pytest.mark.integration, pytest.mark.slow]

AT_ONCE_S = 6.0                 # the settings' own patience is 10 s; 0.2 to 0.6 s on a quiet machine
PLACES = [("PLAIN", "PLAIN"), ("SASL", "SCRAM-SHA-256"), ("SASL", "SCRAM-SHA-512"), ("MUTUAL", "")]


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    """kafka-python forgets the sockets of failed handshakes; a warning each, later."""
    yield
    for thing in gc.get_objects():
        if isinstance(thing, ssl.SSLSocket):
            thing.close()


def secured(server: SecureKafka, transport: str, prefix: str, place: str = "SASL", mechanism: str = "SCRAM-SHA-512",
            **changes: Any) -> Settings:
    options = server.options(place, mechanism) | changes
    return settings_of(transport, options.pop("kafka_servers"), prefix, **options)


@pytest.mark.parametrize("transport", REAL)
@pytest.mark.parametrize(("place", "mechanism"), PLACES)
def test_records_move(transport: str, place: str, mechanism: str, secure_kafka: SecureKafka, topic_prefix: str) -> None:
    settings = created(secured(secure_kafka, transport, topic_prefix, place, mechanism))
    with producing(settings) as producer, consuming(settings, {0: 0}) as consumer:
        producer.send(settings.kafka_task_topic, 0, b"secret")
        assert [record.value for record in read(consumer, 1)] == [b"secret"]


WRONG = [
    ("SASL", {"kafka_sasl_password": "wrong"}, "it refuses the user 'yadtq' or the password"),
    ("SASL", {"kafka_sasl_username": "nobody"}, "it refuses the user 'nobody' or the password"),
    ("PLAIN", {"kafka_sasl_mechanism": "PLAIN", "kafka_sasl_password": "wrong"}, "it refuses the user 'yadtq'"),
    ("PLAIN", {}, "it does not take this kafka_sasl_mechanism"),
    ("SASL", {"kafka_ssl_ca_file": ""}, r"not signed by an authority that we trust \(kafka_ssl_ca_file\)"),
    ("MISNAMED", {}, "its certificate is for another name"),
    ("MISNAMED", {"kafka_ssl_ca_file": ""}, "not signed by an authority that we trust"),
    ("MUTUAL", {"kafka_ssl_cert_file": "", "kafka_ssl_key_file": ""}, "refuses our certificate, or wants one"),
]


@pytest.mark.parametrize("transport", REAL)
@pytest.mark.parametrize(("place", "wrong", "says"), WRONG)
def test_who_is_not_let_in_is_told_why_at_once(transport: str, place: str, wrong: dict[str, str], says: str,
                                               secure_kafka: SecureKafka, topic_prefix: str) -> None:
    settings = secured(secure_kafka, transport, topic_prefix, place, **wrong)
    for open_one in (open_producer, open_consumer, open_admin):
        start_s = time.monotonic()
        with pytest.raises(KafkaRefused, match=says) as caught:
            open_one(settings)
        assert time.monotonic() - start_s < AT_ONCE_S, open_one.__name__
        assert not caught.value.retryable
        assert "wrong" not in str(caught.value)


@pytest.mark.parametrize("transport", REAL)
def test_tls_where_there_is_none_and_none_where_it_is_wanted(transport: str, secure_kafka: SecureKafka,
                                                             topic_prefix: str) -> None:
    settings = secured(secure_kafka, transport, topic_prefix, kafka_request_timeout_ms=700)
    for open_one in (open_producer, open_consumer, open_admin):
        start_s = time.monotonic()
        with pytest.raises(KafkaConnectionError, match="it may talk no TLS"):       # it just closes
            open_one(settings.replace(kafka_servers=secure_kafka.bootstrap))
        plain = settings_of(transport, settings.kafka_servers, topic_prefix, kafka_request_timeout_ms=700)
        with pytest.raises(KafkaConnectionError, match="it may want TLS"):
            open_one(plain)
        assert time.monotonic() - start_s < 2 * AT_ONCE_S


def test_a_member_of_a_group_is_told_as_well(secure_kafka: SecureKafka, topic_prefix: str) -> None:
    settings = secured(secure_kafka, "auto", topic_prefix, kafka_sasl_password="wrong")
    member = GroupMember(settings, topic_prefix, settings.kafka_task_topic, who="test", reads=False)
    with pytest.raises(KafkaRefused, match="it refuses the user"):
        member.connect()


@pytest.mark.parametrize("transport", REAL)
def test_one_broker_that_refuses_is_no_reason_to_give_up(transport: str, secure_kafka: SecureKafka,
                                                         topic_prefix: str) -> None:
    """Of two that are asked first, one has the wrong certificate."""
    settings = secured(secure_kafka, transport, topic_prefix)
    both = settings.replace(kafka_servers=f"127.0.0.1:{secure_kafka.ports['MISNAMED']},{settings.kafka_servers}")
    for open_one in (open_producer, open_consumer, open_admin):
        for _ in range(3):              # which one is asked first is left to chance
            opened: Any = open_one(both)
            opened.close(*([0.5] if open_one is open_producer else []))


@pytest.mark.parametrize("transport", REAL)
def test_a_file_that_is_no_good_is_named(transport: str, secure_kafka: SecureKafka, topic_prefix: str,
                                         tmp_path: Path) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("nothing")
    for path, says in ((bad, "holds not certificates in PEM form"), (tmp_path / "none.pem", "No such file")):
        settings = secured(secure_kafka, transport, topic_prefix, kafka_ssl_ca_file=str(path))
        for open_one in (open_producer, open_consumer, open_admin):
            with pytest.raises(ConfigurationError, match=f"kafka_ssl_ca_file: .*{says}"):
                open_one(settings)
