"""A file of the gateway can be read in one sitting."""

from __future__ import annotations

from pathlib import Path

import gateway

MOST = 400  # lines; CONTRIBUTING.md says so too


def test_no_file_of_the_gateway_is_longer_than_one_sitting() -> None:
    """One that grows beyond it holds more than one idea: cut it where somebody would look for the second one."""
    root = Path(gateway.__file__).parent
    lengths = {str(file.relative_to(root)): len(file.read_text().splitlines()) for file in root.rglob("*.py")}
    assert lengths, "nothing was looked at"
    assert {file: lines for file, lines in lengths.items() if lines > MOST} == {}
