from datetime import timedelta
from typing import Any

import pytest
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st

import gateway.errors
from gateway.errors import Exhausted, GatewayError, InvalidRequest, NotFound, Reason, Unavailable, Violation
from gateway.wire import invalid, write_status

DETAILS: dict[str, Any] = {
    name: getattr(error_details_pb2, name)
    for name in ("ErrorInfo", "BadRequest", "RetryInfo", "ResourceInfo", "QuotaFailure")
}


def details(status: status_pb2.Status) -> dict[str, Any]:
    """Reads the details of a status, by the names of their types."""
    read = {}
    for detail in status.details:
        name = detail.TypeName().removeprefix("google.rpc.")
        read[name] = DETAILS[name].FromString(detail.value)
    return read


def bad(field: str = "flow", reason: Reason = Reason.VALIDATION_FAILED) -> Violation:
    """Makes a violation."""
    return Violation(field=field, description=f"{field} is bad: mend it.", reason=reason)


def family() -> list[type[GatewayError]]:
    """Lists every error there is."""
    return [kind for kind in vars(gateway.errors).values() if isinstance(kind, type) and issubclass(kind, GatewayError)]


@pytest.mark.parametrize("kind", family())
def test_every_error_has_a_status(kind: type[GatewayError]) -> None:
    """Each has a code that gRPC knows, its sentence, and a reason to branch on."""
    status = write_status(kind(message="What to do.", metadata={"key": "value"}))
    info = details(status)["ErrorInfo"]

    assert status.code > 0
    assert status.message == "What to do."
    assert (info.domain, dict(info.metadata)) == ("startflow.v1", {"key": "value"})
    assert info.reason in set(Reason)


def test_every_bad_field_is_listed() -> None:
    """With its path, its sentence and its reason, and a count for programs."""
    status = write_status(invalid([bad("flow"), bad("urns[3]", Reason.UNSUPPORTED_BY_BACKEND)]))
    told = details(status)

    assert status.code == 3
    assert status.message == "2 fields are wrong. The first: flow is bad: mend it."
    assert [(v.field, v.description, v.reason) for v in told["BadRequest"].field_violations] == [
        ("flow", "flow is bad: mend it.", "VALIDATION_FAILED"),
        ("urns[3]", "urns[3] is bad: mend it.", "UNSUPPORTED_BY_BACKEND"),
    ]
    assert told["ErrorInfo"].metadata["violation_count"] == "2"


def test_beyond_twenty_the_rest_is_counted() -> None:
    """The first twenty are listed, and the message says how many there are."""
    status = write_status(invalid([bad(f"urns[{n}]") for n in range(57)]))
    told = details(status)

    assert [v.field for v in told["BadRequest"].field_violations] == [f"urns[{n}]" for n in range(20)]
    assert told["ErrorInfo"].metadata["violation_count"] == "57"
    assert status.message.endswith("(20 of 57 bad fields are listed.)")


VALIDATION, UNSUPPORTED, OVERLAP = (
    Reason.VALIDATION_FAILED,
    Reason.UNSUPPORTED_BY_BACKEND,
    Reason.RECIPIENTS_MAY_OVERLAP,
)

# fmt: off
REASONS = [
    ([VALIDATION],               VALIDATION,   "flow is bad: mend it."),
    ([UNSUPPORTED],              UNSUPPORTED,  "flow is bad: mend it."),
    ([UNSUPPORTED, UNSUPPORTED], UNSUPPORTED,  "2 fields are wrong. The first: flow is bad: mend it."),
    ([UNSUPPORTED, OVERLAP],     VALIDATION,   "2 fields are wrong. The first: flow is bad: mend it."),
]
# fmt: on


@pytest.mark.parametrize(("reasons", "expected", "message"), REASONS)
def test_bad_fields_of_one_reason_share_it(reasons: list[Reason], expected: Reason, message: str) -> None:
    """A mixture is simply invalid."""
    error = invalid([bad(reason=reason) for reason in reasons])

    assert (error.reason, error.message, len(error.violations)) == (expected, message, len(reasons))


# fmt: off
DELAYS = [
    (timedelta(seconds=1.5),    1,        500_000_000),
    (timedelta(),               0,        0),
    (timedelta(seconds=-5),     0,        0),
    (timedelta.max,             86_400,   0),
    (timedelta.min,             0,        0),
]
# fmt: on


@pytest.mark.parametrize(("delay", "seconds", "nanos"), DELAYS)
def test_a_delay_is_told(delay: timedelta, seconds: int, nanos: int) -> None:
    """Within what a Duration can say."""
    retry = details(write_status(Unavailable(message="Later.", retry_after=delay)))["RetryInfo"]

    assert (retry.retry_delay.seconds, retry.retry_delay.nanos) == (seconds, nanos)


