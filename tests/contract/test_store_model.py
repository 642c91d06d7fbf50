"""The store against a simple model of what it keeps, whatever comes in whatever order, over any number of crashes.

The model predicts each dispatch from what was asked and answered alone. It knows nothing of blocks, tallies, indexes or
transactions.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gateway.errors import Exhausted, NotPossible
from gateway.model import NEXT, TERMINAL, Cause, Recipients, Resolution, State, Verdict, state_of
from gateway.sightings import Sighting, Sought
from gateway.store import Settlement, Terms, creating
from gateway.store.finding import MOST_ROUNDS, ROUNDS
from gateway.store.invariants import check
from gateway.store.rows import decode_standing
from gateway.store.tally import Tally
from tests.builders import NOON, Clock, accepted, asked, put_off, refused, unsure
from tests.lengths import size
from tests.places import Files, Schemas

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from datetime import datetime

    from gateway.store.transaction import Transaction
    from tests.places import EngineStore, Place

T = TypeVar("T")

ACCOUNT = "account"
FLOW = "a flow"
GIVE_UP_AFTER = timedelta(days=30)  # never here: what puts it off is in test_store_giving_up.py
BACKLOG = 20
BLOCK = 3  # recipients, so that small starts have several blocks on both kinds of backend
MANY, ALONE = "many", "alone"  # backends: the second has one running dispatch per recipient and can end what runs
ANSWERS = ["accepted", "started", "put off", "refused", "unsure", "error"]
SHOWN = [State.QUEUED, State.STARTED, State.COMPLETED, State.FAILED, State.INTERRUPTED]


@dataclass
class Sent:
    """What the model knows of one dispatch. `may_run` is whether an attempt may have been carried out."""

    start: Asked
    recipients: tuple[str, ...]
    expire_at: datetime
    state: State = State.PENDING
    attempts: int = 0
    claimed: bool = False
    is_open: bool = False
    may_run: bool = False
    is_sought: bool = False
    is_error: bool = False
    is_answered: bool = False  # by its last attempt, with an acceptance
    rounds: int = 0
    counted: int = 0
    external_id: str = ""
    ending: int = 0

    @property
    def waits(self) -> bool:
        """Whether it is unsent and nobody has it."""
        return self.state is State.PENDING and not self.claimed

    @property
    def holds(self) -> bool:
        """Whether its recipient can have no other now."""
        return (self.state is State.PENDING and self.claimed) or (self.state is State.UNCERTAIN and self.is_sought)


@dataclass
class Asked:
    """What the model knows of one start."""

    id: str
    backend: str
    scheduled: bool
    cancelled: bool = False
    dispatches: dict[str, Sent] = field(default_factory=dict)
    seen: list[State] = field(default_factory=list)


class StoreMachine(RuleBasedStateMachine):
    """Does what a gateway does with its store, and worse."""

    def __init__(self, place: Callable[[], Place]) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.block, creating.BLOCK = creating.BLOCK, BLOCK
        self.place = place()
        self.clock = Clock()
        self.lives = 0
        self.store = self.open()
        self.starts: list[Asked] = []
        self.sent: dict[str, Sent] = {}
        self.due: dict[str, datetime] = {}  # of those whose moment the model knows
        self.open_attempts: list[tuple[str, int]] = []  # those of earlier lives too
        self.proofs: list[Sought] = []
        self.external_ids = 0
        self.read_through = 0
        self.recorded: dict[str, State] = {}

    def open(self) -> EngineStore:
        """Opens the store, on the loop that uses it."""

        async def opened() -> EngineStore:
            return self.place.open(f"life{self.lives}.db", self.clock)

        return self.run(opened())

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Waits for the store."""
        return self.loop.run_until_complete(coroutine)

    def teardown(self) -> None:
        """Ends the last life."""
        self.run(self.store.close())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        creating.BLOCK = self.block
        self.place.drop()

    # --- what is sent

    def move(self, sent: Sent, state: State) -> None:
        """Moves a dispatch in the model."""
        assert state is sent.state or state in NEXT[sent.state]
        sent.state, sent.claimed = state, False

    @initialize()
    def begin_with_two(self) -> None:
        """Begins with a start on each backend."""
        self.create(MANY, [1, 2, 3, 1, 2], 0, None)
        self.create(ALONE, [1, 1, 2, 3], 0, None)

    @rule(
        backend=st.sampled_from([MANY, ALONE]),
        who=st.lists(st.integers(1, 3), min_size=1, max_size=7),
        schedule=st.sampled_from([0, 0, 0, 30]),
        expire=st.sampled_from([None, None, 60]),
    )
    def create(self, backend: str, who: list[int], schedule: int, expire: int | None) -> None:
        """Records a start; on the first backend each dispatch has two recipients, so that two fill a block."""
        if backend == MANY:
            plan = [Recipients(urns=(f"tel:+{n}1", f"tel:+{n}2")) for n in who]
        else:
            plan = [Recipients(urns=(f"tel:+{n}",)) for n in who]
        now = self.clock()
        due = now + timedelta(seconds=schedule)
        wanted = asked(
            backend=backend,
            flow=FLOW,
            recipient_count=sum(part.count for part in plan),
            created_at=now,
            schedule_at=due if schedule else None,
            expire_at=None if expire is None else due + timedelta(seconds=expire),
        )
        start = Asked(id=wanted.id, backend=backend, scheduled=bool(schedule))
        unsent = self.unsent()[backend, start.scheduled]
        terms = Terms(account=ACCOUNT, give_up_after=GIVE_UP_AFTER, one_at_a_time=backend == ALONE, backlog=BACKLOG)
        try:
            self.run(self.store.create(wanted, plan, fingerprint="1:f", warnings=(), terms=terms))
        except Exhausted:
            assert unsent
            assert unsent + len(plan) > BACKLOG
            return
        assert not unsent or unsent + len(plan) <= BACKLOG
        for number, part in enumerate(plan, 1):
            dispatch_id = f"{start.id}-{number}"
            sent = Sent(start=start, recipients=part.urns, expire_at=wanted.expire_at or due + GIVE_UP_AFTER)
            start.dispatches[dispatch_id] = self.sent[dispatch_id] = sent
            if number == 1:
                self.due[dispatch_id] = due
        self.starts.append(start)

    def unsent(self) -> Counter[tuple[str, bool]]:
        """Counts the unsent dispatches of each backlog."""
        return Counter(
            (sent.start.backend, sent.start.scheduled) for sent in self.sent.values() if sent.state is State.PENDING
        )

    @rule(backend=st.sampled_from([MANY, ALONE]), limit=st.sampled_from([0, 1, 2, 50]))
    def claim(self, backend: str, limit: int) -> None:
        """Takes what is due; whatever expired ends. What may run already, or whose recipient may be busy, is not."""
        now = self.clock()
        for sent in self.sent.values():
            if sent.start.backend == backend and sent.waits and sent.expire_at <= now:
                self.move(sent, State.FAILED)
            elif sent.start.backend == backend and sent.waits and sent.start.cancelled:
                self.move(sent, State.INTERRUPTED)
        claims = self.run(self.store.claim(backend, limit))
        assert len(claims.dispatches) <= limit
        for dispatch in claims.dispatches:
            sent = self.sent[dispatch.id]
            assert not sent.may_run
            assert backend == sent.start.backend
            assert sent.waits
            assert sent.expire_at > now
            assert self.due.get(dispatch.id, now) <= now
            assert not self.is_held(dispatch.id)
            assert (sent.attempts, sent.recipients) == (dispatch.attempts, dispatch.recipients.urns)
            sent.claimed = True
            self.due[dispatch.id] = now
        if len(claims.dispatches) < limit:
            assert [] == [each for each in self.sent if self.is_claimable(each, backend)]
            assert claims.next_due_at is None or claims.next_due_at > now, "called in vain"
        if limit == 0 and any(self.is_claimable(each, backend) for each in self.sent):
            assert claims.next_due_at is not None
            assert claims.next_due_at <= now
        assert claims.next_due_at is None or any(
            sent.waits for sent in self.sent.values() if sent.start.backend == backend
        )

    def is_held(self, dispatch_id: str) -> bool:
        """Whether another dispatch for its recipient is being sent or looked for."""
        sent = self.sent[dispatch_id]
        return sent.start.backend == ALONE and any(
            other.holds and other.start.backend == ALONE and other.recipients == sent.recipients
            for each, other in self.sent.items()
            if each != dispatch_id
        )

    def is_claimable(self, dispatch_id: str, backend: str) -> bool:
        """Whether it is certainly due: what was not written out yet has no moment of its own."""
        sent, now = self.sent[dispatch_id], self.clock()
        return (
            sent.start.backend == backend
            and sent.waits
            and dispatch_id in self.due
            and self.due[dispatch_id] <= now < sent.expire_at
            and not self.is_held(dispatch_id)
        )

    def pick(self, data: st.DataObject, among: list[str]) -> str:
        """Picks one."""
        return data.draw(st.sampled_from(among))

    def of(self, *, claimed: bool | None = None, is_open: bool | None = None) -> list[str]:
        """Lists the dispatches that are such."""
        return [
            each
            for each, sent in self.sent.items()
            if claimed in (None, sent.claimed) and is_open in (None, sent.is_open)
        ]

    @precondition(lambda self: self.of(claimed=True, is_open=False))
    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        """Begins to send what is claimed, unless it has expired or was cancelled."""
        self.begin_one(self.pick(data, self.of(claimed=True, is_open=False)))

    def begin_one(self, dispatch_id: str) -> None:
        """Begins to send what is claimed."""
        sent = self.sent[dispatch_id]
        attempt = self.run(self.store.begin_attempt(dispatch_id, account=ACCOUNT, since=self.clock()))
        may = not sent.start.cancelled and sent.expire_at > self.clock()
        assert (sent.attempts + 1 if may else None) == attempt
        if attempt is not None:
            sent.attempts, sent.is_open, sent.may_run, sent.is_answered = attempt, True, True, False
            self.open_attempts.append((dispatch_id, attempt))

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def begin_what_may_not(self, data: st.DataObject) -> None:
        """Nothing is sent that is not claimed, or is being sent."""
        others = [each for each, sent in self.sent.items() if not sent.claimed or sent.is_open]
        if others:
            dispatch_id = self.pick(data, others)
            assert self.run(self.store.begin_attempt(dispatch_id, account=ACCOUNT, since=NOON)) is None

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), seconds=st.sampled_from([0, 20]))
    def release(self, data: st.DataObject, seconds: int) -> None:
        """Gives back what is claimed and is not being sent; of anything else it is nothing."""
        dispatch_id = self.pick(data, self.of(claimed=True) or list(self.sent))
        due = self.clock() + timedelta(seconds=seconds)
        self.run(self.store.release(dispatch_id, due))
        sent = self.sent[dispatch_id]
        if sent.claimed and not sent.is_open:
            self.give_back(dispatch_id, due)

    def give_back(self, dispatch_id: str, due: datetime) -> None:
        """Waits again, or ends if it was cancelled meanwhile."""
        sent = self.sent[dispatch_id]
        sent.claimed = False
        self.due[dispatch_id] = due
        if sent.start.cancelled:
            self.move(sent, State.INTERRUPTED)

    def new_external_id(self) -> str:
        """Makes an id as the backend would."""
        self.external_ids += 1
        return f"x{self.external_ids}"

    @precondition(lambda self: self.open_attempts)
    @rule(data=st.data(), answer=st.sampled_from(ANSWERS))
    def record(self, data: st.DataObject, answer: str) -> None:
        """Records an answer: to an open attempt, to one of an earlier life, to one whose dispatch a list has shown."""
        self.record_one(*data.draw(st.sampled_from(self.open_attempts)), answer)

    @rule(backend=st.sampled_from([MANY, ALONE]), answer=st.sampled_from(ANSWERS))
    def send(self, backend: str, answer: str) -> None:
        """Claims, sends and records as a lane does, and comes back at once."""
        self.claim(backend, 2)
        for dispatch_id in self.of(claimed=True, is_open=False):
            self.begin_one(dispatch_id)
            if self.sent[dispatch_id].is_open:
                self.record_one(dispatch_id, self.sent[dispatch_id].attempts, answer)
        self.claim(backend, 2)

    def record_one(self, dispatch_id: str, attempt: int, answer: str) -> None:
        """Records an answer."""
        sent, external_id = self.sent[dispatch_id], self.new_external_id()
        due = self.clock() + timedelta(seconds=10)
        settlement: Settlement = {
            "accepted": accepted(external_id),
            "started": accepted(external_id, State.STARTED),
            "put off": put_off(due),
            "refused": refused(),
            "unsure": unsure(),
            "error": replace(unsure(), cause=Cause.SERVER_ERROR),
        }[answer]
        self.run(self.store.record(dispatch_id, attempt, settlement))
        is_current = sent.is_open and attempt == sent.attempts
        if is_current:
            sent.is_open = False
            sent.is_answered = answer in ("accepted", "started")
        if not is_current or sent.state is not State.PENDING:
            return
        if answer == "put off":
            sent.may_run = False
            self.give_back(dispatch_id, due)
        elif answer in ("unsure", "error"):
            self.move(sent, State.UNCERTAIN)
            sent.is_sought, sent.is_error = True, answer == "error"
        elif answer == "refused":
            sent.may_run = False
            self.move(sent, State.FAILED)
        else:
            self.adopt(sent, external_id, settlement.state)

    def adopt(self, sent: Sent, external_id: str, state: State) -> None:
        """Runs."""
        self.move(sent, state)
        sent.external_id, sent.is_sought = external_id, False
        sent.ending = 1 if sent.start.cancelled and sent.start.backend == ALONE else 0

    # --- what is shown

    @precondition(lambda self: any(sent.attempts and sent.waits for sent in self.sent.values()))
    @rule(backend=st.sampled_from([MANY, ALONE]))
    def show_what_is_sent_again(self, backend: str) -> None:
        """Everything else that is due is taken, then a backend shows what waits to be sent again."""
        while any(self.is_claimable(each, backend) for each in self.sent):
            self.claim(backend, 1)
        for each in [each for each, sent in self.sent.items() if sent.attempts and sent.waits]:
            self.show(each, State.STARTED, FLOW)

    @precondition(lambda self: any(sent.attempts for sent in self.sent.values()))
    @rule(data=st.data(), state=st.sampled_from(SHOWN), flow=st.sampled_from([FLOW, FLOW, FLOW, "another"]))
    def show_by_key(self, data: st.DataObject, state: State, flow: str) -> None:
        """A backend shows something with our key, known or not: on our flow it is ours."""
        self.show(self.pick(data, [each for each, sent in self.sent.items() if sent.attempts]), state, flow)

    def show(self, dispatch_id: str, state: State, flow: str) -> None:
        """A backend shows something with a key of ours."""
        sent, external_id = self.sent[dispatch_id], self.new_external_id()
        sighting = Sighting(
            external_id=external_id, state=state, correlation_key=dispatch_id, flow=flow, created_at=self.clock()
        )
        moved = self.run(self.store.sight(sent.start.backend, [sighting], account=ACCOUNT))
        adopted = flow == FLOW and not sent.external_id and sent.state not in TERMINAL
        assert int(adopted) == moved
        if adopted:
            self.adopt(sent, external_id, state)

    @precondition(lambda self: any(sent.external_id for sent in self.sent.values()))
    @rule(data=st.data(), state=st.sampled_from([*SHOWN, None]))
    def show_by_id(self, data: st.DataObject, state: State | None) -> None:
        """A backend shows what runs, or ran: it moves forward only."""
        dispatch_id = self.pick(data, [each for each, sent in self.sent.items() if sent.external_id])
        sent = self.sent[dispatch_id]
        sighting = Sighting(external_id=sent.external_id, state=state)
        moved = self.run(self.store.sight(sent.start.backend, [sighting], account=ACCOUNT))
        after = State.INTERRUPTED if sent.ending == 2 and state in TERMINAL else state
        forward = after is not None and after is not sent.state and after in NEXT[sent.state]
        assert int(forward) == moved
        if forward and after is not None:
            self.move(sent, after)

    # --- what is not shown

    @precondition(lambda self: any(sent.is_sought for sent in self.sent.values()))
    @rule(backend=st.sampled_from([MANY, ALONE]))
    def look(self, backend: str) -> None:
        """Reads what is sought: everything that is uncertain and not at rest is."""
        sought = self.run(self.store.sought(backend, ACCOUNT))
        expected = {
            each
            for each, sent in self.sent.items()
            if sent.start.backend == backend and sent.state is State.UNCERTAIN and sent.is_sought
        }
        assert expected == {each.id for each in sought if each.state is State.UNCERTAIN}
        self.proofs += [each for each in sought if each not in self.proofs]

    @precondition(lambda self: any(sent.is_sought for sent in self.sent.values()))
    @rule(backend=st.sampled_from([MANY, ALONE]))
    def prove_all_absent(self, backend: str) -> None:
        """Proves absent all that is sought."""
        self.look(backend)
        for sought in self.proofs:
            self.conclude_one(sought, State.PENDING)

    @precondition(lambda self: self.proofs)
    @rule(data=st.data(), on_absent=st.sampled_from([State.PENDING, State.PENDING, State.UNCERTAIN, None]))
    def conclude(self, data: st.DataObject, on_absent: State | None) -> None:
        """Proves absent, or gives up looking (None): of what was sought at any time, whatever became of it since."""
        self.conclude_one(data.draw(st.sampled_from(self.proofs)), on_absent)

    def conclude_one(self, sought: Sought, on_absent: State | None) -> None:
        """Proves absent, or gives up looking."""
        sent, due = self.sent[sought.id], self.clock()
        if on_absent is None:
            self.run(self.store.rest(sought))
        else:
            self.run(self.store.absent(sought, on_absent=on_absent, pause=timedelta()))
        if sent.state is not State.UNCERTAIN or not sent.is_sought or sent.attempts != sought.attempts:
            return
        if on_absent is None:
            sent.is_sought = False
            return
        others = any(
            it.is_answered and it.external_id and it.start.backend == sent.start.backend
            for it in self.sent.values()
            if it is not sent
        )
        sent.counted += others
        sent.rounds += others and sent.is_error
        if sent.start.cancelled:
            self.move(sent, State.INTERRUPTED)
        elif sent.expire_at <= self.clock() or sent.rounds >= ROUNDS:
            self.move(sent, State.FAILED)
        elif on_absent is State.UNCERTAIN or sent.counted >= MOST_ROUNDS:
            sent.is_sought = False
        else:
            self.move(sent, State.PENDING)
            sent.may_run = False
            self.due[sought.id] = due

    # --- what is stopped

    @precondition(lambda self: self.starts)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """Cancels a start: what is unsent and unclaimed ends at once."""
        start = data.draw(st.sampled_from(self.starts))
        can_end = start.backend == ALONE
        ended = state_of(Counter(sent.state for sent in start.dispatches.values())) in TERMINAL
        if ended and not start.cancelled:
            with pytest.raises(NotPossible):
                self.run(self.store.cancel("default", start.id, can_end=can_end))
            return
        assert self.run(self.store.cancel("default", start.id, can_end=can_end)) is not None
        for sent in start.dispatches.values():
            if sent.state in (State.QUEUED, State.STARTED) and can_end and not start.cancelled:
                sent.ending = 1
            if sent.waits:
                self.move(sent, State.INTERRUPTED)
        start.cancelled = True

    @rule()
    def end_cancelled(self) -> None:
        """Asks to end what is to be ended."""
        endings = {dispatch.id for dispatch in self.run(self.store.endings(ALONE, ACCOUNT, 100))}
        running = (State.QUEUED, State.STARTED)
        assert {each for each, sent in self.sent.items() if sent.ending and sent.state in running} == endings
        for dispatch_id in endings:
            assert self.run(self.store.ending(dispatch_id))
            self.sent[dispatch_id].ending = 2

    @precondition(lambda self: any(sent.state is State.UNCERTAIN for sent in self.sent.values()))
    @rule(data=st.data(), verdict=st.sampled_from(Verdict))
    def resolve(self, data: st.DataObject, verdict: Verdict) -> None:
        """An operator settles what is uncertain."""
        dispatch_id = self.pick(data, [each for each, sent in self.sent.items() if sent.state is State.UNCERTAIN])
        sent, external_id = self.sent[dispatch_id], self.new_external_id()
        word = Resolution(verdict=verdict, dispatch_id=dispatch_id, external_id=external_id)
        self.run(self.store.resolve("default", sent.start.id, word))
        if verdict is Verdict.WAS_SENT:
            self.adopt(sent, external_id, State.QUEUED)
        elif verdict is Verdict.GIVE_UP:
            self.move(sent, State.FAILED)
        elif sent.start.cancelled:
            self.move(sent, State.INTERRUPTED)
        else:
            self.move(sent, State.PENDING)
            sent.may_run = False
            self.due[dispatch_id] = self.clock()

    # --- what is forgotten

    @rule()
    def forget(self) -> None:
        """Forgets what is older than now: what is over goes, and whatever comes of it later is nothing."""
        self.run(self.store.check())  # writes the progress that is due, so that nothing comes between
        self.changes_are_gapless_and_in_order()
        self.clock.tick(0.1)
        self.run(self.store.purge(self.clock()))
        while self.run(self.store.oldest()) < self.read_through:
            assert self.run(self.store.purge(self.clock()))
        assert self.run(self.store.oldest()) == self.read_through
        over = {s.id for s in self.starts if state_of(Counter(d.state for d in s.dispatches.values())) in TERMINAL}
        self.starts = [start for start in self.starts if start.id not in over]
        self.sent = {each: sent for each, sent in self.sent.items() if sent.start.id not in over}
        self.open_attempts = [each for each in self.open_attempts if each[0] in self.sent]
        self.proofs = [each for each in self.proofs if each.id in self.sent]

    # --- time, and the end of it

    @rule(seconds=st.sampled_from([0.4, 2, 10, 40, 200]))
    def tick(self, seconds: float) -> None:
        """Time passes."""
        self.clock.tick(seconds)

    @rule()
    def crash(self) -> None:
        """The process is killed, and comes again: what it had open may have been carried out."""
        before, after = (f"life{life}.db" for life in (self.lives, self.lives + 1))

        def copy(_transaction: Transaction) -> None:
            self.place.crash(after, before)

        async def die() -> None:
            await self.store.engine.writer.submit(copy)  # by the writer, so that it writes nothing meanwhile
            await self.store.close()

        self.run(die())
        self.lives += 1
        self.store = self.open()
        for sent in self.sent.values():
            if sent.is_open and sent.state is State.PENDING:
                self.move(sent, State.UNCERTAIN)
                sent.is_sought, sent.is_error = True, False
            sent.is_open = sent.claimed = False

    # --- what always holds

    @invariant()
    def every_recipient_stands_where_its_dispatch_does(self) -> None:
        """As the API tells it, with the external id; and those of a start add up to where that stands."""
        for start in self.starts:
            page = self.run(self.store.recipients("default", start.id, after=None, limit=1_000))
            assert page is not None
            told = {each.dispatch_id: (each.state, each.external_id) for each in page.recipients}
            assert {each: (s.state, s.external_id) for each, s in start.dispatches.items()} == told
            found = self.run(self.store.get("default", start.id))
            assert found is not None
            assert state_of(Counter(sent.state for sent in start.dispatches.values())) is found.standing.state
            is_sought = any(s.is_sought and s.state is State.UNCERTAIN for s in start.dispatches.values())
            waits = any(sent.state is State.PENDING for sent in start.dispatches.values())
            if found.standing.state is State.UNCERTAIN:
                assert found.standing.is_done is not (is_sought or waits)

    @invariant()
    def no_invariant_of_the_store_is_broken(self) -> None:
        """As an operator would check it."""
        assert [] == [str(each) for each in self.run(self.store._read(check))]

    @invariant()
    def counts_add_up(self) -> None:
        """Tallies, progress and backlogs are what the dispatches say; progress alone may be told a second later."""
        starts, backlogs = self.run(self.store._read(_read_counts))
        expected: dict[tuple[str, bool], int] = dict(self.unsent())
        assert expected == backlogs
        assert len(self.starts) == len(starts)
        for start in self.starts:
            standing, tally, behind = starts[start.id]
            states = Counter(sent.state for sent in start.dispatches.values())
            people = Counter[State]()
            for sent in start.dispatches.values():
                people[sent.state] += len(sent.recipients)
            assert states == Counter({state: n for state, n in tally.dispatches.items() if n})
            assert people == Counter({state: n for state, n in tally.recipients.items() if n})
            told = [standing.progress.queued, standing.progress.started, standing.progress.completed,
                    standing.progress.failed, standing.progress.interrupted, standing.progress.skipped,
                    standing.progress.uncertain]  # fmt: skip
            assert sum(told) <= people.total()
            if not behind:
                assert [people[state] for state in State if state is not State.PENDING] == [
                    *told[:5], told[6], told[5]  # in the order of the states
                ]  # fmt: skip
            assert (standing.ended_at is not None) is (standing.state in TERMINAL)

    @invariant()
    def changes_are_gapless_and_in_order(self) -> None:
        """Each tells the state before it, and nothing is told after an end but warnings."""
        read = self.run(self.store.changes(self.read_through, 1_000))
        told = list(range(self.read_through + 1, read.through + 1))
        assert told == [change.revision for change in read.changes]
        for change in read.changes:
            start_id, state = change.flow_start.asked.id, change.flow_start.standing.state
            assert self.recorded.get(start_id) is change.state_before
            assert change.state_before not in TERMINAL or state is change.state_before
            self.recorded[start_id] = state
        self.read_through = read.through
        for start in self.starts:
            assert state_of(Counter(sent.state for sent in start.dispatches.values())) is self.recorded[start.id]


