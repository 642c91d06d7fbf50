"""What was measured of watchers, as figures and tables."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from tests.bench.figures import Figure, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SPEED = 1.0  # updates per second, ours ÷ bare: at least
MEMORY = 1.15  # of an idle watcher, ours ÷ bare: at most
BUSY = 0.95  # of the server's core; below it something else was the limit
STOLEN = 0.02  # the share of a burst that the hypervisor may take
WORDS = {"id": "by id", "label": "by label", "all": "of everything"}


def figures(results: dict[str, Any]) -> list[Figure]:
    """Returns a figure for each target, then those without one."""
    return [*_targets(results), *_others(results)]


def _targets(results: dict[str, Any]) -> Iterator[Figure]:
    for cell in results["fan_out"]:
        name = f"updates/s ÷ bare, {cell['watchers']:,} watchers {WORDS[cell['selection']]}, {cell['mode']}"
        yield Figure(name=name, ratios=_ratios(cell, _speed), least=SPEED, doubt=_doubt(cell))
    memory = _memory(results["memory"])
    largest = max((watchers for watchers, _ in memory), default=0)
    for (watchers, selection), taken in memory.items():
        if watchers == largest:
            name = f"memory per idle watcher ÷ bare, {watchers:,} watchers {WORDS[selection]}"
            yield Figure(name=name, ratios=[taken["gateway"] / taken["bare"]], most=MEMORY)


def _others(results: dict[str, Any]) -> Iterator[Figure]:
    for cell in results["few"]:
        few, many = cell["taken"][str(cell["few"])], cell["taken"][str(cell["many"])]
        ratios = [_cost(one) / _cost(other) for one, other in zip(many, few, strict=True)]
        yield Figure(name=f"CPU of a change that 1 of {cell['many']:,} by id wants ÷ 1 of {cell['few']}", ratios=ratios)
    for cell in results["delay"]:
        for key in ("delay_p50", "delay_p99"):
            name = f"commit-to-client {key[-3:]} ÷ bare, {cell['few']} of {cell['watchers']:,} want it,"
            ratios = _ratios(cell, lambda taken, key=key: taken[key])
            yield Figure(name=f"{name} {WORDS[cell['selection']]}", ratios=ratios)
    for cell in results["collector"]:
        name = f"updates/s ÷ bare, {cell['watchers']:,} {WORDS[cell['selection']]}, {cell['mode']}: collector"
        yield Figure(name=f"{name} tuned in both", ratios=_ratios(cell, _speed, ours="gateway", bare="bare tuned"))
        yield Figure(name=f"{name} tuned in neither", ratios=_ratios(cell, _speed, ours="gateway untuned", bare="bare"))


def tables(results: dict[str, Any]) -> list[Table]:
    """Returns what the figures are made of."""
    return [table for table in (_updates(results), _idle(results), _delays(results)) if len(table.rows) > 1]


def _updates(results: dict[str, Any]) -> Table:
    rows = [("", "server", "updates/s", "CPU µs/update", "busy, least", "bytes", "client busy")]
    for cell in (*results["fan_out"], *results["collector"]):
        name = f"{cell['watchers']:,} {WORDS[cell['selection']]}, {cell['mode']}"
        for kind, title in (("bare", "bare"), ("bare tuned", "bare, tuned"), ("gateway untuned", "ours, untuned"),
                            ("gateway", "ours")):  # fmt: skip
            if taken := cell.get(kind):
                cpu = statistics.median(map(_cost_of_one, taken)) * 1e6
                client = max(one["client_seconds"] / one["seconds"] for one in taken)
                size = taken[0]["bytes"] / taken[0]["messages"]
                speed = statistics.median(map(_speed, taken))
                rows.append((name, title, f"{speed:,.0f}", f"{cpu:.1f}", f"{min(map(_busy, taken)):.1%}",
                             f"{size:.0f}", f"{client:.0%}"))  # fmt: skip
    return Table(title="Updates", rows=rows)


def _idle(results: dict[str, Any]) -> Table:
    rows = [("", "KiB per idle watcher, bare", "ours")]
    for (watchers, selection), taken in _memory(results["memory"]).items():
        kib = [f"{taken[kind] / 1024:.1f}" for kind in ("bare", "gateway")]
        rows.append((f"{watchers:,} {WORDS[selection]}", kib[0], kib[1]))
    return Table(title="Idle watchers", rows=rows)


def _delays(results: dict[str, Any]) -> Table:
    rows = [("", "bare p50 µs", "bare p99", "ours p50", "ours p99", "CPU µs/change")]
    for cell in results["delay"]:
        told = [
            f"{_median(cell[kind], key):,.0f}" for kind in ("bare", "gateway") for key in ("delay_p50", "delay_p99")
        ]
        rows.append((f"{cell['few']} of {cell['watchers']:,} {WORDS[cell['selection']]}", *told, ""))
    for cell in results["few"]:
        for count, taken in cell["taken"].items():
            cost = statistics.median(map(_cost, taken)) * 1e6
            rows.append((f"1 of {int(count):,} by id", "", "", "", "", f"{cost:,.0f}"))
    return Table(title="From the beginning of a commit to the client, and what a change costs", rows=rows)


def _doubt(cell: dict[str, Any]) -> str:
    """Says what was wrong with the bursts; a ratio of processor time bears it better than one of speeds."""
    bursts = (*cell["bare"], *cell["gateway"])
    busy, stolen = min(map(_busy, bursts)), max(taken["stolen"] for taken in bursts)
    doubts = [f"NOT BUSY ({busy:.0%})"] if busy < BUSY else []
    doubts += [f"STOLEN ({stolen:.0%})"] if stolen > STOLEN else []
    cost = statistics.median(1 / ratio for ratio in _ratios(cell, _cost_of_one))
    return "  ".join([f"by CPU {cost:.2f}", *doubts])


def _ratios(
    cell: dict[str, Any], figure: Callable[[dict[str, Any]], float], *, ours: str = "gateway", bare: str = "bare"
) -> list[float]:
    """Compares what was measured next to each other."""
    return [figure(one) / figure(other) for one, other in zip(cell[ours], cell[bare], strict=True)]


def _memory(rows: list[dict[str, Any]]) -> dict[tuple[int, str], dict[str, float]]:
    taken: dict[tuple[int, str], dict[str, float]] = {}
    for row in rows:
        taken.setdefault((row["watchers"], row["selection"]), {})[row["kind"]] = row["bytes"]
    return {key: kinds for key, kinds in taken.items() if len(kinds) == 2}


def _speed(taken: dict[str, Any]) -> float:
    return float(taken["messages"] / taken["seconds"])


def _cost_of_one(taken: dict[str, Any]) -> float:
    return float(taken["server_seconds"] / taken["messages"])


def _cost(taken: dict[str, Any]) -> float:
    return float(taken["server_seconds"] / taken["changes"])


def _busy(taken: dict[str, Any]) -> float:
    return float(taken["server_seconds"] / taken["seconds"])


def _median(taken: list[dict[str, Any]], key: str) -> float:
    return float(statistics.median(one[key] for one in taken))
