"""The judge finds what is wrong, each thing by its name, and finds nothing where nothing is."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.chaos.evidence import Attempt, Created, Evidence, Part, Sent, Shown, Told
from tests.chaos.judge import ambiguous, judge, kills_that_hit, resting
from tests.chaos.plan import Options, Wanted, draw

if TYPE_CHECKING:
    from collections.abc import Callable

URNS = ("tel:+12060000001", "tel:+12060000002")
WANTED = Wanted(number=1, backend="rapidpro", flow="f", urns=URNS)
PART = Part(id="s-0", state="COMPLETED", external_id="x", reason="", detail="", recipients=URNS)
CREATED = Created(line=2, at=10.1, key="s-0", external_id="x", recipients=frozenset(URNS))
SENT = Sent(line=1, at=10.0, key="s-0")


def world(**changes: Any) -> Evidence:
    """One start that was asked for, sent, created and completed, but for some changes.

    They are of the start's only dispatch (`part`), of the call (`told`), of what is shown (`shown`), of the rest.
    """
    part = replace(PART, **changes.pop("part", {}))
    told = replace(Told(wanted=WANTED, start_id="s"), **changes.pop("told", {}))
    shown = Shown(
        id="s", request_id="chaos-1", state="COMPLETED", is_resting=False, warnings={}, parts=(part,), attempts=()
    )
    shown = replace(shown, **changes.pop("shown", {}))
    evidence = Evidence(
        told=(told,),
        shown={"s": shown},
        created=(CREATED,),
        sent=(SENT,),
        ended=frozenset(),
        kills=(),
        pauses=(),
        fired={},
        in_flight={},
    )
    return replace(evidence, **changes)


PEOPLE = tuple(replace(PART, id=f"s-{n}", external_id=f"x{n}", recipients=(urn,)) for n, urn in enumerate(URNS))
REACHED = tuple(
    Created(
        line=2 + n, at=10.0 + n, key=f"s-{n}", external_id=f"x{n}", recipients=frozenset({urn}), people=frozenset({urn})
    )
    for n, urn in enumerate(URNS)
)
SPELLED = ("tel:+12060000001", "tel:+1 (206) 000-0001")
SPELLED_TWICE = replace(WANTED, urns=SPELLED, is_spelled_twice=True)
ALONE = replace(CREATED, recipients=frozenset(URNS[:1]))
TWIN = replace(CREATED, line=4, at=14.0, external_id="y")
FAILED = {"state": "FAILED", "external_id": "", "reason": "EXPIRED"}
POISONED = {"state": "FAILED", "external_id": "", "reason": "BACKEND_FAILED"}
OTHERS = tuple(replace(CREATED, key="t-0", line=20 + n, at=0.5 + n) for n in range(3))
OTHER = Told(wanted=replace(WANTED, number=2), start_id="t")
THREE = tuple(Attempt(dispatch="s-0", begun=n, outcome="UNSURE", detail="HTTP 500") for n in range(3))


def poison(others: tuple[Created, ...]) -> Evidence:
    """A start that the backend failed three times, while it took others."""
    evidence = world(part=POISONED, shown={"state": "FAILED", "attempts": THREE}, created=others)
    parts = (replace(PART, id="t-0"),)
    other = replace(evidence.shown["s"], id="t", state="COMPLETED", parts=parts, attempts=())
    if not others:
        return evidence
    return replace(evidence, told=(*evidence.told, OTHER), shown={**evidence.shown, "t": other})


RIGHT = {
    "completed": world(),
    "expired before it was sent": world(
        part=FAILED, shown={"state": "FAILED"}, told={"expire_at": 12.0}, created=(), sent=()
    ),
    "uncertain at rest, created or not": world(
        part={"state": "UNCERTAIN", "external_id": ""}, shown={"state": "UNCERTAIN", "is_resting": True}
    ),
    "given up by the operator, and there after all": world(
        part={**FAILED, "reason": "OUTCOME_UNKNOWN"},
        shown={"state": "FAILED", "warnings": {"FOUND_AFTER_END": {"s-0": "x"}}},
        told={"resolved": {"s-0": "give_up"}},
    ),
    "refused because it had expired": replace(
        world(told={"start_id": "", "refused": "expired"}), shown={}, created=(), sent=()
    ),
    "cancelled while it ran": world(
        part={"state": "INTERRUPTED", "reason": "CANCELLED"},
        shown={"state": "INTERRUPTED"},
        told={"cancelled_at": 12.0},
        ended=frozenset({"x"}),
    ),
    "cancelled, and killed before the backend could be asked to end it": world(
        part={"state": "INTERRUPTED", "reason": "CANCELLED"},
        shown={"state": "INTERRUPTED"},
        told={"cancelled_at": 12.0},
        created=(replace(CREATED, over_at=14.0),),
        kills=(13.0,),
    ),
    "sent at once after a pause in which it expired": world(told={"expire_at": 9.0}, pauses=((8.0, 9.9),)),
    "poison": poison(OTHERS[:1]),
    "two dispatches, two people": world(shown={"parts": PEOPLE}, created=REACHED),
    "one person in two spellings, named once": world(
        told={"wanted": SPELLED_TWICE},
        part={"recipients": SPELLED[:1]},
        created=(replace(CREATED, recipients=frozenset(SPELLED[:1]), people=frozenset(SPELLED[:1])),),
    ),
    "a refusal of two spellings": replace(
        world(told={"start_id": "", "refused": "two spellings", "wanted": SPELLED_TWICE}), shown={}, created=(), sent=()
    ),
}

WRONG: dict[str, tuple[str, Evidence]] = {
    "a start that is gone": ("lost", replace(world(), shown={})),
    "a call that was never answered": ("lost", replace(world(told={"start_id": ""}), shown={}, created=(), sent=())),
    "a start that has not ended": ("lost", world(shown={"state": "STARTED"})),
    "a start that is uncertain and not at rest": ("lost", world(shown={"state": "UNCERTAIN"})),
    "said to be completed, never created": ("lost", world(part={"external_id": ""}, created=())),
    "a recipient left out": ("lost", world(part={"recipients": URNS[:1]}, created=(ALONE,))),
    "created for nobody's start": ("lost", world(created=(CREATED, replace(CREATED, key="t-0", line=9)))),
    "created twice": ("twice", world(created=(CREATED, TWIN))),
    "expired, and created": ("wrong", world(part=FAILED, shown={"state": "FAILED"}, told={"expire_at": 12.0})),
    "cancelled, and created": (
        "wrong",
        world(
            part={"state": "INTERRUPTED", "external_id": "", "reason": "CANCELLED"},
            shown={"state": "INTERRUPTED"},
            told={"cancelled_at": 12.0},
        ),
    ),
    "given up by the operator, there after all, and not told": (
        "wrong",
        world(
            part={**FAILED, "reason": "OUTCOME_UNKNOWN"},
            shown={"state": "FAILED"},
            told={"resolved": {"s-0": "give_up"}},
        ),
    ),
    "another external id": ("wrong", world(part={"external_id": "z"})),
    "completed without an external id": ("wrong", world(part={"external_id": ""})),
    "other recipients": ("wrong", world(created=(ALONE,))),
    "a duplicate that is none": ("wrong", world(shown={"warnings": {"DUPLICATE_SENT": {"a": "x", "b": "y"}}})),
    "expired, though it does not expire": ("wrong", world(part=FAILED, shown={"state": "FAILED"}, created=(), sent=())),
    "cancelled by nobody": (
        "wrong", world(part={"state": "INTERRUPTED", "reason": "CANCELLED"}, shown={"state": "INTERRUPTED"})
    ),
    "cancelled, and never ended": (
        "wrong",
        world(
            part={"state": "INTERRUPTED", "reason": "CANCELLED"},
            shown={"state": "INTERRUPTED"},
            told={"cancelled_at": 12.0},
        ),
    ),
    "busy with nobody": (
        "wrong", world(part={**FAILED, "reason": "RECIPIENT_BUSY"}, shown={"state": "FAILED"}, created=())
    ),
    "skipped, though nobody is to be": ("wrong", world(part={"state": "SKIPPED", "external_id": ""}, created=())),
    "replaced, and never ended": (
        "wrong", world(part={"state": "INTERRUPTED", "reason": "REPLACED"}, shown={"state": "INTERRUPTED"})
    ),
    "overtaken, though it was to replace nobody": (
        "wrong",
        world(
            part={**FAILED, "state": "INTERRUPTED", "reason": "REPLACED"}, shown={"state": "INTERRUPTED"}, created=()
        ),
    ),
    "failed by the backend once": (
        "wrong", world(part=POISONED, shown={"state": "FAILED", "attempts": THREE[:1]}, created=())
    ),
    "poison, taken from nobody else until the last round": ("wrong", poison(OTHERS[2:])),
    "failed for no reason": ("wrong", world(part={**FAILED, "reason": ""}, shown={"state": "FAILED"}, created=())),
    "given up by nobody": (
        "wrong", world(part={**FAILED, "reason": "OUTCOME_UNKNOWN"}, shown={"state": "FAILED"}, created=())
    ),
    "a start that nobody asked for": (
        "wrong", replace(world(), shown=world().shown | {"t": replace(world().shown["s"], id="t", parts=())})
    ),
    "sent before its time": ("untimely", world(told={"schedule_at": 11.0})),
    "sent after its end": ("untimely", world(told={"expire_at": 9.0})),
    "sent long after a pause": ("untimely", world(told={"expire_at": 9.0}, pauses=((8.0, 9.2),))),
    "sent after its end and a later pause": ("untimely", world(told={"expire_at": 8.0}, pauses=((8.5, 9.9),))),
    "sent after it was cancelled": ("untimely", world(told={"cancelled_at": 9.0})),
    "a retry that was refused": ("refused", world(told={"complaints": ["NOT_FOUND"]})),
    "a bug in the log": ("bug", world(bugs=("loop_failed",))),
    "an invariant that a kill broke": ("broken", world(broken=("starts_with_blocks_wait",))),
    "one person by two dispatches, in two spellings": (
        "twice",
        world(
            told={"wanted": SPELLED_TWICE},
            shown={"parts": tuple(replace(part, recipients=(urn,)) for part, urn in zip(PEOPLE, SPELLED, strict=True))},
            created=tuple(
                replace(each, recipients=frozenset({urn}), people=frozenset(SPELLED[:1]))
                for each, urn in zip(REACHED, SPELLED, strict=True)
            ),
        ),
    ),
    "over, and the tail never sent": (
        "lost",
        world(shown={"parts": (PEOPLE[0], replace(PEOPLE[1], state="PENDING", external_id=""))}, created=REACHED[:1]),
    ),
    "an outage taken for poison": ("wrong", poison(())),
}  # fmt: skip


@pytest.mark.parametrize("evidence", RIGHT.values(), ids=RIGHT.keys())
def test_nothing_is_found_where_nothing_is_wrong(evidence: Evidence) -> None:
    """Also not in what may look odd at first."""
    assert [] == judge(evidence)


@pytest.mark.parametrize(("kind", "evidence"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_found(kind: str, evidence: Evidence) -> None:
    """Each by its name."""
    assert kind in {violation.kind for violation in judge(evidence)}


@pytest.mark.parametrize(
    ("warnings", "may_repeat", "kinds"),
    [
        ({}, True, {"twice"}),
        ({"DUPLICATE_SENT": {"external_ids": "x, y"}}, False, {"twice"}),
        ({"DUPLICATE_SENT": {"external_ids": "x, y"}}, True, set()),
        ({"DUPLICATE_SENT": {"x": "s-0", "y": "s-0"}}, True, set()),
        ({"DUPLICATE_SENT": {"external_ids": "p, q"}}, True, {"wrong"}),
    ],
)
def test_a_duplicate_passes_only_if_it_may_be_and_is_reported(
    warnings: dict[str, Any],
    may_repeat: bool,  # noqa: FBT001 -- a column of the table
    kinds: set[str],
) -> None:
    """By a warning that names it."""
    evidence = world(shown={"warnings": warnings}, created=(CREATED, TWIN))

    found = judge(evidence, may_repeat=may_repeat)

    assert kinds == {violation.kind for violation in found}
    assert all(violation.lines == (1, 2, 4) for violation in found)


@pytest.mark.parametrize(("kept", "kinds"), [(True, {"wrong"}), (False, set())])
def test_found_after_the_end_is_right_only_where_backends_are_late(*, kept: bool, kinds: set[str]) -> None:
    """Within the quiet window nothing may be taken for absent that is not."""
    shown = {"state": "FAILED", "warnings": {"FOUND_AFTER_END": {"s-0": "x"}}}
    evidence = world(part=FAILED, shown=shown, told={"expire_at": 12.0})

    assert kinds == {violation.kind for violation in judge(evidence, kept=kept)}


def test_a_violation_names_the_start_and_the_journals_lines() -> None:
    """So that somebody can look."""
    (violation,) = judge(world(created=(CREATED, TWIN)))

    assert str(violation) == "twice: s: s-0 was created 2 times, reported: None (journal 1, 2, 4)"


def test_what_is_counted() -> None:
    """Ambiguous sends, what rests with its reason, and the kills that hit: one counts once, however much it hit."""
    stopped = "the gateway stopped while sending"
    attempts = [
        Attempt(dispatch="s-0", begun=begun, outcome="UNSURE", detail=detail)
        for begun, detail in ((1.0, stopped), (1.5, stopped), (2.5, "HTTP 500"), (7.0, stopped))
    ]
    evidence = world(
        part={"state": "UNCERTAIN", "external_id": "", "detail": "timeout"},
        shown={"state": "UNCERTAIN", "is_resting": True, "attempts": tuple(attempts)},
        kills=(2.0, 3.0, 8.0),
    )

    assert (4, {"s-0": "timeout"}, 2) == (ambiguous(evidence), resting(evidence), kills_that_hit(evidence))


@pytest.mark.parametrize("change", [lambda o: o, lambda o: replace(o, seed=o.seed + 1)], ids=["same", "other"])
def test_a_seed_draws_its_plan_again(change: Callable[[Options], Options]) -> None:
    """And another seed another one."""
    options = Options(seed=5, starts=200, kills=20)
    other = change(options)

    first, second = draw(options), draw(other)

    assert (options == other) == ((first.lives, first.weathers) == (second.lives, second.weathers))
    assert len(first.starts) >= options.starts
    assert len(first.starts) == len({wanted.request_id for wanted in first.starts})
