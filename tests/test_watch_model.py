"""Watchers against a simple model: the list of all changes there ever were, and what each watcher was sent.

The store forgets, is copied, crashes and is put back in between. The model remembers everything.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import tempfile
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from gateway.errors import NotFound, RevisionNotAvailable
from gateway.model import TERMINAL, Filter, Resolution, State, Verdict
from gateway.store import copies
from gateway.store.connecting import SqliteConnection
from gateway.store.reads import head
from gateway.store.sqlite import open_sqlite
from gateway.watch.stream import Watch
from gateway.watch.waking import Watched
from tests.builders import ACCOUNT, BACKEND, Clock, accepted, claim_ids, create, refused, seen, settle, singly, unsure
from tests.lengths import size
from tests.test_watch import CACHED_BYTES, SILENCE, Message, Plainly, Watcher

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

    from gateway.model import Change
    from gateway.store.sqlite import SqliteStore

T = TypeVar("T")

KEPT_FOR = timedelta(seconds=30)
TENANTS = ["a", "b"]
PATIENCE = 2_000  # messages, most of them heartbeats, in which a watcher must have reached the newest revision
FILTERS = [
    Filter(),
    Filter(),
    Filter(),
    Filter(states=frozenset({State.PENDING})),
    Filter(states=frozenset({State.STARTED, State.QUEUED})),
    Filter(states=frozenset({State.COMPLETED})),
    Filter(labels={"team": "red"}),
]


FIELDS = ["tenant", "ids", "selected", "after", "epoch", "until_done"]
STEPS = st.one_of(
    st.tuples(st.just("create"), st.sampled_from(TENANTS), st.integers(1, 3), st.sampled_from(["red", "blue"])),
    st.tuples(st.just("send"), st.sampled_from(["accepted", "started", "refused", "unsure"]), st.integers(1, 4)),
    st.tuples(st.just("show"), st.sampled_from([State.STARTED, State.COMPLETED, State.FAILED]), st.integers(1, 4)),
    st.tuples(st.just("find_out"), st.sampled_from(["at rest", "absent"])),
    st.tuples(st.just("resolve")),
)


@dataclass(kw_only=True)
class Followed:
    """One stream: what was asked for, what its reader knew before, and how it ended if it was refused.

    `known` is None where the reader knew nothing of what was before the revision that it named. Who returns in the
    middle of a snapshot knows how all stand at `complete_from` at the latest: some have moved on since that place.
    """

    watcher: Watcher
    watched: Watched
    known: dict[str, Message] | None
    complete_from: int = 0
    refusal: Exception | None = None
    is_closed: bool = False  # by a crash

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes."""
        return self.is_closed or self.watcher.ended or self.refusal is not None

    @property
    def place(self) -> int:
        """The revision through which it has been told everything, as it must believe."""
        return self.watcher.seen[-1].revision if self.watcher.seen else self.watched.after or 0


@dataclass
class Truth:
    """All changes there ever were, by their revisions, which leave nothing out."""

    changes: list[Change] = field(default_factory=list)

    def concerning(self, watched: Watched) -> Iterable[Change]:
        """The changes of the starts that are watched, states aside."""
        stateless = replace(watched.selected, states=frozenset())
        for change in self.changes:
            asked = change.flow_start.asked
            is_meant = asked.tenant == watched.tenant and (not watched.ids or asked.id in watched.ids)
            if is_meant and stateless.selects(change.flow_start):
                yield change

    def standing(self, watched: Watched, as_of: int) -> dict[str, Change]:
        """How each start that is watched stood after a revision."""
        return {c.flow_start.asked.id: c for c in self.concerning(watched) if c.revision <= as_of}


