"""What lasts is logged as it begins, once a minute, and as it ends, however often it is met."""

from __future__ import annotations

from structlog.testing import capture_logs

from gateway.lasting import KINDS, Lasting


class Time:
    """A clock that stands."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Returns what it shows."""
        return self.now


def test_newcomer_10_what_is_met_twice_a_second_is_a_line_a_minute_and_one_when_it_is_over() -> None:
    """A disk that was full for 22 seconds made 42 lines."""
    clock = Time()
    lasting = Lasting("store_unavailable", clock, backend="studio")
    with capture_logs() as logged:
        for _ in range(180):
            lasting.again(why="the disk is full")
            clock.now += 0.5
        lasting.is_over()
        lasting.is_over()

    assert [
        ("store_unavailable", 1, None),
        ("store_unavailable", 121, None),
        ("store_unavailable_over", 180, 90.0),
    ] == [(each["event"], each["times"], each.get("seconds")) for each in logged]
    assert {"studio"} == {each["backend"] for each in logged}


def test_another_cause_is_said_at_once() -> None:
    """Else the log says for a minute what does not hold any more."""
    lasting = Lasting("sweep_unread", Time(), is_grave=False)
    with capture_logs() as logged:
        for why in ("timeout", "HTTP 502", "timeout", "HTTP 502"):
            lasting.again(why=why)

    assert ["timeout", "HTTP 502"] == [each["why"] for each in logged]
    assert {"warning"} == {each["log_level"] for each in logged}


def test_what_comes_and_goes_is_no_line_each_time() -> None:
    """Neither is its end, if its beginning was none."""
    lasting = Lasting("claim_failed", Time())
    with capture_logs() as logged:
        for _ in range(100):
            lasting.again(why="locked")
            lasting.is_over()

    assert ["claim_failed", "claim_failed_over"] == [each["event"] for each in logged]


def test_causes_without_number_are_not_remembered_without_end() -> None:
    """A cause may hold something that differs each time."""
    lasting = Lasting("sweep_unread", Time())
    with capture_logs():
        for number in range(10 * KINDS):
            lasting.again(why=str(number))

    assert len(lasting._logged) <= KINDS
