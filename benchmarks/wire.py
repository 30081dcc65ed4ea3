"""What the wire format costs: `python -m benchmarks.wire` prints the us of values, ids, messages and log context.

Medians of five on one core; the floors are those of a quiet machine: a small value under 1 us each way beyond msgspec's
own time, an id about 1 us.
"""
from __future__ import annotations

import statistics
import timeit
from collections.abc import Callable

import msgspec
import numpy as np

from yadtq import log
from yadtq.codec import decode, encode
from yadtq.task import TaskMessage, decode_message, encode_message, new_task_id

LIMIT = 900_000
VALUES = {"[1, 2]": [1, 2], "(1, 2)": (1, 2), "[2**70]": [2**70], "100 x 100 floats": [[0.5] * 100] * 100,
          "100 x 100 array": [np.full((100, 100), 0.5)], "dict of 10": {f"key{n}": n for n in range(10)}}


def cost_us(call: Callable[[], object]) -> float:
    """Microseconds of one call: the median of five runs of about 50 ms."""
    timer = timeit.Timer(call)
    number = max(1, int(timer.autorange()[0] / 4))
    return statistics.median(timer.repeat(5, number)) / number * 1e6


def main() -> None:
    """Prints the table."""
    pack, unpack = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode
    print(f"{'value':<20}{'bytes':>8}{'encode us':>12}{'decode us':>12}")
    for name, value in VALUES.items():
        data = encode(value, limit=LIMIT)
        print(f"{name:<20}{len(data):>8}{cost_us(lambda v=value: encode(v, limit=LIMIT)):>12.2f}"
              f"{cost_us(lambda d=data: decode(d)):>12.2f}")
    small = pack([1, 2])
    print(f"{'msgspec alone [1, 2]':<20}{len(small):>8}{cost_us(lambda: pack([1, 2])):>12.2f}"
          f"{cost_us(lambda: unpack(small)):>12.2f}")
    message = TaskMessage(id=new_task_id(), task="addition", args=small, submitted_ms=1)
    data = encode_message(message)
    print(f"{'task message':<20}{len(data):>8}{cost_us(lambda: encode_message(message)):>12.2f}"
          f"{cost_us(lambda: decode_message(data)):>12.2f}")
    print(f"\nnew_task_id {cost_us(new_task_id):.2f} us")

    def in_context() -> None:
        with log.context(task_id=message.id, partition=2):
            pass

    print(f"log.context {cost_us(in_context):.2f} us")


if __name__ == "__main__":
    main()
