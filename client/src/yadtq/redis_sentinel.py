"""Asks the Sentinels which Redis is the primary, and notices when it is another.

Owns what each Sentinel said last. All are asked at the same time, each in a short-lived thread with a time limit, so
that one that is dead, frozen or cut off delays nobody; of their answers the one with the newest configuration wins
(their epoch, raised by each failover), so that a Sentinel on the wrong side of a partition misleads nobody either.
Used by any thread of a RedisClient; keeps no connection and no thread. Never talks to Redis itself.
"""
from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from yadtq.errors import ConfigurationError, RedisConnectionError, RedisRefused
from yadtq.redis_connect import connect
from yadtq.shard_calls import pack
from yadtq.tls import why_refused

if TYPE_CHECKING:
    from yadtq.config import Settings

log = logging.getLogger(__name__)

ASK_S: Final = 1.0              # what one Sentinel may take: it answers in a millisecond or is as good as dead
ASK_AGAIN_S: Final = 0.2        # between two looks while the primary is doubted
CALM_S: Final = 5.0             # a look at least so often while Redis is used: a primary that was cut off answers, too
REMEMBERED_S: Final = 15.0      # an answer counts for so long: a Sentinel that says nothing may be wrong by now
DOWN: Final = ("s_down", "o_down", "disconnected")


