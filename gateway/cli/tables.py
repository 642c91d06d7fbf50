"""Tables that cut nothing: where one is too wide for the terminal, each row becomes a block of lines.

What stands in a table is there to be copied: ids, addresses, paths. A terminal wraps a line that is too long for it,
and what is copied from there is whole; what a table cuts, or breaks in two, is not.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

GAP = 2  # cells between columns
LEAST = 24  # cells for sentences, or as many as their longest word has


def fitting(headings: Sequence[str], rows: Sequence[Sequence[Text]], width: int, *, prose: str) -> RenderableType:
    """Returns rows as a table if it is not too wide, else as blocks. Only the column `prose` is wrapped."""
    needed = 0
    for number, heading in enumerate(headings):
        cells = [row[number].plain for row in rows]
        if heading == prose:
            needed += min(max((cell_len(cell) for cell in cells), default=0), max(LEAST, *map(_longest, cells), 0))
        else:
            needed += max(cell_len(heading), *(cell_len(line) for cell in cells for line in cell.split("\n")), 0)
    if needed + GAP * (len(headings) - 1) > width:
        return _blocks(headings, rows, width)
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for heading in headings:
        table.add_column(heading, no_wrap=heading != prose)
    for row in rows:
        table.add_row(*row)
    return table


def _longest(sentence: str) -> int:
    return max((cell_len(word) for word in sentence.split()), default=0)


def _blocks(headings: Sequence[str], rows: Sequence[Sequence[Text]], width: int) -> RenderableType:
    """Returns the first cell of each row in a line of its own, and below it what the others hold."""
    margin = max(map(len, headings[1:])) + 2 * GAP
    lines: list[Text] = []
    for first, *others in rows:
        lines.append(Text.assemble((first.plain, "bold")))
        for heading, cell in zip(headings[1:], others, strict=True):
            name = f"{'':{GAP}}{heading.lower():<{margin - GAP}}"
            for part in cell.plain.split("\n") if cell.plain else []:
                for line in _wrapped(part, width - margin):
                    lines.append(Text.assemble((name, "dim"), (line, cell.style)))
                    name = " " * margin
    block = Text("\n").join(lines)
    block.no_wrap, block.overflow = True, "ignore"
    return Group(block)  # alone it would be joined to what else is printed, and be wrapped as that is


def _wrapped(line: str, width: int) -> list[str]:
    return textwrap.wrap(line, max(width, 1), break_long_words=False, break_on_hyphens=False)
