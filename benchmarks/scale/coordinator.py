"""Kafka's group coordinator as a simulation needs it: the classic protocol with static members, as brokers 4.x do it.

What matters is kept: a join waits until every member has joined; who waits for that is not expired; a static member
that does not join within the rebalance time-out stays, with what it last claimed; one that comes back under its name
gets its place without a rebalance; a new coordinator gives every member a session's time. Requests are handled one
after the other. What is not kept: the bytes (benchmarks.scale.costs measures them), and the log of the group.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from benchmarks.scale.clock import Clock

REQUEST_S = 50e-6               # of the coordinator's one queue, for each request
FIRST_JOIN_DELAY_S = 3.0        # group.initial.rebalance.delay.ms

Claims = dict[str, list[int]]
Reply = Callable[..., object]


class State(Enum):
    EMPTY = 0
    PREPARING = 1               # waits for joins
    COMPLETING = 2              # waits for the leader's assignment
    STABLE = 3


@dataclass
class Member:
    claims: list[int]
    incarnation: int
    seen_s: float
    joining: Reply | None = None
    syncing: Reply | None = None


@dataclass
class Coordinator:
    """One group. A request is a call, its answer a call of `reply`; both take `REQUEST_S` in the queue."""

    clock: Clock
    session_s: float
    rebalance_s: float
    members: dict[str, Member] = field(default_factory=dict)
    state: State = State.EMPTY
    generation: int = 0
    leader: str = ""
    assignment: Claims = field(default_factory=dict)
    up: bool = True
    rebalances: int = 0
    longest_rebalance_s: float = 0.0
    busy_s: float = 0.0             # the queue, in all
    _free_at: float = 0.0
    _began_s: float = 0.0
    _round: int = 0

    # ---- requests ---------------------------------------------------------------------------------------------------
    def heartbeat(self, name: str, incarnation: int, generation: int, reply: Reply) -> None:
        self._handle(self._heartbeat, name, incarnation, generation, reply)

    def _heartbeat(self, name: str, incarnation: int, generation: int, reply: Reply) -> None:
        member = self.members.get(name)
        if member is None or member.incarnation != incarnation:
            return reply("unknown")
        member.seen_s = self.clock.now_s
        if generation != self.generation:
            return reply("generation")
        return reply("rebalance" if self.state is State.PREPARING else "ok")

    def join(self, name: str, incarnation: int, claims: list[int], member_id: bool, reply: Reply) -> None:
        """`member_id`: it believes to have a place. Who has none any more is told so, and holds nothing."""
        self._handle(self._join, name, incarnation, claims, member_id, reply)

    def _join(self, name: str, incarnation: int, claims: list[int], member_id: bool, reply: Reply) -> None:
        member = self.members.get(name)
        if member is None and member_id:
            return reply("unknown")
        if member is not None and incarnation > member.incarnation and self.state is State.STABLE:
            member.incarnation, member.claims, member.seen_s = incarnation, claims, self.clock.now_s
            return reply("back", self.generation, self.assignment.get(name, []))    # no rebalance for who was just away
        if member is None:
            member = self.members[name] = Member(claims, incarnation, self.clock.now_s)
            self._watch(name, member)
        member.claims, member.incarnation, member.joining = claims, incarnation, reply
        if self.state is not State.PREPARING:
            self._prepare()
        return self._complete_if_all_joined()

    def sync(self, name: str, generation: int, assignment: Claims | None, reply: Reply) -> None:
        self._handle(self._sync, name, generation, assignment, reply)

    def _sync(self, name: str, generation: int, assignment: Claims | None, reply: Reply) -> None:
        member = self.members.get(name)
        if member is None:
            return reply("unknown", [])
        if generation != self.generation or self.state is State.PREPARING:
            return reply("rebalance", [])
        member.seen_s = self.clock.now_s
        member.syncing = reply
        if assignment is not None and self.state is State.COMPLETING:
            self.assignment, self.state = assignment, State.STABLE
            self.longest_rebalance_s = max(self.longest_rebalance_s, self.clock.now_s - self._began_s)
        if self.state is State.STABLE:
            for waiting_name, waiting in self.members.items():
                if waiting.syncing is not None:
                    waiting.seen_s = self.clock.now_s
                    self._answer(waiting.syncing, "ok", self.assignment.get(waiting_name, []))
                    waiting.syncing = None
        return None

    # ---- rebalances -------------------------------------------------------------------------------------------------
    def _prepare(self) -> None:
        delay_s = FIRST_JOIN_DELAY_S if self.state is State.EMPTY else 0.0
        self.state, self._began_s = State.PREPARING, self.clock.now_s
        self._round += 1
        for member in self.members.values():
            if member.syncing is not None:
                self._answer(member.syncing, "rebalance", [])
                member.syncing = None
        if delay_s:
            self._began_s += delay_s
            self.clock.after(delay_s, self._complete_if_all_joined, self._round)
        self.clock.after(delay_s + self.rebalance_s, self._complete, self._round)

    def _complete_if_all_joined(self, round_: int = 0) -> None:
        early = self.clock.now_s < self._began_s
        if not early and round_ in (0, self._round) and all(m.joining is not None for m in self.members.values()):
            self._complete(self._round)

    def _complete(self, round_: int) -> None:
        if self.state is not State.PREPARING or round_ != self._round or not self.up:
            return
        joined = {name: member for name, member in self.members.items() if member.joining is not None}
        if not joined:
            self.state = State.EMPTY if not self.members else self.state
            return
        self.generation += 1
        self.rebalances += 1
        self.state = State.COMPLETING
        if self.leader not in joined:
            self.leader = next(iter(joined))
        everybody = {name: member.claims for name, member in self.members.items()}
        for name, member in joined.items():
            reply, member.joining, member.seen_s = member.joining, None, self.clock.now_s
            assert reply is not None
            self._answer(reply, "joined", self.generation, everybody if name == self.leader else None)

    # ---- sessions ---------------------------------------------------------------------------------------------------
    def _watch(self, name: str, member: Member) -> None:
        self.clock.at(member.seen_s + self.session_s, self._look_at, name, member)

    def _look_at(self, name: str, member: Member) -> None:
        if self.members.get(name) is not member:
            return
        left_s = member.seen_s + self.session_s - self.clock.now_s
        if left_s > 1e-9 or member.joining is not None or member.syncing is not None or not self.up:
            self.clock.after(max(left_s, 0.1), self._look_at, name, member)
            return
        del self.members[name]
        if self.state is not State.PREPARING:
            self._prepare()
        self._complete_if_all_joined()

    def stop(self) -> None:
        """The broker dies: what waited for an answer gets none."""
        self.up = False
        for member in self.members.values():
            member.joining = member.syncing = None

    def start(self) -> None:
        """Another broker has read the group's log: it is as it was last, and every member has a session's time."""
        self.up, self._free_at = True, self.clock.now_s
        for member in self.members.values():
            member.seen_s = self.clock.now_s
        if self.state in (State.PREPARING, State.COMPLETING):
            self.state = State.STABLE
            self._prepare()

    # ---- the queue --------------------------------------------------------------------------------------------------
    def _handle(self, call: Callable[..., object], *arguments: object) -> None:
        if self.up:
            self.clock.at(self._slot(), self._if_up, call, *arguments)

    def _if_up(self, call: Callable[..., object], *arguments: object) -> None:
        if self.up:
            call(*arguments)

    def _answer(self, reply: Reply, *arguments: object) -> None:
        self.clock.at(self._slot(), reply, *arguments)

    def _slot(self) -> float:
        self._free_at = max(self._free_at, self.clock.now_s) + REQUEST_S
        self.busy_s += REQUEST_S
        return self._free_at
