"""Everything that a run decides, drawn from one seed before it begins.

The same options draw the same plan: what is asked for, what is done to it, how each life of the gateway ends, and
which faults each spell of weather has. What then happens still depends on how the processes are scheduled.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.chaos.faults import BACKENDS, Outage, Weather, draw_outages, draw_weather
from tests.end_to_end.processes import SEED_FLOW, STUDIO_FLOW

if TYPE_CHECKING:
    from collections.abc import Iterator

WARM_UP = 6  # starts of the first life, before any fault
SHORT, LONG = (0.05, 0.7), (3.5, 5.0)  # seconds that a life lasts; only a long one can prove anything absent
SPARE = 0.05  # more starts than asked for: some expire before the gateway has taken them
OTHER_FLOWS = {"rapidpro": "309f8a4b-b8ea-404f-84a9-656780bb1d7d", "twilio": "FW" + "b" * 32}  # archived at times
GROUPS = ("c24813d2-3bc7-4467-8916-255b6525c6be", "f5901b62-ba76-4003-9c62-72fdacc15515")
LARGE = {"rapidpro": (250, 450), "twilio": (101, 220)}  # recipients of a large start: several blocks of the store
BURST = (3, 6)  # starts for one number, which Twilio lets run one at a time
MIXES: dict[str, dict[str, int]] = {  # how often each kind of start is drawn, by weight
    "all": {
        "rapidpro_one": 12,
        "rapidpro_groups": 6,
        "rapidpro_large": 46,
        "rapidpro_spelled": 3,  # one person in two spellings, in different dispatches
        "twilio_one": 10,
        "twilio_several": 10,
        "twilio_large": 3,
        "twilio_pair": 4,  # two starts for one contact
        "twilio_burst": 2,  # many for one
    },
    "many": {  # so small that thousands are over in minutes
        "rapidpro_one": 40,
        "rapidpro_groups": 10,
        "rapidpro_large": 3,
        "rapidpro_spelled": 1,
        "twilio_one": 24,
        "twilio_several": 8,
        "twilio_pair": 5,
        "twilio_burst": 1,
    },
    "large": {"rapidpro_large": 3, "rapidpro_one": 1},
    "spelled": {"rapidpro_spelled": 1},
    "one": {"rapidpro_one": 1},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a run is told. Seconds, but for `late`, which is a share of the quiet window."""

    seed: int = 1
    starts: int = 500
    kills: int = 100
    late: float = 0.9
    on_absent: str = "resend"
    skew: float = 0.0
    seconds: float = 540.0
    window: float = 2.0
    timeout: float = 1.0
    duration: float = 1.2
    mix: str = "all"
    outages: float = 0.2  # the share of the time in which one endpoint is out
    stretch: float = 1.0  # how many times as long as usual an outage lasts
    only: str = ""  # the one kind of outage that there is
    verb: str = ""  # the one verb whose requests an outage meets
    resolves: bool = True  # an operator says what became of some that are in doubt
    calm: bool = False  # no other faults, kills without aim
    upgrade: bool = False  # RapidPro is of the old generation until half of the lives are over
    ahead: float = 0.0  # of RapidPro's database, beside its `Date` header
    in_flight: int = 10
    backlog: int = 300  # dispatches of a backend; small enough to be full now and then
    page_size: int = 25  # of RapidPro's lists: so small that there are several
    every: float = 0.6  # seconds between two turns of strangers
    restless: bool = False  # strangers move what is in doubt again and again, on two replicas far apart
    latency: float = 0.03  # seconds that a backend takes for a start in calm weather
    often: float = 1.0  # how many times as many commits are late as usual
    long_each: int = 5  # one of so many lives is long
    lives: float = 0.0  # how long each life lasts; 0: some are short and some are long
    pauses: float = 0.08  # the share of the lives that are stopped for a while
    pause: tuple[float, float] = (1.2, 1.6)  # for how many quiet windows
    drains: float = 0.0  # the share of the lives that end in a drain
    patience: float = 10.0  # of a call
    swept: int = 3  # how many lives lose their store while they run
    plant: str = ""  # what is planted in the gateway: a name of `planted.py`
    floors: bool = True  # too little of a kind fails the run

    @property
    def is_kept(self) -> bool:
        """Whether the backend keeps what the promise rests on: it commits within the quiet window, or never."""
        return self.late < 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One start that a caller asks for, and what is done to it. Times are seconds after it was first asked for."""

    number: int
    backend: str
    flow: str
    urns: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    due_in: float | None = None
    expires_in: float | None = None
    cancel_after: float | None = None
    loses_answers: int = 0  # answers that the caller does not get, and asks for again
    patience: float = 10.0  # of the first call
    exclude_active: bool | None = None
    restart_participants: bool | None = None
    is_paired: bool = False
    is_spelled_twice: bool = False  # one of its people is named in two spellings

    @property
    def request_id(self) -> str:
        """The caller's idempotency key."""
        return f"chaos-{self.number}"

    @property
    def dispatches(self) -> int:
        """How many backend requests it takes."""
        people = len(self.urns) - self.is_spelled_twice
        return people if self.backend == "twilio" else max(1, -(-people // 100))


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One life of the gateway: what is asked for in it, how long it lasts, how it ends."""

    starts: tuple[Wanted, ...]
    seconds: float
    is_aimed: bool  # at an open attempt
    pause: float = 0.0  # stopped for so long before it is killed, or goes on
    blind: str = ""  # the backend whose lists are empty in this life
    dies_young: float = 0.0  # the next life is killed so many seconds after it was begun, before it serves
    sweeps: bool = False  # the store's folder is swept while it runs, and put back before the next life
    drains: bool = False  # it is asked to stop, and ends by itself
    upgrades: bool = False  # RapidPro is upgraded before the next life


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run."""

    options: Options
    lives: tuple[Life, ...]
    weathers: tuple[Weather, ...]
    outages: tuple[Outage, ...]
    verdicts: tuple[float, ...]  # for the operator: what kind of word each resolution is
    starts: tuple[Wanted, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "starts", tuple(wanted for life in self.lives for wanted in life.starts))


def draw(options: Options) -> Plan:
    """Draws a run."""
    chance = random.Random(options.seed)
    wanted = list(_draw_starts(chance, options))
    lives = tuple(_draw_lives(chance, wanted, options))
    weathers = tuple(draw_weather(chance, options) for _ in range(400))
    outages = tuple(draw_outages(chance, options))
    verdicts = tuple(chance.random() for _ in range(400)) if options.resolves else (1.0,)
    return Plan(options=options, lives=lives, weathers=weathers, outages=outages, verdicts=verdicts)


def _draw_starts(chance: random.Random, options: Options) -> Iterator[Wanted]:
    drawn = 0
    while drawn < options.starts * (1 + SPARE):
        mix = MIXES[options.mix]
        kind = chance.choices(list(mix), list(mix.values()))[0]
        if drawn < WARM_UP:
            kind = ("rapidpro_one", "twilio_one")[drawn % 2]
        for wanted in _draw(chance, kind, drawn, min(options.seconds, 60.0)):
            yield wanted
            drawn += 1


def _draw(chance: random.Random, kind: str, number: int, far: float) -> tuple[Wanted, ...]:
    if kind == "twilio_pair":
        return _draw_pair(chance, number)
    if kind == "twilio_burst":
        return _draw_burst(chance, number)
    return (_draw_one(chance, kind, number, far),)


def _draw_one(chance: random.Random, kind: str, number: int, far: float) -> Wanted:
    """Draws a start; one that is scheduled far ahead is due after up to half of `far` seconds."""
    backend = kind.partition("_")[0]
    first = 2_000_000 + number * 500
    count = {"rapidpro_groups": 0, "twilio_several": chance.randint(2, 4), "rapidpro_spelled": 150}.get(kind, 1)
    if kind.endswith("_large"):
        count = chance.randint(*LARGE[backend])
    area = "1206" if backend == "rapidpro" else "1800"
    fate = chance.random() if number >= WARM_UP else 1.0
    other = number < WARM_UP and number % 4 > 1 or chance.random() < 0.15  # noqa: RUF021 -- the warm-up knows all flows
    urns = tuple(f"tel:+{area}{urn:07}" for urn in range(first, first + count))
    if kind == "rapidpro_spelled":
        urns = (*urns, f"tel:+1 (206) {urns[0][9:12]}-{urns[0][12:]}")
    return Wanted(
        number=number,
        backend=backend,
        is_spelled_twice=kind == "rapidpro_spelled",
        flow=OTHER_FLOWS[backend] if other else {"rapidpro": SEED_FLOW, "twilio": STUDIO_FLOW}[backend],
        urns=urns,
        groups=GROUPS[: chance.randint(1, 2)] if kind == "rapidpro_groups" else (),
        due_in=(far * chance.uniform(0.3, 0.5) if 0.04 < fate < 0.06 else chance.uniform(0.3, 4.0))
        if fate < 0.08
        else None,
        expires_in=chance.uniform(0.5, 3.0) + (4.0 if fate < 0.04 else 0.0)
        if fate < 0.04 or 0.1 < fate < 0.2
        else None,
        cancel_after=chance.choice((0.0, chance.uniform(0, 2.5))) if 0.06 < fate < 0.08 or 0.2 < fate < 0.3 else None,
        loses_answers=chance.choice((0, 0, 0, 0, 1, 2)),
        patience=chance.uniform(0.002, 0.1) if chance.random() < 0.15 else 10.0,
    )


def _draw_pair(chance: random.Random, number: int) -> tuple[Wanted, Wanted]:
    """Draws two starts of one flow for one contact, the second with a wish or without."""
    urns = (f"tel:+1800{2_000_000 + number * 500:07}",)
    wish = chance.choice(("", "", "exclude_active", "restart_participants"))
    common = {"backend": "twilio", "flow": STUDIO_FLOW, "urns": urns, "is_paired": True}
    first = Wanted(number=number, **common, cancel_after=0.5 if chance.random() < 0.1 else None)
    second = Wanted(
        number=number + 1,
        **common,
        exclude_active=True if wish == "exclude_active" else None,
        restart_participants=True if wish == "restart_participants" else None,
        due_in=chance.uniform(0, 2) if chance.random() < 0.3 else None,
    )
    return first, second


def _draw_burst(chance: random.Random, number: int) -> tuple[Wanted, ...]:
    """Draws many starts of one flow for one contact; they expire together, some of them before their turn."""
    urns = (f"tel:+1800{2_000_000 + number * 500:07}",)
    expires_in = chance.choice((None, chance.uniform(4, 8)))
    return tuple(
        Wanted(
            number=number + n, backend="twilio", flow=STUDIO_FLOW, urns=urns, is_paired=True, expires_in=expires_in,
            due_in=chance.choice((None, 1.5)) if expires_in is None else None,
        )
        for n in range(chance.randint(*BURST))
    )  # fmt: skip


def _draw_lives(chance: random.Random, wanted: list[Wanted], options: Options) -> Iterator[Life]:
    """Shares the starts out among the lives; now and then one has three times as many as it should."""
    lives = max(1, options.kills)
    taken = 0
    for n in range(lives):
        due = len(wanted) * (n + 1) // lives
        burst = chance.random() < 0.1
        until = len(wanted) if n == lives - 1 else max(taken, min(len(wanted), due + burst * 2 * len(wanted) // lives))
        pause = 0.0
        if chance.random() < options.pauses and n:
            pause = chance.uniform(*options.pause) * options.window
        if n == lives // 2 and options.kills >= 50:
            pause = 11.0  # longer than the gateway's longest patience of ten seconds
        swept = options.swept and n and n % max(1, lives // options.swept) == max(1, lives // options.swept) // 2
        drains = options.drains > 0 and n and not pause and chance.random() < options.drains
        is_long = n % options.long_each == 0 or not options.is_kept or options.calm
        yield Life(
            sweeps=bool(swept),
            drains=bool(drains),
            upgrades=options.upgrade and n == lives // 2,
            starts=tuple(wanted[taken:until]),
            seconds=options.lives or chance.uniform(*(LONG if is_long else SHORT)),
            is_aimed=chance.random() < 0.75 and not options.calm,
            blind=chance.choice(("", "", *BACKENDS)) if is_long and n and not options.calm else "",
            pause=0.0 if options.calm else pause,
            dies_young=chance.uniform(0.1, 0.9) if chance.random() < 0.06 and not options.calm else 0.0,
        )
        taken = until