def _read_counts(conn: Any) -> tuple[dict[str, Any], dict[tuple[str, bool], int]]:
    """Reads in one view how starts stand, what that follows from, whether it is still to be told; and the backlogs."""
    starts = {
        start_id: (decode_standing(standing), Tally.decode(tally), behind)
        for start_id, standing, tally, behind in conn.rows(
            "select id, standing, tally, behind from starts where erased = 0"
        )
    }
    rows = conn.rows("select backend, scheduled, unsent from backlogs where unsent <> 0")
    return starts, {(backend, bool(scheduled)): unsent for backend, scheduled, unsent in rows}


@pytest.fixture
def new_place(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[], Place]:
    """Makes a place for each example."""
    if engine == "sqlite":
        return lambda: Files(Path(tempfile.mkdtemp(dir=tmp_path)))
    shelf = request.getfixturevalue("shelf")
    return lambda: Schemas(shelf)


def test_the_store_keeps_what_the_model_does(new_place: Callable[[], Place], engine: str) -> None:
    """Whatever comes, in whatever order."""
    examples = size(25, quick=9) if engine == "sqlite" else size(15, quick=2)  # there each takes five seconds
    run_state_machine_as_test(
        lambda: StoreMachine(new_place),  # type: ignore[arg-type]  # any factory will do
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        ),
    )
