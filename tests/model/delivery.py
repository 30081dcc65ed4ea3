"""The core of the delivery protocol as a model: clients, Kafka's partitions, Redis, and two workers.

One step is one message or one call, so that a crash, a freeze, a hand-over or a crash of Redis may come between any
two. A frozen worker keeps what it has in memory and may thaw at any later time, when another has long taken over: that
is the zombie. Faults have a budget for each scenario, since without one there would be no end.

This module has what a state is made of, and the model's face; what happens is in delivery_client, delivery_worker and
delivery_faults, what must hold in delivery_promises. Operations in Redis are those of tests/model/operations.py, by way
of a Book.

Not here, and why: delays (wheel.py has them: the core publishes a retry straight into the task log), the order of one
key (keyed.py), who killed the worker (suspects.py). There is one shard, and a batch has one task: a real batch is
several of these steps in one, which only takes away interleavings. "On disk" is one fsync of all of Redis; a replica
that has acknowledged is the same. The look at the lease is exact here; a freeze between the look and the act is what
`without("lease")` shows.
"""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

from tests.model.book import NONE, Copy
from tests.model.checker import Step
from tests.model.rules import ALL, Rules
from tests.model.spoiled import book

T = TypeVar("T")


class Budget(NamedTuple):
    """How often something may still happen."""

    crash: int = 0          # a worker dies
    freeze: int = 0         # a worker stops, and may go on at any later time
    redis: int = 0          # Redis crashes, back to its last fsync
    wipe: int = 0           # Redis comes back empty
    unknown: int = 0        # the outcome of a produce is not known, or an acknowledgement is lost
    copies: int = 0         # somebody submits a task again
    hand_over: int = 0      # a partition moves although its owner is well
    expire: int = 0         # a record is dropped by the janitor
    repeat: int = 0         # a call of Redis is repeated, because its answer was lost
    replay: int = 0         # a dead letter is replayed


class Scenario(NamedTuple):
    """What happens in one search, beside what always may. Task 0 is the one that fails, is cancelled or replayed."""

    name: str
    budget: Budget = Budget()
    rules: Rules = ALL
    tasks: int = 1
    partitions: int = 1
    window: int = 1             # tasks that a worker holds at once
    scattered: bool = False     # copies of a submission may go to another partition
    retries: int = 0            # so often task 0 may be retried
    may_fail: bool = False      # bodies may end as KO
    letters: bool = False       # what has failed owes a dead letter
    chain: bool = False         # when task 0 has succeeded, task number `tasks` follows
    cancel: bool = False        # somebody cancels task 0
    deadline: bool = False      # task 0 may wait too long in the queue (`expires`)
    clear: bool = False         # somebody calls clear_all_tasks
    steadfast: bool = False     # ask for more than is promised: what was once read survives a crash of Redis
    about: tuple[str, ...] = () # look at these promises alone (tests/model/delivery_promises.py)


class Store(NamedTuple):
    """Redis, as it answers or as it is on disk."""

    records: tuple[int, ...]    # by task: its record's number in the book
    fences: tuple[int, ...]     # by partition
    gen: int = 0                # the clear number
    counter: int = 0            # where epochs would come from without `kafka_epochs`


# Where a task in a worker's hands stands
FETCHED, CLAIMED, BODY, ENDED, PUBLISH, DONE = "fetched", "claimed", "body", "ended", "publish", "done"
SURE, UNSURE, LOST = "sure", "unsure", "lost"       # is what Redis said of it on disk?


class Hand(NamedTuple):
    """A task in a worker's hands, from its fetch to its commit."""

    offset: int
    copy: Copy
    at: str = FETCHED
    end: str = ""               # how its attempt ended here; what Redis said in place of that, in `found`
    found: str = ""             # the state in which its record was left
    disk: str = SURE


# What a worker's process does
IDLE, STARTING, UP, FROZEN = "idle", "starting", "up", "frozen"


class Worker(NamedTuple):
    """A process; an idle one stands for whatever may take its place."""

    mode: str = IDLE
    partition: int = -1
    epoch: int = 0
    was: str = ""               # what a frozen one was doing
    position: int = 0
    hands: tuple[Hand, ...] = ()


