"""Which faults the sandbox is told to inject, a spell of weather at a time.

| kind               | what happens to a request                                                                 |
|--------------------|-------------------------------------------------------------------------------------------|
| `refused`          | no connection is taken; counted by the attempts that the gateway reports as not sent      |
| `reset_…`          | the connection is reset, before or after the backend has carried the request out          |
| `500_…`            | answered 500, before or after                                                             |
| `late`             | answered by a reset, a 500 or a 502; carried out later, up to `late` of the quiet window  |
| `slow`             | carried out after the gateway's patience, within the quiet window; answered to nobody     |
| `hang_…`           | never answered                                                                            |
| `delayed`          | carried out at once, answered after the gateway's patience                                |
| `html_502`         | a proxy's page, whatever was asked                                                        |
| `truncated_201`    | half of the answer                                                                        |
| `throttled…`       | 429, with and without `Retry-After`, whatever was asked                                   |
| `empty`            | a list without rows; in some lives of the gateway nearly every list of one backend        |
| `lag`              | reads do not see what is younger than up to a quarter of the quiet window                 |
| `archived`         | the second flow of each backend cannot be started, as far as look-ups tell                |

RapidPro is read from two replicas that lag by up to a quarter of the quiet window, in short pages; its rows commit
late.
Beside the weather one endpoint at a time is out for a good while, many quiet windows long:

| outage              | what is out                                                                              |
|---------------------|------------------------------------------------------------------------------------------|
| `mailroom_down`     | every POST is a 500, while all can be read                                               |
| `firewall`          | the POSTs of one flow are refused with a page that is not the backend's                  |
| `without_params`    | a 201 and lists show no params, or empty ones                                            |
| `another_201`       | a cache answers with the start before                                                    |
| `unnamed_workspace` | a proxy drops the header that names the workspace                                        |
| `proxy`             | a proxy answers everything with a page                                                   |
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Iterator

    from tests.chaos.plan import Options
    from tests.end_to_end.processes import SandboxProcess

Rules: TypeAlias = "tuple[tuple[str, dict[str, Any]], ...]"  # each with the kind of fault it is
BACKENDS = ("rapidpro", "twilio")
OF_CREATES = {  # the probability of each for a request that creates, in percent
    "reset_before_commit": 4.5,
    "reset_after_commit": 4.5,
    "500_before_commit": 4.5,
    "500_after_commit": 4.5,
    "truncated_201": 4.5,
    "hang": 4.5,
    "hang_before_commit": 4.5,
}
OUTAGES: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {  # each with its rules, of which one is drawn
    "mailroom_down": (("rapidpro", {"preset": "mailroom_down"}),),
    "firewall": (
        ("rapidpro", {"preset": "firewall", "match": "309f8a4b"}),
        ("twilio", {"preset": "firewall", "match": "/Flows/FWbbbb"}),
    ),
    "without_params": (
        ("rapidpro", {"preset": "without_params"}),
        ("rapidpro", {"preset": "without_params", "verb": "list"}),
        ("rapidpro", {"preset": "blank_params", "verb": "create"}),
    ),
    "another_201": (("rapidpro", {"preset": "another_201"}), ("twilio", {"preset": "another_201"})),
    "unnamed_workspace": (("rapidpro", {"preset": "unnamed_workspace"}),),
    "proxy": (("twilio", {"preset": "html_502"}), ("rapidpro", {"preset": "html_502"})),
}
LENGTHS = {"mailroom_down": (18.0, 24.0), "without_params": (8.0, 14.0)}  # seconds; of the others:
LENGTH = (4.0, 8.0)
TWILIO_PAGE = 250  # rows, so few that there are several pages
FEWER = {"rapidpro": 1.0, "twilio": 0.5}  # of each fault: a large start of Twilio's is as many requests
COUNTED = (
    "refused", *OF_CREATES, "late", "slow", "delayed", "html_502", "throttled", "throttled_without_retry_after",
    "empty", "lag",
)  # fmt: skip
LAG = 0.25  # of the quiet window, at the most
EMPTY = {
    "rapidpro": {"results": [], "next": None, "previous": None},
    "twilio": {
        "executions": [],
        "meta": {"page": 0, "page_size": 1000, "next_page_url": None, "previous_page_url": None, "key": "executions"},
    },
}
ARCHIVED = {
    "rapidpro": {"match": "uuid=309f8a4b", "answer": {"patch": {"archived": True}}},
    "twilio": {
        "match": "/Flows/FWbbbb",
        "commit": False,
        "answer": {"status": 404, "body": {"code": 20404, "message": "not found", "status": 404}},
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """Rules for the sandbox, each with the kind of fault it is, and when connections are refused."""

    seconds: float
    rules: Rules
    refusals: tuple[tuple[str, float, float], ...]  # backend, seconds until it begins, seconds that it lasts
    database: dict[str, Any]  # how RapidPro's behaves


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """One endpoint that is out: after how many seconds of the weather it begins, and how long it lasts."""

    kind: str
    after: float
    seconds: float
    backend: str
    rule: dict[str, Any]


def draw_outages(chance: random.Random, options: Options) -> Iterator[Outage]:
    """Draws one after the other, with the time between them that leaves them their share of all."""
    at = 2.0
    while options.outages and at < options.seconds:
        kinds = [options.only] if options.only else chance.sample(list(OUTAGES), len(OUTAGES))  # each once in a round
        for kind in kinds:
            rules = [each for each in OUTAGES[kind] if options.verb in ("", each[1].get("verb"))]
            backend, rule = chance.choice(rules)
            seconds = chance.uniform(*LENGTHS.get(kind, LENGTH)) * options.window / 2 * options.stretch
            yield Outage(kind=kind, after=at, seconds=seconds, backend=backend, rule=rule)
            at += seconds / options.outages


def draw_weather(chance: random.Random, options: Options) -> Weather:
    """Draws a spell of it, for both backends."""
    rules: list[tuple[str, dict[str, Any]]] = []
    refusals = []
    database = {
        "replicas": [(share if options.restless else chance.uniform(0, LAG)) * options.window for share in (0, LAG)],
        "pick": chance.choice(("alternate", "random")),
        "transaction": [0, chance.uniform(0, 0.3)],
        "page_size": options.page_size,
        "ahead": options.ahead,
    }
    if options.calm:
        late = [
            (kind, {"backend": backend, **rule})
            for backend in BACKENDS
            for kind, rule in _draw_late(chance, backend, options)
            if options.often > 1
        ]
        return Weather(seconds=3, rules=(*late, *calm(options.latency)), refusals=(), database=database)
    is_archived = chance.random() < 0.3
    for backend in BACKENDS:
        rules += [(kind, {"backend": backend, **rule}) for kind, rule in _draw_rules(chance, backend, options)]
        if is_archived:
            rules.append(("archived", {"backend": backend, "verb": "flows", **ARCHIVED[backend]}))
        if chance.random() < 0.4:
            rules.append(("lag", {"backend": backend, "list_lag": chance.uniform(0.2, 1) * LAG * options.window}))
        refusals += [
            (backend, soonest + chance.uniform(0, 0.4), chance.uniform(0.2, 0.7))
            for soonest in (0.0, 1.2)
            if chance.random() < 0.7
        ]
        rules.append(("", {"backend": backend, "verb": "create", "commit": 0.03, "probability": 0.5}))
        rules.append(("", {"backend": backend, "verb": "create", "delay": chance.uniform(0.03, 0.08)}))
    return Weather(seconds=chance.uniform(1.5, 3), rules=tuple(rules), refusals=tuple(refusals), database=database)


def calm(latency: float = 0.03) -> Rules:
    """Leaves nothing but a backend's usual latency."""
    return tuple(("", {"backend": backend, "verb": "create", "delay": latency}) for backend in BACKENDS)


