"""The attacks there are: whose they are, how much they may cost, and what has to be there before."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.hostile.attacks import reading, starting, strangers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.hostile.caller import Aim

MB = 1_000_000
GROWTH = 64  # MB that the gateway may grow by under an attack
GROWN = 30_000  # starts in a store that has been in use for a while
HTML = "<html><head><title>403 Forbidden</title></head><body><center><h1>403 Forbidden</h1></center></body></html>"


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One attack, or several together."""

    name: str
    row: str  # of the cases from the field; empty: invented here
    runs: tuple[Callable[[Aim], Awaitable[None]], ...]
    growth: int = GROWTH  # MB, at most
    starts: int = 0  # in the store before
    faults: tuple[dict[str, Any], ...] = field(default=(), repr=False)  # of the sandbox
    has_clients: bool = True  # or the gateway lets everybody in

    @property
    def about(self) -> str:
        """Says what it does."""
        if len(self.runs) > 1:
            return f"Does {len(self.runs)} things at once: {', '.join(run.__name__ for run in self.runs)}."
        return (self.runs[0].__doc__ or "").strip()


def _refusals(match: str, answer: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    return tuple(
        {"backend": backend, "verb": "create", "match": match, "commit": False, "answer": answer}
        for backend in ("rapidpro", "twilio")
    )


WALL = _refusals(starting.WALL, {"status": 403, "headers": {"Content-Type": "text/html"}, "body": HTML})
POISON = tuple(
    {"preset": "500_before_commit", "backend": backend, "match": starting.POISON} for backend in ("rapidpro", "twilio")
)


def _attack(run: Callable[[Aim], Awaitable[None]], row: str = "", **more: Any) -> Attack:
    return Attack(name=run.__name__.replace("_", "-"), row=row, runs=(run,), **more)


_ALONE = [
    _attack(starting.end_of_time, "B1"),
    _attack(starting.one_number_scheduled, "B2"),
    _attack(starting.one_number_due, "B2"),
    _attack(strangers.unread_health, "B3"),
    _attack(strangers.unread, "B3"),
    _attack(reading.unread_answers, "B3", starts=GROWN, growth=128),
    _attack(starting.behind_a_wall, "B4", faults=WALL),
    _attack(starting.poison, "B4", faults=POISON),
    _attack(reading.filters, "B5", starts=GROWN),
    _attack(reading.huge_start, "B5"),
    _attack(reading.pages, "B5", starts=GROWN, growth=128),
    _attack(reading.overlapping_lists, "B6", starts=GROWN),
    _attack(strangers.half_messages, "B7"),
    _attack(strangers.streams, "B7", growth=80),  # 65 after 4 s, 68 after 16
    _attack(strangers.rapid_reset, "B7", growth=128),  # 85 after 4 s, 98 after 12
    _attack(strangers.slow_requests, "B7"),
    _attack(strangers.half_posts, "B7"),
    _attack(reading.forged_tokens, "B9"),
    _attack(strangers.control_frames),
    _attack(strangers.bad_tokens),
    _attack(strangers.connections),
    _attack(strangers.metrics, starts=GROWN),
    _attack(starting.starts),
    _attack(starting.at_its_quota),
    _attack(starting.many_tenants),
    _attack(starting.large_starts, growth=256),
    _attack(starting.cancels, growth=256),
    _attack(starting.replays),
    _attack(starting.labels, growth=128),
    _attack(starting.validate_only),
    _attack(starting.costly_messages, growth=256),
    _attack(starting.too_large, growth=128),
    _attack(reading.wide_watches, growth=512),  # the limit of streams: 20,000 of 25 KiB, or as much in wide ones
    _attack(reading.fan_out, "B5"),
    _attack(reading.subscriptions, starts=GROWN),
    _attack(reading.catalogue),
]
_TOGETHER = [
    Attack(
        name="strangers-together",
        row="B3 B7",
        runs=(strangers.unread_health, strangers.half_messages, strangers.streams, strangers.rapid_reset),
        growth=3 * GROWTH,
    ),
    Attack(
        name="strangers-without-clients",
        row="B3 B7",
        runs=(strangers.unread_health, strangers.half_messages, strangers.streams, strangers.half_posts),
        growth=3 * GROWTH,
        has_clients=False,
    ),
    Attack(
        name="tenants-together",
        row="B2 B4 B5 B6",
        runs=(starting.one_number_due, starting.behind_a_wall, reading.filters, reading.subscriptions),
        growth=2 * GROWTH,
        starts=GROWN,
        faults=WALL,
    ),
    Attack(
        name="everything-together",
        row="B",
        runs=(starting.many_tenants, starting.poison, reading.filters, strangers.streams, strangers.slow_requests),
        growth=3 * GROWTH,
        starts=GROWN,
        faults=POISON,
    ),
]
ATTACKS = {each.name: each for each in (*_ALONE, *_TOGETHER)}
