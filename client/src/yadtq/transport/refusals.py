"""Why no broker lets us in: a wrong password, a certificate that is not trusted, a port that talks no TLS.

Both libraries try again for as long as they may, and then say that nobody answered. Owns what brokers said meanwhile:
whoever opens a producer, a consumer or an administration client looks at it, gives up once every broker that it was to
ask first has refused, and tells why. While a client is open refusals are no reason to give up: a broker that starts may
not know its users yet. Filled by the libraries' threads; one object for each client that is opened.
"""
from __future__ import annotations

import re
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from yadtq.errors import KafkaConnectionError, KafkaRefused
from yadtq.options import split_server
from yadtq.tls import context, in_words, why_refused

if TYPE_CHECKING:
    from yadtq.config import Settings

SLICE_S: Final = 0.25           # how long a library is left to itself until somebody looks at what was said
PROBE_S: Final = 2.0            # for a TLS handshake of our own, where the library does not tell what is wrong
CA_OPTION: Final = "kafka_ssl_ca_file"


class Refusals:
    """What the brokers that are asked first have said against us; thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._said: dict[str, str] = {}             # by broker
        self._needed = len(settings.bootstrap)
        self.watching = True                        # until the client is open

    def note(self, broker: str, why: str) -> None:
        """A broker refused us; what else keeps it from answering is not for here (`why` is then empty)."""
        if why:
            with self._lock:
                self._said[broker] = why

    def knows(self, broker: str) -> bool:
        """Whether this broker has refused."""
        with self._lock:
            return broker in self._said

    def verdict(self) -> KafkaRefused | None:
        """The error, once all have refused."""
        with self._lock:
            return self.so_far() if len(self._said) >= self._needed else None

    def so_far(self) -> KafkaRefused | None:
        """The error, if any has refused: for when the time is over."""
        said = "; ".join(dict.fromkeys(self._said.values()))
        where = ", ".join(self._settings.bootstrap)
        return KafkaRefused(f"no connection to Kafka at {where}: {said}") if said else None

    def gone(self, why: object) -> KafkaConnectionError:
        """The error when nobody let us in within the time."""
        settings = self._settings
        plain = settings.kafka_security_protocol == "PLAINTEXT"
        hint = f"; if something listens there, it may {'want' if plain else 'talk no'} TLS or take " \
               f"{'a' if plain else 'no'} password at that port (kafka_security_protocol)"
        return self.so_far() or KafkaConnectionError(
            f"no Kafka broker of {', '.join(settings.bootstrap)} answered within "
            f"{settings.kafka_request_timeout_ms} ms ({why}){hint}")

    def password(self, said: str) -> str:
        """The words for a broker that takes neither this user nor this password."""
        settings = self._settings
        return (f"it refuses the user {settings.kafka_sasl_username!r} or the password (kafka_sasl_username, "
                f"kafka_sasl_password, {settings.kafka_sasl_mechanism}): {said}")


# ---- kafka-python ----------------------------------------------------------------------------------------------------
def watch_kafka_python(manager: Any, refusals: Refusals) -> None:
    """Note why connections of kafka-python's manager fail, and end its first connecting with the verdict, while
    `refusals` is watching. It hands connections out by one method, the only place to see each of them."""
    plain = manager.get_connection

    def get_connection(node_id: Any, *arguments: Any, **named: Any) -> Any:
        if not refusals.watching:
            manager.__dict__.pop("get_connection", None)
            return plain(node_id, *arguments, **named)
        if (verdict := refusals.verdict()) is not None:
            raise verdict
        connection = plain(node_id, *arguments, **named)
        if not hasattr(connection, "watched_by_yadtq"):
            connection.watched_by_yadtq = True
            connection.init_future.add_errback(
                lambda error: refusals.note(str(node_id), why_kafka_python(error, refusals)))
        return connection

    manager.get_connection = get_connection
    build = manager._build_transport

    async def build_transport(*arguments: Any, **named: Any) -> Any:
        transport = await build(*arguments, **named)
        _hear_out(transport)
        return transport

    manager._build_transport = build_transport


def _hear_out(transport: Any) -> None:
    """A broker that refuses a password says so and closes. The library (3.0.12) throws away what it reads together with
    the end of a connection: give it what came, and the end at its next look."""
    plain = transport._sock_recv

    def receive() -> tuple[bytes, Any]:
        data, error = plain()
        return data, None if data else error

    transport._sock_recv = receive


def why_kafka_python(error: BaseException, refusals: Refusals) -> str:
    """What a failed connection of kafka-python means, "" if it is none of these."""
    from kafka import errors

    if isinstance(error, (errors.SaslAuthenticationFailedError, errors.IllegalSaslStateError)):
        return refusals.password(str(error))
    if isinstance(error, errors.UnsupportedSaslMechanismError):
        return f"it does not take this kafka_sasl_mechanism: {error}"
    inner = next((one for one in error.args if isinstance(one, ssl.SSLError)), error)
    return why_refused(inner, CA_OPTION)


# ---- librdkafka ------------------------------------------------------------------------------------------------------
def await_librdkafka(client: Any, settings: Settings, refusals: Refusals) -> None:
    """Return when a broker has answered. Raises KafkaConnectionError in time, KafkaRefused as soon as it is certain."""
    from confluent_kafka import KafkaException

    deadline = time.monotonic() + settings.kafka_request_timeout_ms / 1000
    while True:
        left = deadline - time.monotonic()
        try:
            client.list_topics(settings.kafka_task_topic, timeout=max(0.001, min(left, SLICE_S)))
            refusals.watching = False
            return
        except KafkaException as error:
            client.poll(0)                              # has the error callback called
            verdict = refusals.verdict()
            if verdict is not None:
                raise verdict from error
            if left <= SLICE_S:
                raise refusals.gone(error.args[0].str()) from error
        time.sleep(0.01)


def note_librdkafka(error: Any, refusals: Refusals, settings: Settings) -> None:
    """One call of librdkafka's error callback."""
    from confluent_kafka import KafkaError

    broker, text = _broker_and_text(error.str())
    if refusals.knows(broker):          # they come faster than a handshake of ours takes
        return
    if error.code() == KafkaError._AUTHENTICATION:
        unsupported = "mechanism" in text and "support" in text.lower()
        refusals.note(broker, f"it does not take this kafka_sasl_mechanism: {text}" if unsupported
                      else refusals.password(text))
    elif error.code() == KafkaError._TRANSPORT:         # a broker that closes when it has seen our certificate
        refusals.note(broker, in_words(text, CA_OPTION))
    elif error.code() == KafkaError._SSL:
        refusals.note(broker, _why_no_tls(broker, settings) or _one_of_three(text))


def _broker_and_text(text: str) -> tuple[str, str]:
    """`sasl_ssl://10.0.0.1:9092/bootstrap: SASL authentication error: ...` cut in two."""
    found = re.match(r"\w+://([^/]+)/\S+: (.*)", text, re.DOTALL)
    return (found[1], found[2]) if found else ("", text)


def _one_of_three(text: str) -> str:
    """librdkafka's words when a handshake of ours got no answer: it takes these three for the same."""
    if "verify" not in text.lower():
        return in_words(text, CA_OPTION)
    return (f"its certificate is for another name, out of date, or not signed by an authority that we trust "
            f"({CA_OPTION}): {text}")


def _why_no_tls(broker: str, settings: Settings) -> str:
    """Which of them it is, tried by a handshake of ours."""
    import socket

    host, port = split_server(broker)
    try:
        with socket.create_connection((host.strip("[]"), int(port or 0)), PROBE_S) as plain, \
                context(settings, "kafka").wrap_socket(plain, server_hostname=host.strip("[]")):
            return ""
    except (OSError, ValueError) as error:
        return why_refused(error, CA_OPTION)
