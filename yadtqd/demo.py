"""`python -m yadtqd.demo`: the main job on real input, told line by line. `./setup.sh demo` starts what it needs first.

The input is this installation itself: the sizes of its files, and how often words occur in its texts. Every result is
checked against plain Python or numpy, so the transcript ends with what was proved, and the exit status says whether it
was. In the middle of a run a worker is killed with SIGKILL; the run must not notice.
"""
from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, pairwise
from math import prod
from pathlib import Path
from typing import Any

from rich.console import Console

from yadtq import TaskStatus, YADTQClient
from yadtq.config import Settings
from yadtq.errors import YADTQError
from yadtqd.control_client import ControlClient
from yadtqd.status_view import render

WAIT_S = 60.0            # a slow machine needs a few seconds for the whole demo
RUN = 20_000             # tasks in the run in which a worker is killed
MATRIX = 40              # the documents and words compared
GO_ON = (
    "./setup.sh up                        Kafka, Redis and yadtqd of this checkout, until ./setup.sh down",
    "source .yadtq/env                    yadtq, yadtqctl and the client find them",
    "yadtq submit addition 1 2 --wait     or in Python: from yadtq import YADTQClient",
    "yadtqctl top                         watch the workers",
    "docs/tasks.md                        your own task types; README.md has the rest",
)


