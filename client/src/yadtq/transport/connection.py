"""What the settings mean to each library, and what a library's errors mean to us.

Owns the mapping of brokers, SASL and TLS for kafka-python and librdkafka, the import of kafka-python without its
warnings, and the translation of errors. Runs in whatever process opens a transport. Never connects.
"""
from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from yadtq import tls
from yadtq.errors import (
    KafkaConnectionError,
    KafkaRefused,
    PayloadTooLarge,
    UnknownTopic,
    YADTQError,
)
from yadtq.transport.base import RECONNECT_MAX_MS
from yadtq.transport.library_log import quieten_kafka_python
from yadtq.transport.refusals import Refusals, watch_kafka_python

if TYPE_CHECKING:
    from yadtq.config import Settings

T = TypeVar("T")

CLIENT_ID = "yadtq"
DIRECT = "yadtq-direct"  # the kind of our socket in kafka-python's registry
METADATA_BACKOFF_MS = 20  # between two requests for kafka-python's metadata, needed or not
RETRY_BACKOFF_MS = 50  # between tries of one request; the libraries' 100 ms would be half the time of a worker's start


def import_kafka() -> ModuleType:
    """kafka-python, imported without the DeprecationWarnings that it causes (importlib.resources, on 3.11 and 3.12)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"(read_text|open_text) is deprecated", DeprecationWarning)
        import kafka
        import kafka.admin
    quieten_kafka_python()
    _register_closing_socket()
    return kafka


def _register_closing_socket() -> None:
    """Have kafka-python connect by a socket that is closed when connecting fails.

    Its own forgets it, and during an outage leaves one a second to the garbage collector, which a worker may have
    frozen. Its registry of socket kinds, meant for proxies, is the way in: the scheme of `proxy_url` picks the kind.
    """
    from kafka.net.inet import KafkaNetSocket

    if DIRECT in KafkaNetSocket._registry:
        return

    plain: Any = KafkaNetSocket.sock_connect

    class ClosingSocket(KafkaNetSocket):  # type: ignore[no-untyped-call]
        SCHEMES = (DIRECT,)

        async def sock_connect(self, net: Any, sock: Any, sockaddr: Any, timeout_at: float | None = None) -> Any:
            try:
                return await plain(self, net, sock, sockaddr, timeout_at=timeout_at)
            except BaseException:
                sock.close()
                raise


def kafka_python_config(settings: Settings) -> dict[str, Any]:
    """What kafka-python's producer, consumer and admin client have in common."""
    config: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap,
        "client_id": CLIENT_ID,
        "request_timeout_ms": settings.kafka_request_timeout_ms,
        "retry_backoff_ms": RETRY_BACKOFF_MS,
        "reconnect_backoff_ms": 50,
        "reconnect_backoff_max_ms": RECONNECT_MAX_MS,
        "security_protocol": settings.kafka_security_protocol,
        "proxy_url": f"{DIRECT}://",  # no proxy: a socket that is closed when connecting fails
    }
    if settings.kafka_security_protocol.startswith("SASL"):
        config |= {"sasl_mechanism": settings.kafka_sasl_mechanism, "sasl_plain_username": settings.kafka_sasl_username,
                   "sasl_plain_password": settings.kafka_sasl_password}
    if settings.kafka_security_protocol.endswith("SSL"):
        config["ssl_context"] = tls.context(settings, "kafka")
    return config


def connect_kafka_python(kind: Callable[..., T], settings: Settings, *, refusals: Refusals | None = None,
                         **config: Any) -> T:
    """Construct one of kafka-python's clients, which connects; KafkaConnectionError within `kafka_request_timeout_ms`,
    KafkaRefused as soon as all brokers have refused us. With `refusals` of the caller's they are noted beyond that.

    Without `api_version` the constructor waits for a broker and gives up in time (`bootstrap()` of a client made with
    it may wait for ever). What a constructor that fails leaves behind, a thread and its sockets, is ended here.
    """
    from kafka.errors import KafkaError
    from kafka.net.compat import KafkaNetClient

    made: list[Any] = []
    said = refusals or Refusals(settings)
    client_class: Any = KafkaNetClient  # untyped

    def make(**theirs: Any) -> Any:
        client = client_class(**theirs)
        made.append(client)
        watch_kafka_python(client._manager, said)
        # Neither reaches the metadata by the options of these names: topics would be created by being asked about, with
        # a retention that deletes tasks, and a client's first metadata would come 100 ms later than they could.
        client.cluster.config |= {"allow_auto_create_topics": False, "retry_backoff_ms": METADATA_BACKOFF_MS}
        return client

    settled = kafka_python_config(settings)
    try:
        return kind(**settled | {"bootstrap_timeout_ms": settings.kafka_request_timeout_ms,
                                 "kafka_client": make} | config)
    except Exception as error:
        for client in made:
            client.close()
            client._net.stop()
        if isinstance(error, KafkaError) and getattr(error, "retriable", False):
            raise said.gone(error) from error
        raise from_kafka_python(error) from error
    finally:
        said.watching = said.watching and refusals is not None