class Address(NamedTuple):
    """Where a Redis listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Answer(NamedTuple):
    """What a Sentinel said at `at_s` (monotonic)."""

    at_s: float
    epoch: int                  # of the configuration: raised by each failover
    primary: Address
    run_id: str                 # of the primary's process
    up: bool                    # it sees the primary
    replicas: int               # how many replicas it knows, dead ones too
    replicas_up: int            # those that it could make the primary


def newest(answers: Iterable[Answer], now: float) -> Answer | None:
    """The answer to go by: the newest configuration, of what is not too old."""
    fresh = [answer for answer in answers if now - answer.at_s <= REMEMBERED_S]
    return max(fresh, key=lambda answer: (answer.epoch, answer.at_s), default=None)


def alone_at(answers: Iterable[Answer], run_id: str, sentinels: int) -> float | None:
    """When (monotonic s) most Sentinels last saw this process as the primary, and no replica that could take over.
    None when most do not say so."""
    sure = sorted((answer.at_s for answer in answers
                   if answer.run_id == run_id and answer.up and not answer.replicas_up), reverse=True)
    needed = sentinels // 2 + 1
    return sure[needed - 1] if len(sure) >= needed else None


class Sentinels:
    """The Sentinels of one installation, seen from one process; thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._places = [Address(*place) for place in settings.sentinels]
        self._changed = threading.Condition()
        self._answers: dict[Address, Answer] = {}
        self._failures: dict[Address, Exception] = {}
        self._asked: set[Address] = set()               # those that have not answered yet
        self._look_at = self._doubted_at = float("-inf")
        self.last_primary: Address | None = None

    # ---- asking -----------------------------------------------------------------------------------------------------
    def primary(self, timeout_s: float) -> Address:
        """Where the primary is, by answers of the last second, or since it was doubted. RedisConnectionError when no
        Sentinel says so in time; RedisRefused when all answer, and refuse us or do not know the name."""
        began = time.monotonic()
        deadline = began + min(timeout_s, ASK_S)
        since = max(began - ASK_S, self._doubted_at)
        with self._changed:
            while True:
                fresh = [answer for answer in self._answers.values() if answer.at_s >= since]
                left = deadline - time.monotonic()
                if len(fresh) > len(self._places) // 2 or left <= 0:        # enough: the rest can't know better
                    break
                if not self._asked:
                    if self._look_at >= began:
                        break                                               # all have said what they had to say
                    self._ask()
                self._changed.wait(min(left, ASK_AGAIN_S))
            found = newest(fresh, time.monotonic())
            if found is not None:
                return found.primary
            raise self._nobody()

    def _nobody(self) -> RedisConnectionError:
        told = "; ".join(f"{place}: {error}" for place, error in self._failures.items()) or "no answer in time"
        failures = list(self._failures.values())
        if len(failures) == len(self._places):
            for error in failures:
                if isinstance(error, ConfigurationError):
                    raise error
            if all(isinstance(error, RedisRefused) for error in failures):
                return RedisRefused(f"no Sentinel tells where the primary {self._settings.redis_sentinel_master!r} is "
                                    f"({told})")
        return RedisConnectionError(f"no Sentinel tells where Redis is ({told})")

    def ask(self) -> None:
        """Ask all Sentinels, without waiting for them. Those that have been asked and not answered are left alone."""
        with self._changed:
            if time.monotonic() - self._look_at >= ASK_AGAIN_S:
                self._ask()

    def _ask(self) -> None:
        self._look_at = time.monotonic()
        for place in self._places:
            if place not in self._asked:
                self._asked.add(place)
                threading.Thread(target=self._ask_one, args=(place,), name="yadtq-sentinel", daemon=True).start()

    def doubt(self) -> None:
        """The primary does not do what a primary should: what was said of it so far counts no more."""
        self._doubted_at = time.monotonic()
        self.ask()

    def ask_now_and_then(self) -> None:
        """Ask if nobody has for CALM_S; for whoever uses a connection that seems well."""
        if time.monotonic() - self._look_at >= CALM_S:
            self.ask()

    def _ask_one(self, place: Address) -> None:
        """One Sentinel, in a thread of its own."""
        answer: Answer | None = None
        failure: Exception | None = None
        try:
            answer = self._answer_of(place)
        except Exception as error:  # noqa: BLE001 - whatever it is: the others are asked too, and this is told
            failure = self._translate(error)
        with self._changed:
            self._asked.discard(place)
            if answer is not None:
                self._answers[place] = answer
                self._failures.pop(place, None)
                self._note()
            elif failure is not None:
                self._failures[place] = failure
            self._changed.notify_all()

    def _answer_of(self, place: Address) -> Answer:
        name = self._settings.redis_sentinel_master
        at_s = time.monotonic()
        connection = connect(self._settings, place.host, place.port, ASK_S, sentinel=True)
        try:
            connection.send_packed_command([pack("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name)
                                            + pack("SENTINEL", "MASTER", name) + pack("SENTINEL", "REPLICAS", name)],
                                           check_health=False)
            address, *about = [connection.read_response(disable_decoding=True, timeout=ASK_S) for _ in range(3)]
        finally:
            connection.disconnect()
        if address is None:
            raise RedisRefused(f"it watches no primary called {name!r}")
        return read_answer(at_s, address, *about)

    def _translate(self, error: Exception) -> Exception:
        from redis.exceptions import AuthenticationError, AuthorizationError, NoPermissionError, ResponseError

        if refusal := why_refused(error, "redis_ssl_ca_file"):
            return RedisRefused(refusal)
        if isinstance(error, (AuthenticationError, AuthorizationError, NoPermissionError)):
            return RedisRefused(f"it refuses redis_sentinel_username or redis_sentinel_password: {error}")
        if isinstance(error, ResponseError):
            known = "No such master" in str(error)
            name = self._settings.redis_sentinel_master
            return RedisRefused(f"it watches no primary called {name!r}" if known else f"it refuses: {error}")
        return error

    def _note(self) -> None:
        """Remember who is the primary, and say so when it is another."""
        found = newest(self._answers.values(), time.monotonic())
        if found is None or found.primary == self.last_primary:
            return
        if self.last_primary is not None:
            log.warning("Redis: the primary is now %s, no longer %s", found.primary, self.last_primary)
        self.last_primary = found.primary

    # ---- what is known ----------------------------------------------------------------------------------------------
    def moved_from(self, address: Address) -> bool:
        """Whether the primary is known to be another than this one."""
        return self.last_primary is not None and self.last_primary != address

    def replicas(self) -> int:
        """How many replicas there are, dead ones included, as far as any Sentinel knows."""
        with self._changed:
            return max((answer.replicas for answer in self._answers.values()), default=0)

    def alone_at(self, run_id: str) -> float | None:
        """See the function `alone_at`."""
        with self._changed:
            return alone_at(list(self._answers.values()), run_id, len(self._places))


def read_answer(at_s: float, address: list[bytes], master: list[bytes], replicas: list[list[bytes]]) -> Answer:
    """What a Sentinel's three replies say."""
    about = _fields(master)
    others = [_flags(_fields(replica)) for replica in replicas]
    primary = Address(address[0].decode(), int(address[1]))
    return Answer(at_s, int(about.get("config-epoch", 0)), primary, about.get("runid", ""),
                  not _flags(about) & set(DOWN), len(others), sum(not flags & set(DOWN) for flags in others))


def _fields(flat: list[bytes]) -> Mapping[str, str]:
    words: list[Any] = [word.decode("utf-8", "replace") for word in flat]
    return dict(zip(words[::2], words[1::2], strict=False))


def _flags(fields: Mapping[str, str]) -> set[str]:
    return set(fields.get("flags", "").split(","))
