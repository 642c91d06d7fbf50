"""The short form of `make hostile`, which asserts nothing that a busy machine can break; and the judge."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.hostile.__main__ import run
from tests.hostile.judge import FLOOR, LARGEST_LOG, MOST, Verdict, percentile, table
from tests.hostile.plan import ATTACKS, MB
from tests.hostile.quiet import Figures
from tests.hostile.rig import Options

if TYPE_CHECKING:
    from pathlib import Path

SHORT = Options(pairs=1, seconds=0.5, gathering=0.5, patience=60.0, drain=60.0)
ONE = ["replays"]
FEW = ["bad-tokens", "slow-requests"]
TOGETHER = ["strangers-together", "tenants-together", "everything-together"]


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(ONE, id="one"),
        pytest.param(FEW, id="few", marks=pytest.mark.longer),
        pytest.param(TOGETHER, id="together", marks=pytest.mark.longer),
    ],
)
async def test_a_quiet_tenant_beside_a_few_attacks(tmp_path: Path, names: list[str]) -> None:
    """Nothing of it fails, health answers, memory stays in its bound, and the gateway stops with 0 under the attack."""
    verdicts = await run(names, SHORT, tmp_path, print)

    assert {name: [] for name in names} == {each.attack.name: each.certain() for each in verdicts}
    assert all(each.counts.total() for each in verdicts), "an attacker did nothing"


def test_every_attack_says_what_it_does() -> None:
    """In one line, for `--list`; and so does every part of those that are several."""
    assert [] == [each.name for each in ATTACKS.values() if not each.about or "\n" in each.about]
    assert {"B1", "B2", "B3", "B4", "B5", "B6", "B7", "B9"} <= {each.row for each in ATTACKS.values()}


def good(**different: Any) -> Verdict:
    """Builds a verdict that is within bounds, but for what is different."""
    taken = Figures(*([FLOOR] * 100 for _ in range(4)))
    verdict = Verdict(
        attack=ATTACKS["starts"], drain_bound=16, beside_attack=taken, beside_burner=taken, stop_code=0, before=MB
    )
    for name, value in different.items():
        setattr(verdict, name, value)
    return verdict


SLOW = Figures(*([FLOOR] * 98 + [FLOOR * MOST * 1.1] * 2 for _ in range(4)))


@pytest.mark.parametrize(
    ("said", "different"),
    [
        ("StartFlow 3.3 times", {"beside_attack": SLOW}),
        ("2 times get: UNAVAILABLE", {"beside_attack": replace(SLOW, failures=["get: UNAVAILABLE"] * 2)}),
        ("nothing was measured", {"beside_attack": Figures()}),
        ("memory grew by 65 MB", {"largest": 66 * MB}),
        ("the write-ahead log", {"log_size": LARGEST_LOG + 1}),
        ("SIGTERM: exit code 1", {"stop_code": 1}),
        ("SIGTERM: still running after 16.0 s", {"stop_code": None, "stop_seconds": 16.0}),
        ("log: Traceback", {"bugs": ["Traceback (most recent call last)"]}),
    ],
)
def test_what_is_out_of_bounds_is_found(said: str, different: dict[str, Any]) -> None:
    """Each of these by itself, in words and in the table."""
    verdict = good(**different)

    assert any(each.startswith(said) for each in verdict.wrong())
    assert table([verdict])[1].endswith("FAIL")


def test_what_is_within_bounds_passes() -> None:
    """Also where a figure is three times next to nothing, or slower beside a burner that took as much."""
    fast = Figures(*([FLOOR / 100] * 100 for _ in range(4)))

    assert [[]] * 3 == [
        good().wrong(),
        good(beside_burner=fast).wrong(),
        good(beside_attack=SLOW, beside_burner=SLOW).wrong(),
    ]
    assert table([good()])[1].endswith("PASS")


def test_a_percentile() -> None:
    """Of none, of one, and the slowest of a hundred."""
    assert [0.0, 3.0, 100.0] == [percentile(each) for each in ([], [3.0], [float(n) for n in range(1, 101)])]
