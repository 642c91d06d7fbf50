"""An adapter that is wrong is named in the log, and is `Unsure`; whoever asked it goes on."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from gateway.adapters.base import (
    Accepted,
    Canceller,
    Distrusted,
    Flows,
    KeyReader,
    Listener,
    Lister,
    Missing,
    Push,
    Reply,
    Request,
    Sweep,
    Throttled,
    Unsure,
)
from gateway.lanes.guarding import guarded
from gateway.model import Recipients, State
from gateway.sightings import Sighting
from tests.builders import ACCOUNT, NOON, asked
from tests.contract.test_adapters import TABLES, drive
from tests.test_tracker import Follower

if TYPE_CHECKING:
    from collections.abc import Generator

    from gateway.store.sqlite import SqliteStore
    from tests.builders import Clock

GET = Request(method="GET", path="/", headers={})
SEEN = Sighting(external_id="x1", state=State.QUEUED)
TAKEN = Accepted(external_id="x1", state=State.QUEUED, account="", accepted_at=None)


class Wrong:
    """An adapter whose every verb concludes what it is told to."""

    capabilities = TABLES

    def __init__(self, conclusion: Any) -> None:
        self.conclusion = conclusion

    def _exchange(self, *_: Any) -> Generator[Request, Any, Any]:
        yield GET
        return self.conclusion() if callable(self.conclusion) else self.conclusion

    send = sweep = look = identify = flows = key = cancel = _exchange

    def hear(self, _push: Push) -> Any:
        """Hears what it is told to."""
        return self.conclusion() if callable(self.conclusion) else self.conclusion


def concluded(verb: str, conclusion: Any) -> tuple[Any, list[Any]]:
    """Asks a guarded adapter; returns what it says, and what was logged."""
    adapter: Any = guarded(Wrong(conclusion), "loft")  # type: ignore[arg-type]  # that is what is tried
    with capture_logs() as logged:
        if verb == "hear":
            return adapter.hear(Push(url="", headers={})), logged
        _, said = drive(getattr(adapter, verb)(None), [Reply(status=200)])
    return said, logged


def raising() -> Any:
    """Raises as a bug does."""
    raise KeyError("+12065551212")


# fmt: off
WRONG: list[tuple[str, Any, str]] = [
    ("sweep",    None,                                                   "a NoneType for a Sweep"),
    ("sweep",    Sweep(sightings=(), unread=3),                          "a int for a frozenset (Sweep.unread)"),  # type: ignore[arg-type]
    ("sweep",    Sweep(sightings=[SEEN]),                                "a list for a tuple (Sweep.sightings)"),  # type: ignore[arg-type]
    ("sweep",    Sweep(sightings=(SEEN, replace(SEEN, external_id=3))),  "a int for a str (Sighting.external_id)"),  # type: ignore[arg-type]
    ("sweep",    Sweep(sightings=(replace(SEEN, state=2),)),             "a int (Sighting.state)"),  # type: ignore[arg-type]
    ("sweep",    Sweep(sightings=(), newest=datetime(2026, 1, 1)),       "time zone"),  # noqa: DTZ001
    ("sweep",    Sweep(sightings=(), newest=NOON.replace(year=9999)),    "of a year that no clock shows"),
    ("send",     "accepted",                                             "a str"),
    ("send",     Missing(),                                              "a Missing"),
    ("send",     replace(TAKEN, external_id=None),                       "a NoneType for a str (Accepted.external_id)"),  # type: ignore[arg-type]
    ("send",     replace(TAKEN, warnings="odd"),                         "a str for a tuple (Accepted.warnings)"),  # type: ignore[arg-type]
    ("send",     Throttled(seconds=math.nan),                            "not finite"),
    ("send",     Throttled(seconds="7"),                                 "a str (Throttled.seconds)"),  # type: ignore[arg-type]
    ("look",     TAKEN,                                                  "a Accepted"),
    ("identify", 1,                                                      "a int"),
    ("flows",    [],                                                     "a list for a Flows"),
    ("key",      b"key",                                                 "a bytes"),
    ("cancel",   True,                                                   "a bool"),
    ("hear",     [],                                                     "a list"),
]
# fmt: on


@pytest.mark.parametrize(("verb", "conclusion", "wrong"), WRONG)
def test_a7_what_is_of_the_wrong_type_is_not_believed(verb: str, conclusion: Any, wrong: str) -> None:
    """It is `Unsure`, and the log says whose it is and what was wrong."""
    said, (entry,) = concluded(verb, conclusion)
    doubt = said.trouble if isinstance(said, Sweep | Flows) else said

    assert isinstance(doubt, Unsure)
    assert ("adapter_wrong", "error", "loft", verb) == tuple(
        entry[key] for key in ("event", "log_level", "backend", "verb")
    )
    assert wrong in entry["wrong"]


@pytest.mark.parametrize("verb", ["send", "sweep", "look", "identify", "flows", "key", "cancel", "hear"])
def test_a7_what_raises_is_not_believed(verb: str) -> None:
    """With the name of the error, and without its words in what is told of the start."""
    said, (entry,) = concluded(verb, raising)
    doubt = said.trouble if isinstance(said, Sweep | Flows) else said

    assert isinstance(doubt, Unsure)
    assert doubt.reason == "the adapter raises KeyError"
    assert isinstance(entry["exc_info"], KeyError)


def test_a7_what_asks_for_no_request_is_not_believed() -> None:
    """Nor is what is no exchange at all."""
    for verb, wrong in (("send", lambda _: iter(["GET /"])), ("look", lambda _: SEEN)):
        adapter: Any = Wrong(None)
        setattr(adapter, verb, wrong)
        with capture_logs() as logged:
            _, said = drive(getattr(guarded(adapter, "loft"), verb)(None), [])

        assert isinstance(said, Unsure)
        assert len(logged) == 1


ASKED_FOR = Recipients(urns=("tel:+12065550001", "tel:+12065550002"), groups=("g",))
# fmt: off
PLANS: list[tuple[str, Any]] = [
    ("of nothing",     []),
    ("without the rest", [Recipients(urns=ASKED_FOR.urns[:1])]),
    ("with one twice", [ASKED_FOR, Recipients(urns=ASKED_FOR.urns[1:])]),
    ("with nobody",    [ASKED_FOR, Recipients()]),
    ("of tuples",      [ASKED_FOR.urns, ASKED_FOR.groups]),
    ("that is none",   None),
]
# fmt: on


@pytest.mark.parametrize("plan", [plan for _, plan in PLANS], ids=[name for name, _ in PLANS])
def test_a7_a_plan_that_does_not_name_each_recipient_once_is_not_carried_out(plan: Any) -> None:
    """Nothing of it is recorded: somebody would have been left out, or reached twice, and nobody would know."""
    adapter: Any = Wrong(None)
    adapter.plan = lambda _asked, _recipients: plan
    with capture_logs() as logged, pytest.raises(TypeError, match="plan"):
        guarded(adapter, "loft").plan(asked(), ASKED_FOR)

    assert [("adapter_wrong", "loft", "plan")] == [(each["event"], each["backend"], each["verb"]) for each in logged]


def test_a_plan_may_have_the_recipients_in_any_order() -> None:
    """It is handed on as it is."""
    adapter: Any = Wrong(None)
    right = [Recipients(urns=ASKED_FOR.urns[1:], groups=("g",)), Recipients(urns=ASKED_FOR.urns[:1])]
    adapter.plan = lambda _asked, _recipients: right

    assert right is guarded(adapter, "loft").plan(asked(), ASKED_FOR)


@pytest.mark.parametrize(
    ("verb", "conclusion"),
    [
        ("sweep", Sweep(sightings=(SEEN,), account="a", newest=NOON, trouble=Throttled(seconds=3))),
        ("send", TAKEN),
        ("send", Throttled(seconds=None)),
        ("look", Missing()),
        ("flows", Flows(flows=())),
        ("hear", ()),
        ("hear", Distrusted(why="x")),
    ],
)
def test_what_is_right_is_handed_on(verb: str, conclusion: Any) -> None:
    """As it is; what the tables of the adapters hold is handed on too, which their tests show."""
    said, logged = concluded(verb, conclusion)

    assert conclusion is said
    assert not logged


def test_a_guarded_adapter_has_the_verbs_that_it_has() -> None:
    """And no others: by them the rest of the gateway tells what it can."""
    adapter: Any = Wrong(None)
    lister: Any = type("OnlyLists", (), {"flows": lambda _self, _flow: None})()

    assert all(isinstance(guarded(adapter, "x"), each) for each in (Lister, KeyReader, Canceller, Listener))
    assert isinstance(guarded(lister, "x"), Lister)
    assert not any(isinstance(guarded(lister, "x"), each) for each in (KeyReader, Canceller, Listener))


async def test_a7_a_sweep_of_the_wrong_type_settles_nothing_and_stops_nothing(store: SqliteStore, clock: Clock) -> None:
    """The adapter that people copied handed a number where the flows belong that could not be read."""
    follower = Follower(store, clock)
    follower.tracker._backend = replace(
        follower.tracker._backend, adapter=guarded(follower.script, follower.tracker._backend.name)
    )
    start = await follower.unsure()
    odd = Sweep(sightings=(), account=ACCOUNT, unread=0)  # type: ignore[arg-type]  # that is what is tried
    with capture_logs() as logged:
        states = await follower.scan(start, 0, 200, 200, 200, swept=odd)

    assert [State.UNCERTAIN] * 4 == states
    assert 4 == sum(entry["event"] == "adapter_wrong" for entry in logged)
