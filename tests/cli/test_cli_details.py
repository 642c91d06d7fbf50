from collections.abc import Iterator
from datetime import UTC, datetime
from io import StringIO

import grpc
import pytest
from google.protobuf import timestamp_pb2
from startflow.v1 import start_flow_service_pb2 as pb

from gateway.cli.client import Client
from gateway.cli.console import Console
from gateway.cli.session import Session
from tests.cli.stub_gateway import StubGateway, flow_start

AT = timestamp_pb2.Timestamp(seconds=1_000)


def recipients(count: int) -> list[pb.Recipient]:
    """Builds recipients, the second of which failed."""
    state = pb.Recipient.State
    return [
        pb.Recipient(
            recipient=f"tel:+{n}",
            state=state.STATE_FAILED if n == 1 else state.STATE_COMPLETED,
            dispatch_id=f"s1-{n + 1}",
            failure=pb.Failure(reason="ADDRESS_INVALID", message="no such number") if n == 1 else None,
        )
        for n in range(count)
    ]


@pytest.fixture
def gateway() -> Iterator[StubGateway]:
    """A gateway that answers what is laid out."""
    with StubGateway() as stub:
        yield stub


def session(gateway: StubGateway, *, readable: bool) -> tuple[Session, StringIO, StringIO]:
    """Opens a conversation, and returns what it writes to."""
    out, err = StringIO(), StringIO()
    console = Console(out, err, readable=readable, now=lambda: datetime.fromtimestamp(1_010, UTC))
    client = Client(grpc.insecure_channel(gateway.address), say=console.say)
    return Session(client, console), out, err


def test_recipients_are_listed_page_by_page(gateway: StubGateway) -> None:
    """A line each when piped, as many as were asked for; the token is passed on."""
    every = recipients(5)
    gateway.answers += [
        pb.ListRecipientsResponse(recipients=every[:3], next_page_token="t"),
        pb.ListRecipientsResponse(recipients=every[3:], next_page_token="u"),
    ]
    opened, out, err = session(gateway, readable=False)
    code = opened.recipients("s1", 4)

    assert 0 == code
    assert 4 == len(out.getvalue().splitlines())
    assert [("", 5), ("t", 2)] == [(request.page_token, request.page_size) for request in gateway.requests]
    assert "There are more: --limit 8" in err.getvalue()


def test_recipients_on_a_terminal_say_why(gateway: StubGateway) -> None:
    """A row each, with the failure in words."""
    gateway.answers.append(pb.ListRecipientsResponse(recipients=recipients(2)))
    opened, out, err = session(gateway, readable=True)
    opened.recipients("s1", 100)

    assert "COMPLETED" in out.getvalue()
    assert "ADDRESS_INVALID" in out.getvalue()
    assert "" == err.getvalue()


def test_changes_are_listed_with_attempts(gateway: StubGateway) -> None:
    """What was tried and what came of it, in one table."""
    unsure = pb.Attempt(dispatch_id="s1-1", number=1, outcome=pb.Attempt.OUTCOME_UNSURE, detail="timeout")
    changes = [
        pb.Change(change_time=AT, changed=flow_start(state=pb.FlowStart.STATE_PENDING)),
        pb.Change(change_time=AT, attempt=unsure),
        pb.Change(change_time=AT, attempt=pb.Attempt(dispatch_id="s1-1", number=2)),
    ]
    gateway.answers.append(pb.ListChangesResponse(changes=changes))
    opened, out, _ = session(gateway, readable=True)
    opened.changes("s1", 100)

    assert "PENDING" in out.getvalue()
    assert "attempt 1: unsure" in out.getvalue()
    assert "s1-1 timeout" in out.getvalue()
    assert "attempt 2: open" in out.getvalue()


def test_changes_piped_are_lines(gateway: StubGateway) -> None:
    """Page by page as well."""
    entry = pb.Change(change_time=AT, attempt=pb.Attempt(dispatch_id="s1-1", number=1))
    gateway.answers += [
        pb.ListChangesResponse(changes=[entry], next_page_token="t"),
        pb.ListChangesResponse(changes=[entry]),
    ]
    opened, out, err = session(gateway, readable=False)
    opened.changes("s1", 100)

    assert (2, "") == (len(out.getvalue().splitlines()), err.getvalue())


@pytest.mark.parametrize("call", ["cancel", "resolve"])
def test_what_was_moved_is_shown_with_its_warnings(gateway: StubGateway, call: str) -> None:
    """As `get` shows it; and how to follow what has not ended."""
    warning = pb.Warning(reason="CANNOT_CANCEL", message="what it has accepted runs on")
    start = flow_start(state=pb.FlowStart.STATE_STARTED, warnings=[warning], cancel_requested_time=AT)
    opened, out, err = session(gateway, readable=True)
    if call == "cancel":
        gateway.answers.append(pb.CancelFlowStartResponse(flow_start=start))
        code = opened.cancel(["s1"])
    else:
        gateway.answers.append(pb.ResolveFlowStartResponse(flow_start=start))
        code = opened.resolve(pb.ResolveFlowStartRequest(id="s1", give_up=pb.GiveUp()))

    assert 0 == code
    assert "STARTED (cannot cancel)" in out.getvalue()
    assert "CANNOT_CANCEL: what it has accepted runs on" in out.getvalue()
    assert "params" not in out.getvalue()
    assert "Follow it: startflow watch s1 --until-done" in err.getvalue()


def test_what_has_ended_need_not_be_followed(gateway: StubGateway) -> None:
    """Nothing is said but how it ended."""
    start = flow_start(state=pb.FlowStart.STATE_INTERRUPTED, end_time=AT)
    start.failure.CopyFrom(pb.Failure(reason="CANCELLED", message="before it was sent"))
    gateway.answers.append(pb.CancelFlowStartResponse(flow_start=start))
    opened, out, err = session(gateway, readable=True)
    opened.cancel(["s1"])

    assert "CANCELLED: before it was sent" in out.getvalue()
    assert "" == err.getvalue()