def test_what_was_not_found_is_named() -> None:
    """By the metadata of the error, where there is such a thing."""
    start = NotFound(reason=Reason.FLOW_START_NOT_FOUND, message="No such start.", metadata={"id": "01jz"})
    other = NotFound(reason=Reason.FLOW_START_NOT_FOUND, message="No such start.")
    resource = details(write_status(start))["ResourceInfo"]

    assert (resource.resource_type, resource.resource_name) == ("startflow.v1.FlowStart", "01jz")
    assert set(details(write_status(other))) == {"ErrorInfo"}


def full(kind: type[GatewayError] = Exhausted, **metadata: str) -> GatewayError:
    """Makes the error of a limit that was reached."""
    message = "Too much waits to be sent."
    return kind(reason=Reason.BACKLOG_FULL, message=message, metadata=metadata, retry_after=timedelta(seconds=9))


def test_a_limit_that_was_reached_is_named() -> None:
    """Whose it is and what it is, and when to come back."""
    told = details(write_status(full(quota_subject="backend:textit")))

    assert [("backend:textit", "Too much waits to be sent.")] == [
        (violation.subject, violation.description) for violation in told["QuotaFailure"].violations
    ]
    assert 9 == told["RetryInfo"].retry_delay.seconds
    assert ("BACKLOG_FULL", "backend:textit") == (told["ErrorInfo"].reason, told["ErrorInfo"].metadata["quota_subject"])


@pytest.mark.parametrize("error", [full(), full(quota_subject=""), full(InvalidRequest, quota_subject="backend:x")])
def test_only_a_limit_with_a_subject_is_a_quota_failure(error: GatewayError) -> None:
    """Without one there is nothing to tell."""
    assert {"ErrorInfo", "RetryInfo"} == set(details(write_status(error)))


def test_descriptions_are_cut_before_metadata() -> None:
    """What programs read is kept longest."""
    violations = [Violation(field=f"urns[{n}]", description="x" * 300) for n in range(20)]
    status = write_status(InvalidRequest(message="m", metadata={"id": "y" * 900}, violations=tuple(violations)))
    told = details(status)

    assert told["ErrorInfo"].metadata["id"] == "y" * 900
    assert told["BadRequest"].field_violations[19].field == "urns[19]"
    assert told["BadRequest"].field_violations[19].description.endswith("x…")


wild = st.text(max_size=12)
long = st.builds(lambda text, times: text * times, st.text(min_size=1, max_size=3), st.sampled_from([1, 9, 99, 9_999]))
violations = st.builds(Violation, field=wild | long, description=wild | long, reason=st.sampled_from(Reason))
errors = st.builds(
    lambda kind, **fields: kind(**fields),
    st.sampled_from([InvalidRequest, Exhausted]),
    reason=st.sampled_from(Reason),
    message=wild | long,
    metadata=st.dictionaries(wild | long | st.sampled_from(["id", "flow", "quota_subject"]), wild | long, max_size=9),
    violations=st.lists(violations, max_size=25).map(tuple),
    retry_after=st.none() | st.timedeltas(),
)


def check_size(error: GatewayError) -> None:
    """Checks the bound, and that every byte can be read back."""
    data = write_status(error).SerializeToString()

    assert len(data) < 4096
    status = status_pb2.Status.FromString(data)
    told = details(status)
    assert told["ErrorInfo"].reason == error.reason
    assert ("BadRequest" in told) == bool(error.violations)


@settings(deadline=None, max_examples=80)
@given(errors)
def test_a_status_is_small_whatever_the_error(error: GatewayError) -> None:
    """It fits into any proxy's headers, and is valid UTF-8, lone surrogates or not."""
    check_size(error)


@pytest.mark.parametrize("kind", [InvalidRequest, Exhausted])
@pytest.mark.parametrize("text", ["x", "ü", "€", "😀", "\ud800", "\n"])
def test_the_worst_error_still_fits(text: str, kind: type[GatewayError]) -> None:
    """Everything at once, and all of it too long."""
    hostile = Violation(field=text * 5_000, description=text * 5_000, reason=Reason.BACKEND_CREDENTIALS_REJECTED)
    metadata = {f"{n}{text * 5_000}": text * 5_000 for n in range(500)}
    check_size(
        kind(
            reason=Reason.FLOW_START_NOT_FOUND,
            message=text * 100_000,
            metadata={**metadata, "id": text * 5_000, "quota_subject": text * 5_000},
            violations=(hostile,) * 10_000,
            retry_after=timedelta(hours=1, microseconds=1),
        )
    )