def _draw_rules(chance: random.Random, backend: str, options: Options) -> list[tuple[str, dict[str, Any]]]:
    rules: list[tuple[str, dict[str, Any]]] = [
        (kind, {"preset": kind, "probability": percent / 100 * FEWER[backend]})
        for kind, percent in OF_CREATES.items()
        if options.is_kept  # what is sent again must go at once to come before what is late: an open lane, that is
    ]
    rules += _draw_late(chance, backend, options)
    soonest, latest = options.timeout * 1.02, max(options.timeout * 1.05, 0.9 * options.window)
    slow = {"verb": "create", "commit": chance.uniform(soonest, latest)}  # within the window of its arrival, even
    rules.append(("slow", {**slow, "probability": 0.045 * FEWER[backend]}))
    delay = options.timeout * chance.uniform(1.1, 2)
    rules.append(("delayed", {"verb": "create", "delay": delay, "probability": 0.045 * FEWER[backend]}))
    rules.append(("empty", {"verb": "list", "answer": {"patch": EMPTY[backend]}, "probability": 0.08}))
    rules += [
        (kind, {"preset": kind, "probability": probability * FEWER[backend]})
        for kind, probability in (
            ("html_502", 0.03),
            ("throttled", 0.02),
            ("throttled_without_retry_after", 0.03),
        )
    ]
    chance.shuffle(rules)
    return rules