class WatchMachine(RuleBasedStateMachine):
    """Writes, watches, reads, hangs up, comes back, forgets, crashes and restores."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.directory = Path(tempfile.mkdtemp(prefix="startflow-watch-"))
        self.clock = Clock()
        self.lives = 0
        self.truth = Truth()
        self.streams: list[Followed] = []
        self.running: list[str] = []
        self.accepted = 0
        self.copied: Truth | None = None
        self.is_open = False

    @initialize(
        most=st.integers(1, 12),
        most_bytes=CACHED_BYTES,
        read=st.integers(1, 4),
        steps=st.lists(STEPS, min_size=8, max_size=20),
    )
    def open(self, most: int, most_bytes: int, read: int, steps: list[tuple[Any, ...]]) -> None:
        """Opens the store with a small cache and small pages, so that a few changes are more than fit."""
        self.sizes = {"cached": most, "cached_bytes": most_bytes, "read": read}
        self.begin_life()
        self.work(steps)

    def begin_life(self) -> None:
        """Opens what is on the disk, and watches it."""

        async def begin() -> tuple[SqliteStore, Watch, asyncio.Task[None]]:
            store = open_sqlite(self.path, self.clock)
            watch = Watch(store, Plainly(), heartbeat=SILENCE / 5, **self.sizes)  # type: ignore[arg-type]
            await watch.open()
            return store, watch, asyncio.create_task(watch.run())

        self.store, self.watch, self.watching = self.run(begin())
        self.is_open = True

    @property
    def path(self) -> Path:
        """The file of this life."""
        return self.directory / f"life{self.lives}.db"

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Waits for whatever it is."""
        return self.loop.run_until_complete(coroutine)

    def write(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Writes, and notes every change before it can be forgotten."""
        self.run(coroutine)
        self.note()

    def note(self) -> None:
        """Notes what was recorded since; revisions are given one by one, whatever was forgotten or restored."""
        before = len(self.truth.changes)
        new = self.run(self.store.changes(before, 10_000)).changes
        assert list(range(before + 1, before + 1 + len(new))) == [change.revision for change in new]
        self.truth.changes += new

    # --- writing

    @rule(steps=st.lists(STEPS, min_size=4, max_size=10))
    def work(self, steps: list[tuple[Any, ...]]) -> None:
        """Does what callers and backends do. One rule, so that no run goes without."""
        for step, *rest in steps:
            self.write(getattr(self, f"_{step}")(*rest))

    async def _create(self, tenant: str, recipients: int, team: str) -> None:
        """Records a start."""
        now = self.clock()
        await create(self.store, singly(recipients), tenant=tenant, labels={"team": team}, created_at=now)

    async def _send(self, how: str, count: int) -> None:
        """Sends what is due."""
        for dispatch_id in await claim_ids(self.store, count):
            self.accepted += 1
            external_id = f"x{self.accepted}"
            state = State.STARTED if how == "started" else State.QUEUED
            if how in ("accepted", "started"):
                self.running.append(external_id)
                await settle(self.store, dispatch_id, accepted(external_id, state))
            else:
                await settle(self.store, dispatch_id, refused() if how == "refused" else unsure())

    async def _show(self, state: State, count: int) -> None:
        """Shows what runs as it is now, in one write."""
        shown = self.running[:count]
        if state in TERMINAL:
            self.running = self.running[count:]
        await self.store.sight(BACKEND, [seen(each, state) for each in shown], account=ACCOUNT)

    async def _find_out(self, how: str) -> None:
        """Leaves what is sought at rest, or finds that it was never sent."""
        for sought in (await self.store.sought(BACKEND, ACCOUNT))[:1]:
            if sought.state is State.UNCERTAIN and how == "at rest":
                await self.store.rest(sought)
            elif sought.state is State.UNCERTAIN:
                await self.store.absent(sought, on_absent=State.PENDING, pause=timedelta())

    async def _resolve(self) -> None:
        """Has what rests sent again, by an operator's word."""
        for change in self.truth.standing(Watched(tenant=TENANTS[0]), len(self.truth.changes)).values():
            start = change.flow_start
            if start.standing.state is State.UNCERTAIN and start.standing.next_attempt_at is None:
                word = Resolution(verdict=Verdict.WAS_NOT_SENT)
                await self.store.resolve(start.asked.tenant, start.asked.id, word)
                return

    @rule(seconds=st.integers(0, 60), steps=st.integers(1, 6))
    def forget(self, seconds: int, steps: int) -> None:
        """Forgets what is old by now, or some of it: what has not ended stays, and whatever stays has changed since."""
        self.clock.tick(seconds)

        async def forget() -> None:
            before = self.clock() - KEPT_FOR
            for _ in range(steps):
                await self.store.purge(before)

        self.write(forget())
        oldest = self.run(self.store.oldest())
        for tenant in TENANTS:
            page = self.run(self.store.snapshot(tenant, Filter(), frozenset(), after=0, limit=10_000))
            stands = self.truth.standing(Watched(tenant=tenant), len(self.truth.changes))
            kept = {start.asked.id: start.revision for start in page.flow_starts}
            assert kept == {each: change.revision for each, change in stands.items() if each in kept}
            assert all(revision > oldest for revision in kept.values())
            for start_id in set(stands) - set(kept):
                standing = stands[start_id].flow_start.standing
                assert standing.state in TERMINAL
                assert standing.updated_at < self.clock() - KEPT_FOR

    # --- the process and its file

    @rule()
    def crash(self) -> None:
        """Leaves the file as it is, and goes on from that in another life."""
        before, self.lives = self.path, self.lives + 1
        for suffix in ("", "-wal"):
            with suppress(FileNotFoundError):
                shutil.copy(f"{before}{suffix}", f"{self.path}{suffix}")
        self.end_life()
        self.begin_life()
        self.note()

    @rule()
    def back_up(self) -> None:
        """Copies the store while it is served from."""
        (self.directory / "copy.db").unlink(missing_ok=True)
        copies.backup(self.path, self.directory / "copy.db", self.clock())
        self.note()
        self.copied = Truth(self.truth.changes[: self.head_of_copy()])

    def head_of_copy(self) -> int:
        """The newest revision in the copy, which nobody has served from."""
        with closing(sqlite3.connect(self.directory / "copy.db", factory=SqliteConnection)) as conn:
            return head(conn)

    @precondition(lambda self: self.copied is not None)
    @rule()
    def restore(self) -> None:
        """Puts the copy in its place: what was recorded since never was, and nobody may go on as if it had been."""
        assert self.copied is not None
        self.end_life()
        copies.restore(self.directory / "copy.db", self.path)
        self.truth = Truth(list(self.copied.changes))
        self.running = []
        self.begin_life()
        self.note()
        for stream in self.streams[-5:]:
            if stream.watcher.seen:
                last = stream.watcher.seen[-1]
                again = Watcher(self.watch, tenant=stream.watched.tenant, after=last.revision, epoch=last.epoch)
                assert isinstance(self.run(self._refused(again)), RevisionNotAvailable)
        self.streams = []

    async def _refused(self, watcher: Watcher) -> Exception | None:
        try:
            await watcher.next()
        except RevisionNotAvailable as refusal:
            return refusal
        return None

    def end_life(self) -> None:
        """Ends whatever runs, and checks what every watcher was told until then."""
        for stream in self.streams:
            self.verify(stream)
            self.run(stream.watcher.close())
            stream.is_closed = True

        async def end() -> None:
            self.watching.cancel()
            with suppress(asyncio.CancelledError):
                await self.watching
            await self.store.close()

        self.run(end())

    # --- watching

    @rule(
        tenant=st.sampled_from(TENANTS),
        selected=st.sampled_from(FILTERS),
        place=st.sampled_from(["snapshot", "snapshot", "oldest", "within", "beyond"]),
        number=st.integers(0, 99),
        waits_for=st.sampled_from([None, None, None, 0, 2, "done"]),
        count=st.integers(0, 6),
        forgets=st.booleans(),
    )
    def follow(
        self,
        tenant: str,
        selected: Filter,
        place: str,
        number: int,
        waits_for: int | str | None,
        count: int,
        forgets: bool,  # noqa: FBT001 -- drawn
    ) -> None:
        """Watches a tenant, or some starts until they are done; from any revision, forgotten or not there yet too.

        What is watched may be forgotten when the stream has hardly begun.
        """
        head = len(self.truth.changes)
        oldest = self.run(self.store.oldest())
        places = {"snapshot": None, "oldest": oldest, "within": number % (head + 1), "beyond": head + 1 + number}
        watched = Watched(tenant=tenant, selected=selected, after=places[place])
        if waits_for is not None:
            standing = self.truth.standing(Watched(tenant=tenant), head)
            if isinstance(waits_for, int):
                ids = list(standing)[waits_for:]
            else:  # those that have changed last: the others may be forgotten
                ids = [each for each, c in standing.items() if c.flow_start.standing.is_done and c.revision > oldest]
            chosen = frozenset(ids[:3])
            watched = replace(watched, ids=chosen, until_done=bool(chosen))
        self.begin_stream(watched, {} if place == "snapshot" else None)
        if forgets:
            self.read(-1, 1, [])
            self.forget(60, 6)
        self.read(-1, count, [])

    def begin_stream(self, watched: Watched, known: dict[str, Message] | None, complete_from: int = 0) -> None:
        """Begins a stream; it does nothing before it is read."""
        watcher = Watcher(self.watch, **{name: getattr(watched, name) for name in FIELDS})
        self.streams.append(Followed(watcher=watcher, watched=watched, known=known, complete_from=complete_from))

    @precondition(lambda self: self.streams)
    @rule(number=st.integers(0, 99), message=st.integers(0, 99))
    def come_back(self, number: int, message: int) -> None:
        """Goes on from any message that was sent, with what was known by then."""
        stream = self.streams[number % len(self.streams)]
        if not stream.watcher.seen:
            return
        through = stream.watcher.seen[: message % len(stream.watcher.seen) + 1]
        last = through[-1]
        known = None if stream.known is None else stream.known | {m.start_id: m for m in through if m.start_id}
        is_amid = stream.watched.after is None and "snapshot_end" not in {message.kind for message in through}
        complete_from = len(self.truth.changes) if is_amid else stream.complete_from
        self.begin_stream(replace(stream.watched, after=last.revision, epoch=last.epoch), known, complete_from)

    @precondition(lambda self: self.streams)
    @rule(
        number=st.integers(0, 99), count=st.integers(1, 12), steps=st.lists(STEPS, max_size=4), beside=st.integers(0, 3)
    )
    def read(self, number: int, count: int, steps: list[tuple[Any, ...]], beside: int = 0) -> None:
        """Reads some messages of one stream, and of some beside it, while more is recorded; the others do not read."""
        first = number % len(self.streams)
        streams = (self.streams[first:] + self.streams[:first])[: 1 + beside]
        for message in range(count):
            self.work(steps[message : message + 1])
            self.run(self._read_each(streams))
        for stream in streams:
            self.verify(stream)

    async def _read_each(self, streams: list[Followed]) -> None:
        await asyncio.gather(*map(self._read, streams))

    async def _read(self, stream: Followed) -> None:
        """Reads one message. A refusal must have a reason."""
        if stream.is_over:
            return
        is_first = not stream.watcher.seen
        try:
            message = await stream.watcher.next()
            if is_first and message is not None:  # from there it can be gone on
                assert message.revision >= await self.store.oldest()
        except RevisionNotAvailable as refusal:
            stream.refusal = refusal
            head = len(self.truth.changes)
            assert stream.place < await self.store.oldest() or stream.place > head
        except NotFound as refusal:
            stream.refusal = refusal
            page = await self.store.snapshot(stream.watched.tenant, Filter(), frozenset(), after=0, limit=10_000)
            assert stream.watched.ids - {start.asked.id for start in page.flow_starts}

    def verify(self, stream: Followed) -> None:
        """Compares what a stream was sent so far with all that happened."""
        watched, messages = stream.watched, stream.watcher.seen
        if not messages:
            return
        revisions = [message.revision for message in messages]
        assert sorted(revisions) == revisions
        assert revisions[-1] <= len(self.truth.changes)
        last = self.last_of(stream)
        shown = stream.watcher.revisions
        assert len(set(shown)) == len(shown)
        assert "heartbeat" == messages[0].kind
        truth = {change.revision: change for change in self.truth.concerning(watched)}
        for message in stream.watcher.changes:
            start = truth[message.revision].flow_start
            assert (start.asked.id, start.standing.state.name) == (message.start_id, message.state)
        ends = [message.revision for message in messages if message.kind == "snapshot_end"]
        begin = watched.after if watched.after is not None else next(iter(ends), None)
        if begin is not None:
            expected = [
                revision
                for revision, change in truth.items()
                if begin < revision <= last and watched.selected.selects(change.flow_start, change.state_before)
            ]
            assert expected == [revision for revision in shown if revision > begin]
            if stream.known is not None and stream.place >= stream.complete_from and not stream.watcher.ended:
                self.verify_knowledge(stream)

    def last_of(self, stream: Followed) -> int:
        """The revision through which it was told what it selects: of one that ended, that with which all was done."""
        if not stream.watcher.ended:
            return stream.place
        assert stream.watched.until_done
        everything = replace(stream.watched, selected=Filter())  # a filter may hide with what it ended
        for revision in range(stream.place, len(self.truth.changes) + 1):
            if all(change.flow_start.standing.is_done for change in self.truth.standing(everything, revision).values()):
                return revision
        raise AssertionError("a stream ended before all was done")

    def verify_knowledge(self, stream: Followed) -> None:
        """Whoever puts together what was sent knows how every start stands that matches, and which ones do not."""
        assert stream.known is not None
        watched = stream.watched
        known = stream.known | {message.start_id: message for message in stream.watcher.changes}
        oldest = self.run(self.store.oldest())
        for start_id, change in self.truth.standing(watched, stream.place).items():
            start, message = change.flow_start, known.get(start_id)
            if not watched.selected.selects(start):
                left_out = Filter(states=watched.selected.states)
                assert message is None or State[message.state] not in left_out.states
            elif start.standing.state in TERMINAL and start.revision <= oldest:
                pass  # it may have been erased before it was shown
            else:
                assert message is not None
                assert start.revision == message.revision

    def teardown(self) -> None:
        """Lets everybody read to the newest revision, and checks all of it."""
        if self.is_open:
            self.read_to_the_end()
            self.end_life()
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        shutil.rmtree(self.directory)

    def read_to_the_end(self) -> None:
        """Reads every stream to the newest revision; one that waits must have ended if all are done."""
        self.clock.tick(2)
        self.write(self.store.sight(BACKEND, [], account=ACCOUNT))  # tells the progress that was held back
        head = len(self.truth.changes)
        for stream in self.streams:
            for _ in range(PATIENCE):
                if stream.is_over:
                    break
                if stream.place >= head and (stream.watched.after is not None or self.has_snapshot(stream)):
                    for _ in range(3 if stream.watched.until_done else 0):  # that it ends is seen only by reading on
                        self.run(self._read(stream))
                    break
                self.run(self._read(stream))
            else:
                raise AssertionError("a watcher did not get to the newest revision")
            done = {
                start_id: change.flow_start.standing.is_done
                for start_id, change in self.truth.standing(replace(stream.watched, selected=Filter()), head).items()
            }
            if stream.watched.until_done and not stream.is_over:
                assert not all(done.values())

    @staticmethod
    def has_snapshot(stream: Followed) -> bool:
        """Whether its snapshot is over."""
        return "snapshot_end" in {message.kind for message in stream.watcher.seen}


TestWatchModel = WatchMachine.TestCase
TestWatchModel.settings = settings(
    max_examples=size(20, quick=8),
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)


@pytest.mark.longer
def test_the_model_at_length() -> None:
    """Runs three times as many examples."""
    run_state_machine_as_test(WatchMachine, settings=settings(TestWatchModel.settings, max_examples=60))
