"""What benchmarks found, as docs/benchmarks.md and a plot beside it."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.bench.figures import Figure, Part

ROOT = Path(__file__).parents[2]
LIBRARIES = ("grpcio", "protobuf", "uvloop", "aiohttp", "sqlite-utils")
INTRODUCTION = """\
<!-- Written by `make bench`. Do not edit. -->

# Benchmarks

How fast the gateway is, as ratios to *bare* servers and clients that do nothing but the least of the same, on the same
machine in the same run. A figure of one machine on one day says little; a ratio holds better, and still moves by a
tenth from run to run. `make bench` measures all of it again and writes this page; the command at each part measures
that part.

**Bare** is, for calls and streams, a `grpc.aio` server on Python's own event loop that parses and builds the same
messages and does nothing else; for sending, a loop of aiohttp. Their sources are below. Servers run alone on one core,
whatever calls them on another. Pairs are measured in turns, bare first in one and last in the next; the ratio is the
median, then the least and the greatest. What was measured while the hypervisor took time away is measured again. A
server that was not busy was not the limit, and the line says so. What has not reached its target, and why, is in
[performance.md](performance.md).
"""
PLOTTED = "![How far each figure is from its target](benchmarks.svg)"


def write(path: Path, parts: Sequence[Part], missing: Sequence[str], *, seconds: float, quick: bool) -> None:
    """Writes the page."""
    blocks = [
        INTRODUCTION,
        f"![How far each figure is from its target](benchmarks.svg)\n\n{_run(seconds, quick=quick)}",
    ]
    for part in parts:
        blocks += _part(part)
    blocks += [f"**Not measured**: {each}" for each in missing]
    path.write_text("\n\n".join(block.strip() for block in blocks) + "\n", encoding="utf-8")


def _run(seconds: float, *, quick: bool) -> str:
    """Tells of the run and the machine."""
    commit, changed = _git("rev-parse", "--short", "HEAD"), _git("status", "--porcelain", "gateway", "tests/bench")
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    kind = "quick" if quick else "full"
    return (
        f"A {kind} run of {seconds / 60:.0f} minutes on {datetime.now(UTC):%Y-%m-%d}, of commit"
        f" {commit or 'unknown'}{' and what was not committed' if changed else ''}: {len(names)} cores of"
        f" {names[0] if names else platform.processor()}, {memory:.0f} GiB, Linux {platform.release().split('-')[0]},"
        f" Python {platform.python_version()}, {libraries}."
    )


def _git(*command: str) -> str:
    return subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def _part(part: Part) -> Iterator[str]:
    yield f"## {part.title}"
    yield f"`{part.command}`"
    yield part.method
    rows = [("", "median", "least to greatest", "target", "")]
    rows += [
        (figure.name, figure.told, figure.spread, figure.target, " ".join(filter(None, (figure.verdict, figure.doubt))))
        for figure in part.figures
    ]
    yield _table(rows)
    for table in part.tables:
        yield f"**{table.title}**"
        yield _table(table.rows)
    for title, source in part.sources.items():
        yield f"<details><summary>{title}</summary>\n\n```python\n{source.strip()}\n```\n\n</details>"


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = ("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *body])


def plot(path: Path, parts: Sequence[Part]) -> None:
    """Draws how far each figure with a target is from it; what must be 0 has no distance."""
    import matplotlib as mpl  # noqa: PLC0415 -- whoever only measures need not have it

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "benchmarks"  # the same figures make the same file
    from matplotlib import pyplot as plt  # noqa: PLC0415 -- once the backend is chosen

    figures = [figure for part in parts for figure in part.figures if figure.target and figure.most != 0][::-1]
    drawing, axes = plt.subplots(figsize=(11, 0.34 * len(figures) + 1.4))
    for row, figure in enumerate(figures):
        low, middle, high = (
            distance(figure, value) for value in (min(figure.ratios), figure.median, max(figure.ratios))
        )
        colour = "#1b7f4d" if figure.verdict == "reached" else "#b3261e"
        axes.plot([low, high], [row, row], color=colour, linewidth=2, alpha=0.4)
        axes.plot([middle], [row], "o", color=colour)
        axes.annotate(f"  {figure.told} ({figure.target})", (max(low, middle, high), row), va="center", fontsize=8)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(figures)), [figure.name for figure in figures], fontsize=8)
    left, right = axes.get_xlim()
    axes.set_xlim(left, right * 2.5)  # room for what is written
    axes.set_xlabel("how many times better than the target; the line is the target")
    axes.grid(visible=True, axis="x", alpha=0.3)
    drawing.tight_layout()
    drawing.savefig(path, metadata={"Date": None})
    plt.close(drawing)


def distance(figure: Figure, value: float) -> float:
    """Tells how many times better than its target a value is."""
    if figure.least is not None:
        return max(value, 1e-3) / figure.least
    assert figure.most is not None
    return figure.most / max(value, 1e-3)