class Demo:
    """One telling of the demo: prints each step, remembers what did not hold."""

    def __init__(self, client: YADTQClient, control: ControlClient, console: Console) -> None:
        self.client, self.control, self.console = client, control, console
        self.wrong: list[str] = []
        self.begun = time.monotonic()

    def title(self, text: str) -> None:
        """A step begins."""
        self.console.print(f"\n[bold cyan]{text}[/]")

    def say(self, text: str) -> None:
        """A line of the transcript."""
        self.console.print(f"  {text}", highlight=False, markup=False, soft_wrap=True)

    def check(self, what: str, holds: bool) -> None:
        """Note something that must hold."""
        self.say(f"{'ok  ' if holds else 'FAIL'} {what}")
        if not holds:
            self.wrong.append(what)

    def single(self, sizes: Sequence[int]) -> None:
        """Every task type, one submission each."""
        self.title(f"1. One task at a time, on the sizes of {len(sizes)} files")
        total, count, largest = sum(sizes), len(sizes), max(sizes)
        a, b = [[1, 2], [3, 4]], [[5, 6], [7, 8]]
        calls: list[tuple[str, list[Any], dict[str, Any], Any, str]] = [
            ("addition", list(sizes), {}, total, "all sizes, in bytes"),
            ("subtraction", [largest, min(sizes)], {}, largest - min(sizes), "largest less smallest"),
            ("multiplication", list(sizes[:9]), {}, prod(sizes[:9]), "of nine sizes: an exact int"),
            ("division", [total, count], {"round_to": 2}, round(total / count, 2), "mean size"),
            ("power", [largest, 5], {}, largest ** 5, "an exact int"),
            ("root", [largest ** 5, 5], {}, largest, "and back"),
            ("matrix_addition", [a, b], {}, [[6, 8], [10, 12]], ""),
            ("matrix_multiplication", [a, b], {}, [[19, 22], [43, 50]], ""),
        ]
        for task, args, kwargs, expected, note in calls:
            begun = time.monotonic()
            result = self.client.get_result(self.client.submit_task(task, args=args, kwargs=kwargs), timeout=WAIT_S)
            took_ms = (time.monotonic() - begun) * 1e3
            self.check(f"{task:<22} -> {shortened(result):<42} {took_ms:6.1f} ms  {note}", result == expected)

    def batch(self, sizes: Sequence[int]) -> None:
        """Every task type in one batch."""
        self.title("2. The same task types in one batch")
        pairs = list(pairwise(sizes))
        entries, expected = [], []
        for n, (x, y) in enumerate(islice(pairs, 200)):
            choices: list[tuple[str, list[Any], Any]] = [
                ("addition", [x, y], x + y), ("subtraction", [x, y], x - y), ("multiplication", [x, y], x * y),
                ("division", [x, y], x / y), ("power", [x, 3], x ** 3), ("root", [x ** 3, 3], x),
                ("matrix_addition", [[[x, y]], [[y, x]]], [[x + y, x + y]]),
                ("matrix_multiplication", [[[x, y]], [[y], [x]]], [[2 * x * y]])]
            task, args, value = choices[n % len(choices)]
            entries.append({"task": task, "args": args})
            expected.append(value)
        begun = time.monotonic()
        results = self.client.get_results(self.client.submit_tasks(entries), timeout=WAIT_S)
        took_ms = (time.monotonic() - begun) * 1e3
        self.check(f"{len(entries)} tasks of 8 types submitted and answered in {took_ms:.0f} ms, all as expected",
                   results == expected)

    def matrices(self, texts: Sequence[Path]) -> None:
        """A matrix product on word counts, checked against numpy."""
        import numpy as np

        self.title(f"3. Which of {len(texts)} texts are alike: word counts times their transpose, checked with numpy")
        counts = [Counter(re.findall(r"[a-z]{4,}", text.read_text(errors="replace").lower())) for text in texts]
        words = [word for word, _ in Counter(w for c in counts for w in c).most_common(MATRIX)]
        table = np.array([[c[w] for w in words] for c in counts], dtype=np.float64)
        task_id = self.client.submit_task("matrix_multiplication", args=[table, table.T.copy()])
        product = self.client.get_result(task_id, timeout=WAIT_S)
        self.check(f"{table.shape} times {table.T.shape} -> {product.shape} {product.dtype}, equal to numpy's",
                   bool(np.allclose(product, table @ table.T)))
        norms = np.sqrt(np.diag(product))
        likeness = product / np.outer(norms, norms)
        np.fill_diagonal(likeness, 0)
        i, j = divmod(int(likeness.argmax()), len(texts))
        self.say(f"     the two most alike: {texts[i].name} and {texts[j].name} (cosine {likeness[i, j]:.2f})")

    def failing(self) -> None:
        """Tasks that fail, and what the caller sees."""
        self.title("4. Tasks that fail say why")
        for task, args in (("division", [1, 0]), ("root", [-4, 2]), ("matrix_multiplication", [[[1, 2]], [[3, 4]]]),
                           ("addition", [1, "two"]), ("subtract", [3, 2])):
            task_id = self.client.submit_task(task, args=args)
            try:
                value = self.client.get_result(task_id, timeout=WAIT_S)
                self.check(f"{task}{tuple(args)} gave {value} where it should have failed", False)
            except YADTQError as error:
                status = self.client.get_task_status(task_id)
                self.check(f"{task}{tuple(args)}: {status.value}, {error}", status is TaskStatus.FAILED)

    def killed(self, sizes: Sequence[int]) -> None:
        """A worker killed with SIGKILL in the middle of a run."""
        self.title(f"5. {RUN:,} additions; a worker is killed with SIGKILL in the middle")
        pairs = [(sizes[n % len(sizes)], n) for n in range(RUN)]
        entries = [{"task": "addition", "args": list(pair)} for pair in pairs]
        begun = time.monotonic()
        with ThreadPoolExecutor(1) as pool:
            killing = pool.submit(self.kill_one, self.ended() + RUN // 4)
            results = self.client.get_results(self.client.submit_tasks(entries), timeout=WAIT_S)
            took_s = time.monotonic() - begun
            victim, successor, ended, replaced_ms = killing.result(timeout=WAIT_S)
        self.say(f"     {victim['name']} (pid {victim['pid']}) was killed when about {ended:,} had ended")
        self.check(f"{victim['name']} was replaced by pid {successor['pid']} and consumed again after "
                   f"{replaced_ms:.0f} ms", successor["pid"] != victim["pid"])
        lost = sum(r is None for r in results)
        wrong = sum(r != x + y for r, (x, y) in zip(results, pairs, strict=True))
        self.check(f"{len(results):,} results in {took_s:.2f} s ({len(results) / took_s:,.0f}/s), {lost} lost, "
                   f"{wrong} wrong", not lost and not wrong)

    def kill_one(self, after: int) -> tuple[dict[str, Any], dict[str, Any], int, float]:
        """Kill a worker once so many tasks have ended; it, its successor, the count, and the ms in between."""
        before, deadline = self.ended(), time.monotonic() + WAIT_S
        while (ended := self.ended()) < after and time.monotonic() < deadline:
            time.sleep(0.002)
        victim = next(w for w in self.workers() if w["state"] == "RUNNING")
        os.kill(victim["pid"], signal.SIGKILL)
        killed_at = time.monotonic()
        successor = self.successor(victim)
        return victim, successor, ended - before, (time.monotonic() - killed_at) * 1e3

    def ended(self) -> int:
        """How many tasks the workers that live now have ended."""
        return sum(w["done"] + w["failed"] for w in self.workers())

    def workers(self) -> list[dict[str, Any]]:
        """What the supervisor knows of its workers."""
        found: list[dict[str, Any]] = self.control.call("status")["workers"]
        return found

    def successor(self, victim: dict[str, Any]) -> dict[str, Any]:
        """Wait until the killed worker's place is taken by one that consumes."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            for worker in self.workers():
                if (worker["name"], worker["state"]) == (victim["name"], "RUNNING") and worker["pid"] != victim["pid"]:
                    return worker
            time.sleep(0.005)
        return victim


def shortened(value: object, width: int = 42) -> str:
    """A value in at most `width` characters."""
    text = str(value)
    return text if len(text) <= width else f"{text[:width - 12]}... ({len(text)} chars)"


def real_input() -> tuple[list[int], list[Path]]:
    """The sizes of the Python files of this installation that have any content, and its longest texts."""
    import yadtq
    import yadtqd

    roots = [Path(module.__file__ or ".").parent for module in (yadtq, yadtqd)]
    files = sorted({file for root in roots for file in root.rglob("*.py")})
    sizes = [size for file in files if (size := file.stat().st_size) > 1]
    texts = sorted(files, key=lambda file: -file.stat().st_size)[:MATRIX]
    return sizes, texts


def tell(settings: Settings) -> int:
    """Tell the whole demo; 0 when everything held."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    sizes, texts = real_input()
    with YADTQClient(settings.num_partitions, settings=settings) as client, \
            ControlClient(str(settings.control_socket), timeout_s=10) as control:
        demo = Demo(client, control, console)
        demo.single(sizes)
        demo.batch(sizes)
        demo.matrices(texts)
        demo.failing()
        demo.killed(sizes)
        demo.title("6. yadtqctl status")
        console.print(render(control.call("status")))
        took_s = time.monotonic() - demo.begun
    demo.title("Done")
    if demo.wrong:
        demo.say(f"{len(demo.wrong)} of the above did not hold:")
        for what in demo.wrong:
            demo.say(f"- {what}")
        return 1
    demo.say(f"Everything above held; it took {took_s:.1f} s.")
    demo.title("How to go on")
    for line in GO_ON:
        demo.say(line)
    return 0


def main() -> None:
    """Run the demo against what the environment or YADTQ_CONFIG names."""
    try:
        sys.exit(tell(Settings.load(os.environ.get("YADTQ_CONFIG"))))
    except YADTQError as error:
        print(f"demo: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
