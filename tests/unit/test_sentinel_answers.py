"""What several Sentinels said, and what follows from it: which Redis is the primary, and whether it is alone."""
from __future__ import annotations

from typing import Any

from yadtq.redis_sentinel import REMEMBERED_S, Address, Answer, alone_at, newest, read_answer

A, B = Address("10.0.0.1", 6379), Address("10.0.0.2", 6379)


def answer(at_s: float = 100.0, epoch: int = 1, primary: Address = A, **changes: Any) -> Answer:
    about: dict[str, Any] = {"run_id": "one", "up": True, "replicas": 1, "replicas_up": 1} | changes
    return Answer(at_s, epoch, primary, **about)


def test_the_newest_configuration_wins_however_many_know_an_older_one() -> None:
    assert newest([answer(epoch=1), answer(epoch=1), answer(epoch=2, primary=B)], 100.0) == answer(epoch=2, primary=B)
    assert newest([answer(at_s=101.0), answer(at_s=100.0)], 101.0) == answer(at_s=101.0)
    assert newest([], 100.0) is None


def test_a_sentinel_that_is_silent_is_not_believed_for_ever() -> None:
    """Sentinels that were set up anew begin to count anew."""
    later = 100.0 + REMEMBERED_S + 1
    assert newest([answer(epoch=9, primary=B), answer(later, epoch=0)], later) == answer(later, epoch=0)
    assert newest([answer(epoch=9)], later) is None


def test_a_primary_is_alone_when_most_say_so_of_this_very_process() -> None:
    alone = answer(replicas_up=0)
    assert alone_at([alone, alone._replace(at_s=90.0), answer()], "one", 3) == 90.0, "since the second of three said so"
    assert alone_at([alone, answer(), answer()], "one", 3) is None
    assert alone_at([alone, alone], "two", 3) is None
    assert alone_at([alone._replace(up=False), alone, answer()], "one", 3) is None, "one that sees it no more says no"
    assert alone_at([alone], "one", 3) is None, "one of three is not most, though the others say nothing"
    assert alone_at([alone], "one", 1) == 100.0
    assert alone_at([], "", 3) is None


def flat(**fields: str) -> list[bytes]:
    return [word.encode() for pair in fields.items() for word in pair]


def test_what_the_replies_of_a_sentinel_say() -> None:
    about = flat(**{"name": "yadtq", "flags": "master", "config-epoch": "7", "runid": "abc"})
    replicas = [flat(flags="slave"), flat(flags="s_down,slave,disconnected"), flat(flags="slave,o_down")]
    said = read_answer(5.0, [b"10.0.0.1", b"6379"], about, replicas)
    assert said == Answer(5.0, 7, A, "abc", up=True, replicas=3, replicas_up=1)
    down = read_answer(5.0, [b"10.0.0.1", b"6379"], flat(flags="s_down,master"), [])
    assert down == Answer(5.0, 0, A, "", up=False, replicas=0, replicas_up=0)
