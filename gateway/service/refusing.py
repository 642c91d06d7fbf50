"""What is wrong with a request beyond its form, all at once: what its backend objects to, and its times."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from gateway import wire
from gateway.errors import Violation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from gateway.wire import StartRequest


def refuse_if_wrong(
    request: StartRequest, objections: Sequence[Violation], now: datetime, schedule_ahead: timedelta
) -> None:
    """Raises `InvalidRequest` with everything that is wrong, if anything is."""
    told = {violation.field for violation in request.violations}
    found = [*request.bounds, *objections, *_bad_times(request, now, schedule_ahead)]
    violations = [*request.violations, *(each for each in found if each.field not in told)]
    if violations:
        raise wire.invalid(violations)


def _bad_times(request: StartRequest, now: datetime, schedule_ahead: timedelta) -> Iterator[Violation]:
    """Finds times that are too far ahead, and an end that has passed."""
    if request.expire_at is not None and request.expire_at <= now:
        description = "expire_time is in the past: nothing would be sent. Leave it out or set a later one."
        yield Violation(field="expire_time", description=description)
    for field, at in (("schedule_time", request.schedule_at), ("expire_time", request.expire_at)):
        if at is not None and at > now + schedule_ahead:
            days = schedule_ahead / timedelta(days=1)
            description = (
                f"{field} is more than {days:g} days ahead, the limit of this backend: choose an earlier time, or have"
                " the backend's `schedule_ahead` raised."
            )
            yield Violation(field=field, description=description)