def _draw_late(chance: random.Random, backend: str, options: Options) -> Iterator[tuple[str, dict[str, Any]]]:
    """Draws four delays, and how each is answered meanwhile."""
    ends = ("late_commit", "500_before_commit", "html_502")
    for _ in range(4):
        is_any = (options.is_kept and not options.restless) or chance.random() < 0.4
        share = chance.random() if is_any else chance.uniform(0.93, 1.0)
        rule = {"preset": chance.choice(ends), "verb": "create", "commit": share * options.late * options.window}
        probability = (0.012 * FEWER[backend] if options.is_kept else 0.1) * options.often
        yield "late", {**rule, "probability": probability}


class Sky:
    """Changes the weather over a running sandbox, and knows afterwards which rule was which kind of fault."""

    def __init__(self, sandbox: SandboxProcess, weathers: Iterable[Weather], outages: Iterable[Outage] = ()) -> None:
        self._sandbox = sandbox
        self._weathers = cycle(weathers)
        self._outages = outages
        self._refusing: set[asyncio.Task[None]] = set()
        self._rules = calm()
        self._blind: Rules = ()
        self._out: Rules = ()
        self._changing = asyncio.Lock()
        self.kinds: dict[int, str] = {}  # by the rule's id
        self.lagging: dict[int, int] = {}  # how often each rule that delays what is visible has done so
        self.out: list[tuple[str, float, float]] = []  # outages: kind, from when to when

    async def run(self) -> None:
        """Changes it until cancelled."""
        await self._sandbox.configure("twilio", largest_page=TWILIO_PAGE)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._darken())
            for weather in self._weathers:
                self._rules = weather.rules
                await self._sandbox.configure("rapidpro", **weather.database)
                await self._change()
                self._refusing = {asyncio.create_task(self._refuse(*refusal)) for refusal in weather.refusals}
                await asyncio.sleep(weather.seconds)

    async def _darken(self) -> None:
        """Makes one outage after the other."""
        begun = time.monotonic()
        for outage in self._outages:
            await asyncio.sleep(max(0.0, begun + outage.after - time.monotonic()))
            self._out = ((outage.kind, {"backend": outage.backend, **outage.rule}),)
            since = time.time()
            try:
                await self._change()
                await asyncio.sleep(outage.seconds)
            finally:
                self.out.append((outage.kind, since, time.time()))
            self._out = ()
            await self._change()

    async def clear_up(self) -> None:
        """Ends it."""
        if self._refusing:
            await asyncio.wait(self._refusing)
        self._rules, self._blind, self._out = calm(), (), ()
        await self._change()

    async def blind(self, backend: str) -> None:
        """Empties nearly every list of a backend until told otherwise; of none, if it is empty."""
        rule = {"backend": backend, "verb": "list", "answer": {"patch": EMPTY.get(backend)}, "probability": 0.97}
        before, self._blind = self._blind, (("empty", rule),) if backend else ()
        if before or backend:
            await self._change()

    async def _change(self) -> None:
        async with self._changing:
            for rule in await self._sandbox.faults():
                if rule["list_lag"] is not None:
                    self.lagging[rule["id"]] = rule["fired"]
            wanted = (*self._out, *self._blind, *self._rules)
            ids = await self._sandbox.replace_faults([rule for _, rule in wanted])
            self.kinds |= {rule_id: kind for rule_id, (kind, _) in zip(ids, wanted, strict=True)}

    async def _refuse(self, backend: str, after: float, seconds: float) -> None:
        await asyncio.sleep(after)
        await self._sandbox.refuse(backend, seconds)

    def fired(self, journal: Iterable[dict[str, Any]]) -> Counter[str]:
        """Counts what happened of each kind, but for `refused`, of which a backend knows nothing."""
        fired = Counter(kind for entry in journal if (kind := self.kinds.get(entry.get("fault", 0))))
        fired["lag"] = sum(self.lagging.values())
        return fired
