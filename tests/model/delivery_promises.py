"""What must hold in the core model, state by state and in the end. Each promise has a word; its breach begins so.

LOST      what was accepted reaches an end
PASSED    the committed offset leaves nothing behind that has not ended, nor would if Redis crashed now
ENDS      a task has one end, which never changes
ATTEMPTS  no attempt starts after a later one; each starts once, and once more at most for each fault
CANCELLED no body starts after somebody was told that its task is cancelled
FOLLOWS   what follows an end (a chain's next link, a dead letter) comes, and nothing else does
CLEARED   what was cleared neither runs nor comes back
"""
from __future__ import annotations

from tests.model.book import Copy
from tests.model.delivery import Setting, State, Store, Story
from tests.model.operations import Record


class Promises:
    """Of one scenario."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._sc, self._rules, self._book = setting.scenario, setting.rules, setting.book

    def counts(self, broken: str) -> bool:
        """Is this one of the promises that the scenario is about?"""
        return not self._sc.about or broken.partition(":")[0] in self._sc.about

    def _if_it_counts(self, broken: str | None) -> str | None:
        return broken if broken and self.counts(broken) else None

    def _live(self, store: Store, task: int) -> Record | None:
        return self._book.live(store.records[task], store.gen)

    # ---- while it happens -------------------------------------------------------------------------------------------
    def witness(self, state: State) -> State:
        """Something was written: is the first end of each task still its end?"""
        for task, story in enumerate(state.stories):
            record = self._live(state.redis, task)
            if record is None or not record.ended or record.replay < story.life:
                continue
            now = (record.s, story.first[1] if story.first and record.shown == "Z" else record.r)
            if story.first is None:
                state = self._setting.tell(state, task, first=now, confirmed=story.confirmed or record.s == "CX")
            elif story.first != now and not state.broken:
                state = state._replace(broken=f"ENDS: task{task} had ended as {story.first}, now as {now}")
        return state

    def started(self, state: State, copy: Copy) -> State:
        """The body of an attempt starts: may it?"""
        story = state.stories[copy.task]
        if copy.g != story.g or copy.life != story.life:        # cleared meanwhile, or replayed
            return state
        broken = ""
        if story.confirmed:
            broken = f"CANCELLED: the body of task{copy.task} starts after its cancellation was confirmed"
        elif copy.n < story.highest and not self._lost_something(state):
            broken = f"ATTEMPTS: attempt {copy.n} of task{copy.task} starts after attempt {story.highest} did"
        story = story._replace(starts=story.starts + 1, highest=max(story.highest, copy.n))
        if not broken and story.starts > self._most(state, story):
            broken = f"ATTEMPTS: task{copy.task} starts the {story.starts}th time, in {story.highest + 1} attempts"
        return self._setting.tell(state, copy.task, **story._asdict())._replace(broken=broken)

    def _lost_something(self, state: State) -> bool:
        budget, left = self._sc.budget, state.left
        return left.redis < budget.redis or left.wipe < budget.wipe

    def _most(self, state: State, story: Story) -> int:
        """So often the body may have started, after the faults that were. A planned hand-over is none."""
        budget, left = self._sc.budget, state.left
        died = budget.crash - left.crash + budget.freeze - left.freeze
        attempts = story.highest + 1
        if not self._lost_something(state):
            return attempts + died
        if not died:                    # the worker has all in memory that Redis forgot
            return attempts
        return attempts * (1 + died + budget.redis - left.redis + budget.wipe - left.wipe)

    # ---- state by state ---------------------------------------------------------------------------------------------
    def violation(self, state: State) -> str | None:
        return self._if_it_counts(state.broken or self._left_behind(state) or self._comes_back(state)
                                  or self._follows_wrongly(state))

    def _left_behind(self, state: State) -> str | None:
        for task in range(self._sc.tasks):
            if not state.stories[task].accepted:
                continue
            if self._unanswered(state, state.redis, task):
                return f"PASSED: task{task} has not ended, and no message behind the committed offset answers for it"
            if state.disk is not None and self._rules.known_durable and self._unanswered(state, state.disk, task):
                return f"PASSED: task{task} would be lost if Redis crashed now"
        return None

    def _unanswered(self, state: State, store: Store, task: int) -> bool:
        """Has it neither ended in this Redis, nor a message that comes again?"""
        story, record = state.stories[task], self._live(store, task)
        if story.cleared or (self._rules.clear_number and story.g < store.gen):
            return False
        if record is not None and (record.s == "X" or record.replay < story.life):
            record = None
        gone = record is None and (story.dropped or (story.first is not None and store is state.redis))
        if gone or story.before_wipe or (record is not None and record.ended):
            return False
        need = 0 if record is None else record.a - 1 if record.s == "R" else record.a
        gen = store.gen if self._rules.clear_number else 0
        return not any(copy.task == task and copy.n >= need and copy.g >= gen and copy.life >= story.life
                       for p, log in enumerate(state.logs) for copy in log[max(state.committed[p], state.begins[p]):])

    def _comes_back(self, state: State) -> str | None:
        if state.clearing.at == "done":
            for task, story in enumerate(state.stories):
                record = self._book.records[state.redis.records[task]]
                if story.cleared and record is not None and record.s != "X":
                    return f"CLEARED: the record of task{task} is back"
        return None

    def _follows_wrongly(self, state: State) -> str | None:
        if self._setting.lossy:
            return None
        if self._sc.chain and state.stories[-1].starts and (state.stories[0].first or ("",))[0] != "OK":
            return f"FOLLOWS: task{self._sc.tasks} runs, and task0 has not succeeded"
        for letter in state.letters:
            story = state.stories[letter.task]
            if (story.g, story.life) == (letter.g, letter.life) and (story.first or ("",))[0] != "KO":
                return f"FOLLOWS: there is a dead letter of task{letter.task}, which has not failed"
        return None

    # ---- in the end -------------------------------------------------------------------------------------------------
    def owed(self, state: State) -> str | None:
        if state.broken:
            return None
        return self._if_it_counts(self._never_ends(state) or self._never_follows(state))

    def _never_ends(self, state: State) -> str | None:
        for task in range(self._sc.tasks):
            story, record = state.stories[task], self._live(state.redis, task)
            cleared = story.cleared or (self._rules.clear_number and story.g < state.redis.gen)
            if not story.accepted or cleared or story.before_wipe:
                continue
            if record is not None and (record.s == "X" or record.replay < story.life):
                record = None
            if record is not None and not record.ended:
                return f"LOST: task{task} stays in state {record.s} for ever"
            if record is None and story.first is None:
                return f"LOST: task{task} is gone"
        return None

    def _never_follows(self, state: State) -> str | None:
        first = state.stories[0].first
        if any(story.cleared for story in state.stories):
            return None
        if self._sc.chain and first is not None and first[0] == "OK" and not state.stories[-1].starts:
            return f"FOLLOWS: task{self._sc.tasks}, which follows task0, never runs"
        if self._sc.letters:
            for task, story in enumerate(state.stories):
                letter = Copy(task, 0, story.g, story.life)
                if story.first is not None and story.first[0] == "KO" and letter not in state.letters:
                    return f"FOLLOWS: the dead letter of task{task} is never written"
        return None
