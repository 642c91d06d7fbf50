from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from startflow.v1 import start_flow_service_pb2 as pb

from gateway.errors import InvalidRequest, Reason
from gateway.model import Filter, State
from gateway.wire import WatchRequest, read_filter, read_page_size, read_watch

WHEN = Timestamp(seconds=1_700_000_000)


def refused_fields(read: Callable[[], object]) -> list[str]:
    """Lists the paths that a reader refuses."""
    with pytest.raises(InvalidRequest) as refused:
        read()
    assert refused.value.reason is Reason.VALIDATION_FAILED
    return [violation.field for violation in refused.value.violations]


def test_a_whole_filter_is_read() -> None:
    """Every field arrives, in our own words."""
    message = pb.FlowStartFilter(
        backends=["b", "a", "b"],
        flow="welcome",
        states=[pb.FlowStart.STATE_PENDING, pb.FlowStart.STATE_UNCERTAIN],
        labels={"team": "blue"},
        request_id="order 66",
        external_id="FN1",
        create_time_from=Timestamp(),
        create_time_to=WHEN,
    )
    expected = Filter(
        backends=frozenset({"a", "b"}),
        flow="welcome",
        states=frozenset({State.PENDING, State.UNCERTAIN}),
        labels={"team": "blue"},
        request_id="order 66",
        external_id="FN1",
        created_from=datetime(1970, 1, 1, tzinfo=UTC),
        created_to=datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC),
    )

    assert expected == read_filter(message)


def test_an_empty_filter_narrows_nothing() -> None:
    """Nothing asked is everything meant."""
    assert Filter() == read_filter(pb.FlowStartFilter())


def test_every_state_of_a_start_can_be_asked_for() -> None:
    """The states of the proto are ours but for SKIPPED, which only a dispatch can be."""
    numbers = pb.FlowStart.State.values()[1:]

    assert read_filter(pb.FlowStartFilter(states=numbers)).states == set(State) - {State.SKIPPED}


# fmt: off
BAD_FILTERS: list[tuple[dict[str, Any], list[str]]] = [
    ({"backends": ["a", "", "x" * 64]},                            ["filter.backends[1]", "filter.backends[2]"]),
    ({"backends": ["a"] * 101},                                    ["filter.backends"]),
    ({"states": [1, 0, 8, 99, -1]},                                [f"filter.states[{n}]" for n in (1, 2, 3, 4)]),
    ({"states": [1] * 101},                                        ["filter.states"]),
    ({"labels": {"-": "", "a": "x" * 256}},                        ['filter.labels["-"]', 'filter.labels["a"]']),
    ({"labels": {f"x{n}": "" for n in range(33)}},                 ["filter.labels"]),
    ({"labels": {f"x{n}": "€" * 255 for n in range(32)}},          ["filter.labels"]),
    ({"flow": "x" * 256, "external_id": "\0"},                     ["filter.flow", "filter.external_id"]),
    ({"request_id": "x" * 129},                                    ["filter.request_id"]),
    ({"create_time_from": Timestamp(nanos=-1)},                    ["filter.create_time_from"]),
    ({"create_time_to": Timestamp(seconds=2**62)},                 ["filter.create_time_to"]),
    ({"create_time_from": WHEN, "create_time_to": WHEN},           ["filter.create_time_to"]),
    ({"create_time_from": WHEN, "create_time_to": Timestamp()},    ["filter.create_time_to"]),
]

BAD_WATCHES: list[tuple[dict[str, Any], list[str]]] = [
    ({"ids": ["a", "", "A", "x" * 65, "a/b", "x\n"]},              [f"ids[{n}]" for n in (1, 2, 3, 4, 5)]),
    ({"ids": ["a"] * 1_001},                                       ["ids"]),
    ({"ids": ["a"] * 1_001, "until_done": True},                   ["ids"]),
    ({"after_revision": -1},                                       ["after_revision"]),
    ({"epoch": "x" * 256},                                         ["epoch"]),
    ({"until_done": True},                                         ["until_done"]),
    ({"ids": [""], "filter": pb.FlowStartFilter(backends=[""])},      ["ids[0]", "filter.backends[0]"]),
]

PAGE_SIZES = [(0, 50), (1, 1), (499, 499), (500, 500), (501, 500), (2**31 - 1, 500)]
# fmt: on


@pytest.mark.parametrize(("fields", "expected"), BAD_FILTERS)
def test_bad_filters_are_refused(fields: dict[str, Any], expected: list[str]) -> None:
    """All that is wrong is named, in a watch as in a list."""
    message = pb.FlowStartFilter(**fields)

    assert expected == refused_fields(lambda: read_filter(message))
    assert expected == refused_fields(lambda: read_watch(pb.WatchFlowStartsRequest(filter=message)))


@pytest.mark.parametrize(("fields", "expected"), BAD_WATCHES)
def test_bad_watches_are_refused(fields: dict[str, Any], expected: list[str]) -> None:
    """All that is wrong is named."""
    assert expected == refused_fields(lambda: read_watch(pb.WatchFlowStartsRequest(**fields)))


def test_a_whole_watch_is_read() -> None:
    """Ids come once each, in the caller's order."""
    request = pb.WatchFlowStartsRequest(
        ids=["b", "a", "b"],
        filter=pb.FlowStartFilter(flow="welcome"),
        after_revision=7,
        epoch="e1",
        until_done=True,
    )
    expected = WatchRequest(
        ids=("b", "a"), filter=Filter(flow="welcome"), after_revision=7, epoch="e1", until_done=True
    )

    assert expected == read_watch(request)


def test_revision_zero_is_not_unset() -> None:
    """Unset begins with a snapshot, 0 with the first change."""
    assert read_watch(pb.WatchFlowStartsRequest()).after_revision is None
    assert read_watch(pb.WatchFlowStartsRequest(after_revision=0)).after_revision == 0


@pytest.mark.parametrize(("asked", "expected"), PAGE_SIZES)
def test_page_sizes_are_kept_in_bounds(asked: int, expected: int) -> None:
    """Zero is the default, and too much is the most there is."""
    assert expected == read_page_size(asked, 50, 500)


def test_a_negative_page_size_is_refused() -> None:
    """It means nothing."""
    assert refused_fields(lambda: read_page_size(-1, 50, 500)) == ["page_size"]
