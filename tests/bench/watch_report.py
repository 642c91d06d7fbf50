"""What was measured of watchers, as lines to read."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SPEED = 1.0  # updates per second, ours ÷ bare: at least
MEMORY = 1.15  # of an idle watcher, ours ÷ bare: at most
BUSY = 0.95  # of the server's core; below it something else was the limit
STOLEN = 0.02  # the share of a burst that the hypervisor may take
WORDS = {"id": "by id", "label": "by label", "all": "of everything"}


def report(results: dict[str, Any]) -> list[str]:
    """Returns a line for each target, then what they are made of."""
    return [*_targets(results), "", *_figures(results), "", *_others(results)]


def _targets(results: dict[str, Any]) -> Iterator[str]:
    for cell in results["fan_out"]:
        name = f"updates/s ÷ bare, {cell['watchers']:,} watchers {WORDS[cell['selection']]}, {cell['mode']}"
        yield _line(name, _ratios(cell, _speed), least=SPEED) + _doubt(cell)
    memory = _memory(results["memory"])
    largest = max((watchers for watchers, _ in memory), default=0)
    for (watchers, selection), taken in memory.items():
        if watchers == largest:
            name = f"memory per idle watcher ÷ bare, {watchers:,} watchers {WORDS[selection]}"
            yield _line(name, [taken["gateway"] / taken["bare"]], most=MEMORY)
    for cell in results["few"]:
        few, many = cell["taken"][str(cell["few"])], cell["taken"][str(cell["many"])]
        ratios = [_cost(one) / _cost(other) for one, other in zip(many, few, strict=True)]
        yield _line(f"CPU of a change that 1 of {cell['many']:,} by id wants ÷ 1 of {cell['few']}", ratios)
    for cell in results["delay"]:
        for key in ("delay_p50", "delay_p99"):
            name = f"commit-to-client {key[-3:]} ÷ bare, {cell['few']} of {cell['watchers']:,} want it,"
            yield _line(f"{name} {WORDS[cell['selection']]}", _ratios(cell, lambda taken, key=key: taken[key]))


def _figures(results: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{'watchers':31} {'updates/s':>17} {'CPU µs/update':>15} {'÷':>5} {'busy %, least':>14} {'bytes':>9}"
        f" {'client %':>9}"
    )
    yield f"{'':31} {'bare':>8} {'ours':>8} {'bare':>7} {'ours':>7} {'':>5} {'bare':>7} {'ours':>6} {'bare ours':>9}"
    for cell in results["fan_out"]:
        bare, ours = cell["bare"], cell["gateway"]
        cpu = [statistics.median(map(_cost_of_one, taken)) * 1e6 for taken in (bare, ours)]
        busy = [min(map(_busy, taken)) for taken in (bare, ours)]
        size = [taken[0]["bytes"] / taken[0]["messages"] for taken in (bare, ours)]
        client = max(taken["client_seconds"] / taken["seconds"] for taken in (*bare, *ours))
        yield (
            f"{cell['watchers']:>6,} {WORDS[cell['selection']]:10} {cell['mode']:13}"
            f" {statistics.median(map(_speed, bare)):8,.0f} {statistics.median(map(_speed, ours)):8,.0f}"
            f" {cpu[0]:7.1f} {cpu[1]:7.1f} {cpu[1] / cpu[0]:5.2f} {busy[0]:7.1%} {busy[1]:6.1%}"
            f" {size[0]:4.0f} {size[1]:4.0f} {client:9.0%}"
        )


def _doubt(cell: dict[str, Any]) -> str:
    """Says what was wrong with the bursts; a ratio of processor time bears it better than one of speeds."""
    bursts = (*cell["bare"], *cell["gateway"])
    busy, stolen = min(map(_busy, bursts)), max(taken["stolen"] for taken in bursts)
    doubts = [f"NOT BUSY ({busy:.0%})"] if busy < BUSY else []
    doubts += [f"STOLEN ({stolen:.0%})"] if stolen > STOLEN else []
    cost = statistics.median(1 / ratio for ratio in _ratios(cell, _cost_of_one))
    return f"; by CPU {cost:.2f}{''.join(f'  {doubt}' for doubt in doubts)}"


def _others(results: dict[str, Any]) -> Iterator[str]:
    for (watchers, selection), taken in _memory(results["memory"]).items():
        kib = {kind: taken[kind] / 1024 for kind in ("bare", "gateway")}
        name = f"{watchers:>6,} {WORDS[selection]}"
        yield f"{name:24} KiB per idle watcher: bare {kib['bare']:.1f}, ours {kib['gateway']:.1f}"
    for cell in results["delay"]:
        name = f"{cell['few']} of {cell['watchers']:,} {WORDS[cell['selection']]}"
        told = [
            f"{kind} p50 {_median(taken, 'delay_p50'):,.0f} p99 {_median(taken, 'delay_p99'):,.0f}"
            for kind, taken in (("bare", cell["bare"]), ("ours", cell["gateway"]))
        ]
        yield f"{name:24} µs from the beginning of the commit to the client: {', '.join(told)}"
    for cell in results["few"]:
        for count, taken in cell["taken"].items():
            cost = statistics.median(map(_cost, taken)) * 1e6
            yield f"{f'1 of {int(count):,} by id':24} CPU µs per change: {cost:,.0f}"


def _line(name: str, ratios: Sequence[float], *, least: float | None = None, most: float | None = None) -> str:
    median = statistics.median(ratios)
    spread = f"{min(ratios):.2f}-{max(ratios):.2f}" if len(ratios) > 1 else ""
    if least is None and most is None:
        return f"{name:74} {median:5.2f} {spread:>10}"
    target = f"≥ {least:.2f}" if least is not None else f"≤ {most:.2f}"
    reached = (least is None or median >= least) and (most is None or median <= most)
    return f"{name:74} {median:5.2f} {spread:>10}  {target}  {'reached' if reached else 'not reached'}"


def _ratios(cell: dict[str, Any], figure: Any) -> list[float]:
    """Compares what was measured next to each other."""
    return [figure(ours) / figure(bare) for ours, bare in zip(cell["gateway"], cell["bare"], strict=True)]


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
