"""What clients do in the core model: submit (again), cancel, replay a dead letter, clear everything.

None of it is fair: nobody has to. But once clear_all_tasks has raised the clear number, its intent is on record and a
janitor completes it, so from there on its steps are.
"""
from __future__ import annotations

from collections.abc import Iterator

from tests.model.book import NONE, Copy
from tests.model.checker import Step
from tests.model.delivery import Clearing, Setting, State, Story
from tests.model.delivery_promises import Promises

Steps = Iterator[Step[State]]


class Clients:
    """The steps of everybody outside."""

    def __init__(self, setting: Setting, promises: Promises) -> None:
        self._setting, self._promises = setting, promises
        self._sc, self._rules, self._book = setting.scenario, setting.rules, setting.book

    def steps(self, state: State) -> Steps:
        for task in range(self._sc.tasks):
            yield from self._produce(state, task)
            if not state.stories[task].noted:
                yield self._note(state, task)
        yield from self._arrivals(state)
        if state.cancel == "ready" and state.stories[0].accepted:
            yield self._cancel(state)
        if state.left.replay:
            yield from self._replay(state)
        yield from self._clear(state)

    # ---- submitting -------------------------------------------------------------------------------------------------
    def _produce(self, state: State, task: int) -> Steps:
        setting, story = self._setting, state.stories[task]
        copy = Copy(task, 0, story.g, story.life)
        anywhere = range(self._sc.partitions) if self._sc.scattered else (0,)
        if story.sent != "yes":
            for p in anywhere if story.sent == "unknown" else (0,):
                sent = setting.tell(state, task, sent="yes")
                yield f"client: produces task{task} to p{p}, acknowledged", False, setting.append(sent, p, copy)
        if story.sent == "no" and state.left.unknown:
            unsure = setting.spend(setting.tell(state, task, sent="unknown"), "unknown")
            yield f"client: produces task{task}, no answer (it is in the log)", False, setting.append(unsure, 0, copy)
            yield (f"client: produces task{task}, no answer (it is still under way)", False,
                   unsure._replace(under_way=(*state.under_way, (0, copy))))
        if story.sent == "yes" and state.left.copies:
            for p in anywhere:
                yield (f"client: submits task{task} again, to p{p}", False,
                       setting.append(setting.spend(state, "copies"), p, copy))

    def _note(self, state: State, task: int) -> Step[State]:
        """The QUEUED write, which goes on beside the produce and may come at any time."""
        setting, story = self._setting, state.stories[task]
        known = state.redis.records[task]
        late = story.first is not None and known == NONE        # its record has come and gone: that takes so long
        if late and story.life and self._rules.submit_limit:    # whoever replays looks at the time himself
            done = setting.tell(state, task, noted=True)
            return f"client: it is too late to note the replay of task{task}", False, done
        answer = self._book.submit(known, state.redis.gen, story.g, late=late, life=story.life)
        label = f"client: notes task{task} as queued -> {answer.word}"
        if answer.word == "CLEARED":                            # stamped anew, and produced again
            return label, False, setting.tell(state, task, **Story(g=state.redis.gen)._asdict())
        return label, False, setting.write(setting.tell(state, task, noted=True), task, answer.record)

    def _arrivals(self, state: State) -> Steps:
        for at, (p, copy) in enumerate(state.under_way):
            rest = state.under_way[:at] + state.under_way[at + 1:]
            yield (f"kafka: a late copy of task{copy.task} enters p{p}", False,
                   self._setting.append(state._replace(under_way=rest), p, copy))

    # ---- afterwards -------------------------------------------------------------------------------------------------
    def _cancel(self, state: State) -> Step[State]:
        answer = self._book.cancel(state.redis.records[0], state.redis.gen)
        after = self._setting.write(state._replace(cancel="done"), 0, answer.record)
        if answer.word == "CONFIRMED":
            after = self._setting.tell(after, 0, confirmed=True)
        return f"client: cancels task0 -> {answer.word}", False, self._promises.witness(after)

    def _replay(self, state: State) -> Steps:
        """A letter's task is published with its replay count raised by one, and noted as queued in its new life."""
        story = state.stories[0]
        if Copy(0, 0, story.g, story.life) in state.letters:
            life = story.life + 1
            anew = self._setting.tell(state, 0, **Story("yes", g=state.redis.gen, life=life)._asdict())
            yield (f"client: replays the dead letter of task0, life {life}", False,
                   self._setting.append(self._setting.spend(anew, "replay"), 0, Copy(0, 0, state.redis.gen, life)))

    # ---- clear_all_tasks --------------------------------------------------------------------------------------------
    def _clear(self, state: State) -> Steps:
        at = state.clearing.at
        if at in ("", "done"):
            return
        ends = tuple(len(log) for log in state.logs)
        if not self._rules.clear_number:
            yield self._clear_plainly(state, ends)
        elif at == "ready" and self._rules.ends_read_first:
            yield "clear: reads the end offsets", False, state._replace(clearing=Clearing("read", ends))
        elif at in ("ready", "read"):
            raised = state.redis._replace(gen=state.redis.gen + 1)
            yield ("clear: raises the clear number", False,
                   state._replace(redis=raised, clearing=state.clearing._replace(at="raised")))
        elif at == "raised":
            ends = state.clearing.ends if self._rules.ends_read_first else ends
            yield (f"clear: deletes what is in Kafka up to {ends}", True,
                   state._replace(begins=ends, clearing=Clearing("deleted")))
        else:
            yield "clear: drops the older records, done", True, self._drop_older(state)

    def _drop_older(self, state: State) -> State:
        gen = state.redis.gen
        records = tuple(NONE if self._book.live(number, gen) is None else number for number in state.redis.records)
        stories = tuple(story._replace(cleared=True) if story.g < gen else story for story in state.stories)
        return state._replace(redis=state.redis._replace(records=records), stories=stories, clearing=Clearing("done"))

    def _clear_plainly(self, state: State, ends: tuple[int, ...]) -> Step[State]:
        """As one would write it: delete what is in Kafka, then what is in Redis."""
        if state.clearing.at == "ready":
            return ("clear: deletes what is in Kafka", False, state._replace(begins=ends, clearing=Clearing("deleted")))
        stories = tuple(story._replace(cleared=True) if story.noted else story for story in state.stories)
        return ("clear: drops all records, done", False,
                state._replace(redis=state.redis._replace(records=(NONE,) * self._setting.total), stories=stories,
                               clearing=Clearing("done")))