class Story(NamedTuple):
    """What a client knows of a task, and what the checker remembers of it."""

    sent: str = "no"            # no, unknown, yes: acknowledged by Kafka
    noted: bool = False         # its QUEUED write was answered
    g: int = 0                  # the clear number that it is stamped with
    life: int = 0               # so often it was replayed
    first: tuple[str, bytes] | None = None  # the first end that could be seen
    starts: int = 0
    highest: int = -1           # the highest attempt that was started
    confirmed: bool = False     # somebody was told that it is cancelled
    cleared: bool = False       # it was there when clear_all_tasks was done
    before_wipe: bool = False   # it had ended when Redis was wiped
    dropped: bool = False       # it had ended, and its record is dropped since

    @property
    def accepted(self) -> bool:
        """Has its submission returned?"""
        return self.sent == "yes" and self.noted


class Clearing(NamedTuple):
    """How far a call of clear_all_tasks is: "" (nobody calls), ready, read, raised, deleted, done."""

    at: str = ""
    ends: tuple[int, ...] = ()


class State(NamedTuple):
    """Everything, between two steps."""

    logs: tuple[tuple[Copy, ...], ...]
    begins: tuple[int, ...]     # the first offset that is left in each log
    committed: tuple[int, ...]
    owner: tuple[int, ...]      # by partition: which worker has it, as the group sees it; -1: none
    redis: Store
    disk: Store | None          # None where Redis never crashes
    workers: tuple[Worker, ...]
    stories: tuple[Story, ...]
    left: Budget
    under_way: tuple[tuple[int, Copy], ...] = ()    # produced, and not in its log yet: partition, message
    epoch: int = 0              # the last one that Kafka gave
    letters: frozenset[Copy] = frozenset()          # the tasks of the dead letters that were written
    cancel: str = ""            # "" (nobody), ready, done
    too_late: bool = False      # task 0 has waited longer than it may
    clearing: Clearing = Clearing()
    broken: str = ""            # a promise that the last step broke


def put(items: tuple[T, ...], at: int, item: T) -> tuple[T, ...]:
    """The same with one item replaced."""
    return (*items[:at], item, *items[at + 1:])


class Setting:
    """One scenario and its book; the changes of state that several parts make."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario, self.rules, self.book = scenario, scenario.rules, book(scenario.rules)
        self.total = scenario.tasks + (1 if scenario.chain else 0)
        self.lossy = bool(scenario.budget.redis or scenario.budget.wipe)

    def start(self) -> State:
        sc = self.scenario
        parts = sc.partitions
        redis = self.empty_redis()
        return State(((),) * parts, (0,) * parts, (0,) * parts, (-1,) * parts, redis, redis if self.lossy else None,
                     (Worker(), Worker()), (Story(),) * self.total, sc.budget, cancel="ready" if sc.cancel else "",
                     clearing=Clearing("ready" if sc.clear else ""))

    def empty_redis(self) -> Store:
        return Store((NONE,) * self.total, (0,) * self.scenario.partitions)

    def append(self, state: State, partition: int, copy: Copy) -> State:
        return state._replace(logs=put(state.logs, partition, (*state.logs[partition], copy)))

    def spend(self, state: State, what: str) -> State:
        left = state.left
        return state._replace(left=left._replace(**{what: getattr(left, what) - 1}))

    def write(self, state: State, task: int, record: int) -> State:
        """Redis has this record of a task now."""
        return state._replace(redis=state.redis._replace(records=put(state.redis.records, task, record)))

    def tell(self, state: State, task: int, **changes: Any) -> State:
        """The story of a task goes on."""
        return state._replace(stories=put(state.stories, task, state.stories[task]._replace(**changes)))

    def with_worker(self, state: State, number: int, worker: Worker) -> State:
        return state._replace(workers=put(state.workers, number, worker))

    def stop(self, state: State, number: int) -> State:
        """The process is gone, or has given up; an idle one stands in its place."""
        owner = tuple(-1 if one == number else one for one in state.owner)
        return self.with_worker(state._replace(owner=owner), number, Worker())


class Delivery:
    """The model of one scenario, for the checker."""

    def __init__(self, scenario: Scenario) -> None:
        from tests.model.delivery_client import Clients
        from tests.model.delivery_faults import World
        from tests.model.delivery_promises import Promises
        from tests.model.delivery_worker import Workers

        self.setting = Setting(scenario)
        self._promises = Promises(self.setting)
        self._parts = (Clients(self.setting, self._promises), Workers(self.setting, self._promises),
                       World(self.setting))

    def start(self) -> State:
        return self.setting.start()

    def steps(self, state: State) -> Iterator[Step[State]]:
        if state.broken:
            if self._promises.counts(state.broken):
                return                  # nobody asks what comes after
            state = state._replace(broken="")
        for part in self._parts:
            yield from part.steps(state)

    def violation(self, state: State) -> str | None:
        return self._promises.violation(state)

    def owed(self, state: State) -> str | None:
        return self._promises.owed(state)