def librdkafka_config(settings: Settings) -> dict[str, Any]:
    """What librdkafka's producer and consumer have in common."""
    config: dict[str, Any] = {
        "bootstrap.servers": ",".join(settings.bootstrap),
        "client.id": CLIENT_ID,
        "security.protocol": settings.kafka_security_protocol,
        "socket.timeout.ms": max(settings.kafka_request_timeout_ms, 1500),  # it wants 1 s more than a fetch waits
        "socket.nagle.disable": True,
        "socket.keepalive.enable": True,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": RECONNECT_MAX_MS,
        "retry.backoff.ms": RETRY_BACKOFF_MS,
        "retry.backoff.max.ms": RECONNECT_MAX_MS,
        "topic.metadata.refresh.interval.ms": 60_000,
        "topic.metadata.propagation.max.ms": settings.kafka_request_timeout_ms,  # then an unknown topic is told
        "allow.auto.create.topics": False,
        "log.connection.close": False,  # brokers close idle connections; that is no news
    }
    if settings.kafka_security_protocol.startswith("SASL"):
        config |= {"sasl.mechanism": settings.kafka_sasl_mechanism, "sasl.username": settings.kafka_sasl_username,
                   "sasl.password": settings.kafka_sasl_password}
    if settings.kafka_security_protocol.endswith("SSL"):
        tls.context(settings, "kafka")  # says which file is no good
        files = {"ssl.ca.location": settings.kafka_ssl_ca_file, "ssl.key.location": settings.kafka_ssl_key_file,
                 "ssl.certificate.location": settings.kafka_ssl_cert_file}
        config |= {name: file for name, file in files.items() if file}
    return config


def from_kafka_python(error: BaseException, size: int = 0, limit: int = 0) -> YADTQError:
    """The error of ours that an error of kafka-python stands for."""
    from kafka import errors as theirs

    if isinstance(error, YADTQError):
        return error
    if isinstance(error, (theirs.MessageSizeTooLargeError, theirs.RecordListTooLargeError)):
        return PayloadTooLarge(f"Kafka refuses a record of {size} bytes: {error}", size, limit)
    if isinstance(error, (theirs.UnknownTopicOrPartitionError, theirs.InvalidTopicError)):
        return UnknownTopic(str(error))
    refusals = (theirs.BrokerResponseError, ValueError, TypeError)
    if isinstance(error, refusals) and not getattr(error, "retriable", False):
        return KafkaRefused(f"Kafka refused: {error}")
    return KafkaConnectionError(f"Kafka did not answer: {error!s:.300}")


@contextmanager
def kafka_python_errors() -> Iterator[None]:
    """Within it, errors of kafka-python come out as ours."""
    from kafka.errors import KafkaError

    try:
        yield
    except (KafkaError, OSError, RuntimeError, ValueError) as error:
        if isinstance(error, YADTQError):
            raise
        raise from_kafka_python(error) from error


def from_librdkafka(error: Any, size: int = 0, limit: int = 0) -> YADTQError:
    """The error of ours that a KafkaError of confluent_kafka stands for."""
    from confluent_kafka import KafkaError as Code

    code = error.code()
    if code in (Code.MSG_SIZE_TOO_LARGE, Code.INVALID_MSG_SIZE, Code.RECORD_LIST_TOO_LARGE):
        return PayloadTooLarge(f"Kafka refuses a record of {size} bytes: {error.str()}", size, limit)
    if code in (Code._UNKNOWN_TOPIC, Code._UNKNOWN_PARTITION, Code.UNKNOWN_TOPIC_OR_PART, Code.TOPIC_EXCEPTION):
        return UnknownTopic(error.str())
    if code == Code._AUTHENTICATION or (code > 0 and not error.retriable()):
        return KafkaRefused(f"Kafka refused: {error.str()} ({error.name()})")
    return KafkaConnectionError(f"Kafka did not answer: {error.str()} ({error.name()})")
