from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import json_format
from startflow.v1 import start_flow_service_pb2 as pb
from structlog.testing import capture_logs

from gateway import wire
from gateway.adapters.base import Account, Missing
from gateway.adapters.rapidpro.adapter import RapidPro
from gateway.adapters.twilio.adapter import Twilio
from gateway.errors import (
    Exhausted,
    GatewayError,
    InvalidRequest,
    NotFound,
    NotPossible,
    Reason,
    RequestIdReused,
    Unavailable,
)
from gateway.lanes.pacing import Circuit, Limiter, Quota
from gateway.lanes.transport import Transport
from gateway.model import Call, Flow, FlowStart, Identity, Notice, Resolution, Standing, State, Verdict
from gateway.service.starts import Service
from gateway.store import Terms
from gateway.tenants.clients import Clients
from gateway.watch.stream import Watch
from tests.builders import NOON, accepted, asked, claim_ids, create, run_to, settle, singly, unsure
from tests.fakes import ScriptedTransport, Studio, Ticks, Watched, backend
from tests.wire.test_wire_page_token import forged

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.lanes.backend import Backend
    from gateway.store.sqlite import SqliteStore
    from tests.builders import Clock

EXECUTION, UUID = "FN" + "1" * 32, "4533cd70-668b-4e0a-8c1f-0123456789ab"  # as each backend names what it made
SHOWN = [("s1-2", False), ("", False), ("s10-1", True), ("s2-1", True), (None, True)]  # keys, and whether refused
FLOW = "f5901b62-ba76-4003-9c62-72fdacc1b7b7"
STUDIO_FLOW = "FW" + "a" * 32
URN = "tel:+12065551212"
CALL = Call(tenant="default", seconds_left=7.5)


@dataclass
class Flows:
    """A catalogue that objects to what it is told to, and remembers what it was asked."""

    refused: dict[str, str] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)
    offered: tuple[Flow, ...] = ()
    asked: list[tuple[str, float | None]] = field(default_factory=list)

    def knows(self, flow: str) -> bool:
        """Knows all but what it is told not to know."""
        return flow not in self.unknown

    async def require(self, flow: str, seconds_left: float | None) -> None:
        """Refuses what is to be refused."""
        self.asked.append((flow, seconds_left))
        if flow in self.refused:
            raise NotFound(reason=Reason.FLOW_NOT_FOUND, message=self.refused[flow])

    async def flows(self) -> tuple[Flow, ...]:
        """Lists what is offered."""
        return self.offered


class Calling:
    """A service over a real store, called as a caller does, but without a wire."""

    def __init__(self, store: SqliteStore, clock: Clock) -> None:
        self.store = store
        self.clock = clock
        self.watched = Watched(store)
        self.ticks = Ticks()
        self.clients = Clients(clock=clock)
        self.backends = {
            "textit": self.lane("textit", RapidPro(Account(credentials={"token": "t"})), registration=FLOW),
            "community": self.lane("community", RapidPro(Account(credentials={"token": "t"})), Registration=FLOW),
            "studio": self.lane(
                "studio",
                Twilio(Account(credentials={"account_sid": "AC" + "a" * 32, "auth_token": "t"}, sender="+18007654321")),
                welcome=STUDIO_FLOW,
                registration=STUDIO_FLOW,
            ),
        }
        self.service = self.over(self.backends)

    def over(self, backends: dict[str, Backend]) -> Service:
        """Makes a service with other backends over the same store."""
        self.flows = {name: Flows() for name in backends}
        return Service(
            self.watched,
            Watch(self.store, wire),
            backends,
            self.flows,
            self.clock,
            clients=self.clients,
            quota=Quota(clock=self.ticks),
        )

    def lane(self, name: str, adapter: Any, **aliases: str) -> Backend:
        """Makes a backend; Twilio's has a default sender."""
        transport = Transport(
            "http://127.0.0.1:1",
            timeout=timedelta(seconds=1),
            limiter=Limiter(10, 60.0, clock=self.ticks),
            rate_counts_reads=True,
            concurrency=1,
        )
        transport.circuit = Circuit(clock=self.ticks, jitter=lambda: 1.0)
        twilio = isinstance(adapter, Twilio)
        return replace(
            backend(transport, adapter),
            name=name,
            kind="twilio" if twilio else "rapidpro",
            flow_aliases=aliases,
            sender="+18007654321" if twilio else "",
        )

    async def start(self, service: Service | None = None, **fields: Any) -> pb.StartFlowResponse:
        """Calls StartFlow, with one URN unless told otherwise."""
        request = json_format.ParseDict({"flow": FLOW, "urns": [URN], **fields}, pb.StartFlowRequest())
        answer = await (service or self.service).start_flow(CALL, request.SerializeToString())
        return pb.StartFlowResponse.FromString(answer)

    async def refused(self, service: Service | None = None, **fields: Any) -> GatewayError:
        """Calls StartFlow with what is refused; nothing is recorded by it."""
        before = await self.store.head()
        with pytest.raises(GatewayError) as caught:
            await self.start(service, **fields)
        assert before == await self.store.head()
        return caught.value

    async def list(self, **fields: Any) -> pb.ListFlowStartsResponse:
        """Calls ListFlowStarts."""
        request = json_format.ParseDict(fields, pb.ListFlowStartsRequest())
        answer = await self.service.list_flow_starts(CALL, request.SerializeToString())
        return pb.ListFlowStartsResponse.FromString(answer)


@pytest.fixture
def calling(store: SqliteStore, clock: Clock) -> Calling:
    """A service with two RapidPro workspaces and one Twilio account."""
    return Calling(store, clock)


def moment(seconds: float) -> str:
    """Writes a moment after noon as JSON has it."""
    return (NOON + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def paths(error: GatewayError) -> list[str]:
    """Lists the bad fields."""
    return [violation.field for violation in error.violations]


# --- which backend


@pytest.mark.parametrize(
    ("fields", "name", "flow"),
    [
        ({"backend": "community"}, "community", FLOW),
        ({"flow": STUDIO_FLOW}, "studio", STUDIO_FLOW),
        ({"flow": "welcome"}, "studio", STUDIO_FLOW),
        ({"flow": "Registration"}, "community", FLOW),
        ({"flow": "registration", "backend": "textit"}, "textit", FLOW),
        ({"flow": "registration", "backend": "studio"}, "studio", STUDIO_FLOW),
    ],
    ids=str,
)
async def test_a_backend_is_named_or_told_by_the_flow(
    calling: Calling, fields: dict[str, Any], name: str, flow: str
) -> None:
    """By its own id, or by an alias, which is resolved once and stored."""
    start = (await calling.start(**fields)).flow_start

    assert (name, flow) == (start.backend, start.flow)


async def test_one_backend_that_fits_is_enough(calling: Calling) -> None:
    """Others of another kind do not matter."""
    service = calling.over({name: calling.backends[name] for name in ("textit", "studio")})

    assert "textit" == (await calling.start(service)).flow_start.backend


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "several backends have such a flow; name one of: community, textit."),
        ({"flow": "registration"}, "several backends have such a flow; name one of: studio, textit."),
        (
            {"flow": "nobody's"},
            "the flow does not identify the backend; name one of: community, studio, textit.",
        ),
        ({"flow": FLOW[:-1]}, "the flow looks like a UUID, which has 36 characters, and this has 35."),  # newcomer 10
        ({"flow": FLOW.upper()}, f"no flow is spelled like this; did you mean {FLOW}?"),  # D10
        ({"flow": STUDIO_FLOW.lower()}, f"no flow is spelled like this; did you mean {STUDIO_FLOW}?"),  # D10
    ],
    ids=str,
)
async def test_an_ambiguous_flow_is_refused_with_the_candidates(
    calling: Calling, fields: dict[str, Any], said: str
) -> None:
    """It is the field `backend` that is missing."""
    error = await calling.refused(**fields)

    assert isinstance(error, InvalidRequest)
    assert ["backend"] == paths(error)
    assert said in error.violations[0].description


async def test_an_unknown_backend_is_not_found(calling: Calling) -> None:
    """With those that there are."""
    error = await calling.refused(backend="nowhere")

    assert isinstance(error, NotFound)
    assert ("BACKEND_NOT_FOUND", {"backend": "nowhere", "backends": "community, studio, textit"}) == (
        error.reason,
        error.metadata,
    )


async def test_an_unknown_backend_is_one_bad_field_among_others(calling: Calling) -> None:
    """All that is wrong is told together."""
    error = await calling.refused(backend="nowhere", urns=["tel:"], request_id="r")

    assert isinstance(error, InvalidRequest)
    assert ["urns[0]", "backend"] == paths(error)


async def test_what_the_backend_cannot_express_is_told_with_the_rest(calling: Calling) -> None:
    """Fields, the backend's objections and the times, in one answer."""
    error = await calling.refused(flow=STUDIO_FLOW, groups=["g"], labels={"": "x"}, expire_time=moment(0))

    assert isinstance(error, InvalidRequest)
    assert {"groups", "expire_time"} < set(paths(error))
    assert 3 == len(paths(error))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"flow": STUDIO_FLOW}, "+18007654321"),
        ({"flow": STUDIO_FLOW, "sender": "MG" + "0" * 32}, "MG" + "0" * 32),
        ({"backend": "textit"}, ""),
    ],
    ids=str,
)
async def test_the_sender_is_settled_once(calling: Calling, fields: dict[str, Any], expected: str) -> None:
    """The backend's default unless one is named, stored with the start; RapidPro has none."""
    start = (await calling.start(**fields)).flow_start
    (dispatch,) = (await calling.store.claim(start.backend, 1)).dispatches

    assert expected == dispatch.sender


# --- before anything is recorded


async def test_validate_only_records_nothing(calling: Calling) -> None:
    """It tells how many backend requests it would take, and the warnings; also while draining."""
    urns = [f"tel:+1206{n:07}" for n in range(250)]
    calling.service.drain()
    many = await calling.start(backend="textit", urns=[*urns, urns[0]], validate_only=True)
    three = await calling.start(flow=STUDIO_FLOW, urns=urns[:3], validate_only=True)

    assert (3, 3) == (many.backend_request_count, three.backend_request_count)
    assert ("", 250, 0) == (many.flow_start.id, many.flow_start.recipient_count, many.flow_start.revision)
    assert ["DUPLICATES_REMOVED"] == [warning.reason for warning in many.flow_start.warnings]
    assert 0 == await calling.store.head()
    assert "create" not in calling.watched.calls


async def test_validate_only_refuses_what_would_be_refused(calling: Calling) -> None:
    """With the same error."""
    error = await calling.refused(flow=STUDIO_FLOW, groups=["g"], validate_only=True)

    assert ["groups"] == paths(error)


@pytest.mark.parametrize(("seconds", "refused"), [(-1, True), (0, True), (0.001, False)])
async def test_what_has_expired_is_refused(calling: Calling, seconds: float, refused: bool) -> None:  # noqa: FBT001
    """Nothing of it would be sent."""
    fields = {"backend": "textit", "expire_time": moment(seconds)}
    if refused:
        assert ["expire_time"] == paths(await calling.refused(**fields))
    else:
        assert (await calling.start(**fields)).flow_start.id


DAY = 86_400.0


@pytest.mark.parametrize("field", ["schedule_time", "expire_time"])
async def test_b1_times_too_far_ahead_are_refused(calling: Calling, field: str) -> None:
    """With the field, the limit and what to do; nothing is recorded."""
    fields: dict[str, Any] = {"backend": "textit"}
    for far in ("9999-12-31T23:59:59Z", moment(365 * DAY + 1)):
        error = await calling.refused(**fields, **{field: far})

        assert isinstance(error, InvalidRequest)
        assert [field] == paths(error)
        assert "more than 365 days ahead" in error.message
        assert "`schedule_ahead`" in error.message
    assert (await calling.start(**fields, **{field: moment(365 * DAY)})).flow_start.id


async def test_b1_how_far_ahead_is_a_setting_of_the_backend(calling: Calling) -> None:
    """Each has its own."""
    short = replace(calling.backends["textit"], schedule_ahead=timedelta(hours=36))
    service = calling.over({**calling.backends, "textit": short})
    error = await calling.refused(service, backend="textit", schedule_time=moment(2 * DAY))

    assert "more than 1.5 days ahead" in error.message
    assert (await calling.start(service, backend="community", schedule_time=moment(2 * DAY))).flow_start.id


async def test_b1_a_retry_finds_a_start_that_may_not_be_made_any_more(calling: Calling) -> None:
    """A time beyond today's limit, a number and labels that earlier versions took: the look-up comes first."""
    fields: dict[str, Any] = {
        "backend": "textit",
        "request_id": "r-1",
        "schedule_time": "9999-12-31T23:59:59Z",
        "params": {"n": 2**53},
        "labels": {f"l{n}": "😀" * 255 for n in range(32)},
    }
    request = wire.read_start(json_format.ParseDict({"flow": FLOW, "urns": [URN], **fields}, pb.StartFlowRequest()))
    assert not request.violations
    wanted = replace(asked(), backend="textit", flow=FLOW, request_id="r-1", schedule_at=request.schedule_at)
    first = await calling.store.create(
        wanted, [request.recipients], fingerprint=request.fingerprint, warnings=(), terms=Terms()
    )
    again = await calling.start(**fields)
    fresh = await calling.refused(**{**fields, "request_id": "r-2"})

    assert (True, first.flow_start.asked.id) == (again.replayed, again.flow_start.id)
    assert {"schedule_time", "params.n", "labels"} == set(paths(fresh))


@pytest.mark.parametrize(
    ("method", "request_type"),
    [
        ("get_flow_start", pb.GetFlowStartRequest),
        ("cancel_flow_start", pb.CancelFlowStartRequest),
        ("resolve_flow_start", pb.ResolveFlowStartRequest),
        ("list_recipients", pb.ListRecipientsRequest),
        ("list_changes", pb.ListChangesRequest),
    ],
)
async def test_b1_an_id_that_is_longer_than_any_is_refused(calling: Calling, method: str, request_type: Any) -> None:
    """It is not looked for."""
    with pytest.raises(InvalidRequest, match="longer than 64 characters") as caught:
        await getattr(calling.service, method)(CALL, request_type(id="x" * 65).SerializeToString())

    assert ["id"] == paths(caught.value)
    with pytest.raises(NotFound):
        data = request_type(id="x" * 64)
        if method == "resolve_flow_start":
            data.give_up.SetInParent()
        await getattr(calling.service, method)(CALL, data.SerializeToString())


async def test_a5_one_person_in_two_spellings_is_started_once(calling: Calling) -> None:
    """Over the whole start, not only within one request of RapidPro's."""
    urns = ["tel:+12065551212", *(f"tel:+1206777{n:04}" for n in range(148)), "tel:+1 (206) 555-1212"]
    response = await calling.start(backend="textit", urns=urns)
    page = await calling.store.recipients(None, response.flow_start.id, after=None, limit=1_000)
    shown = await calling.store.get(None, response.flow_start.id)

    assert page is not None
    assert shown is not None
    assert urns[:-1] == [each.recipient for each in page.recipients]
    assert (149, 149) == (response.flow_start.recipient_count, shown.asked.recipient_count)
    assert [("DUPLICATES_REMOVED", {"urns": "1"})] == [
        (warning.reason, dict(warning.metadata)) for warning in response.flow_start.warnings
    ]


@pytest.mark.parametrize(("sender", "urns", "fields", "said"), [
    ("+18007654321", [URN, URN, "telegram:1", URN, "mailto:a@example.com"], ["urns[2]", "urns[4]"], "is of a scheme"),
    ("whatsapp:+18007654321", ["whatsapp:+12065551212"] * 2 + [URN], ["sender"], "and urns[2] is not"),
])  # fmt: skip
async def test_c7_what_is_refused_has_the_place_that_it_has_in_the_request(
    calling: Calling, sender: str, urns: list[str], fields: list[str], said: str
) -> None:
    """Not the place that is left when duplicates are taken out."""
    error = await calling.refused(backend="studio", flow=STUDIO_FLOW, sender=sender, urns=urns)

    assert isinstance(error, InvalidRequest)
    assert fields == [each.field for each in error.violations]
    assert said in error.violations[0].description


async def test_a5_a_request_is_compared_as_it_was_sent(calling: Calling) -> None:
    """A retry finds its start; the same person in another spelling is another request."""
    fields: dict[str, Any] = {"backend": "textit", "request_id": "r-1"}
    first = await calling.start(**fields, urns=[URN, "tel:+1 206 555 1212"])
    again = await calling.start(**fields, urns=[URN, "tel:+1 206 555 1212"])

    assert (True, first.flow_start.id) == (again.replayed, again.flow_start.id)
    assert isinstance(await calling.refused(**fields, urns=[URN]), RequestIdReused)


async def test_a5_overlap_is_judged_over_the_requests_as_they_are_sent(calling: Calling) -> None:
    """A hundred people in a hundred and one spellings, and a group, are one request."""
    urns = [f"tel:+1206777{n:04}" for n in range(100)]
    one = await calling.start(backend="textit", urns=[*urns, "tel:1-206-777-0000"], groups=["Mothers"])
    unsure = {"backend": "textit", "urns": ["tel:0788383383", *urns, "tel:+250 788 383 383"]}
    error = await calling.refused(**unsure)
    calling.backends["textit"].transport.identity = Identity(account="w", country="RW")
    known = await calling.start(**unsure)

    assert (1, 101) == (one.backend_request_count, one.flow_start.recipient_count)
    assert (Reason.RECIPIENTS_MAY_OVERLAP, ["urns[0]"]) == (error.reason, paths(error))
    assert "urns[101]" in error.message
    assert "country code" in error.message
    assert (2, 101) == (known.backend_request_count, known.flow_start.recipient_count)


# --- idempotency


async def test_a_retry_finds_the_first_start_as_it_is_now(calling: Calling) -> None:
    """In its current state; nothing is recorded or sent again."""
    first = await calling.start(backend="textit", request_id="r-1")
    start = await calling.store.get("default", first.flow_start.id)
    assert start is not None
    await run_to(calling.store, start, accepted("x"))
    second = await calling.start(backend="textit", request_id="r-1")

    assert (False, True) == (first.replayed, second.replayed)
    assert (first.flow_start.id, pb.FlowStart.STATE_QUEUED) == (second.flow_start.id, second.flow_start.state)
    assert second.flow_start.revision > first.flow_start.revision
    assert [first.flow_start.id] == [start.id for start in (await calling.list()).flow_starts]


@pytest.mark.parametrize("fields", [{}, {"validate_only": True}], ids=str)
async def test_a_retry_does_not_wait_for_a_backend_to_tell_its_flows(calling: Calling, fields: dict[str, Any]) -> None:
    """It is looked up first if the catalogue does not know the flow any more, or only advice is asked for."""
    first = await calling.start(backend="textit", request_id="r-1")
    flows = calling.flows["textit"]
    flows.asked.clear()
    flows.unknown |= set() if fields else {FLOW}
    second = await calling.start(backend="textit", request_id="r-1", **fields)

    assert (True, first.flow_start.id) == (second.replayed, second.flow_start.id)
    assert [] == flows.asked


async def _no_more(calling: Calling) -> Service:
    """The backend was removed from the configuration."""
    return calling.over({"studio": calling.backends["studio"]})


async def _draining(calling: Calling) -> Service:
    """The gateway is shutting down."""
    calling.service.drain()
    return calling.service


async def _later(calling: Calling) -> Service:
    """Its expire_time has passed."""
    calling.clock.tick(3600)
    return calling.service


@pytest.mark.parametrize("meanwhile", [_no_more, _draining, _later], ids=lambda step: step.__name__)
async def test_a_retry_never_fails_where_the_first_call_succeeded(
    calling: Calling, meanwhile: Callable[[Calling], Any]
) -> None:
    """Whatever has changed since: the look-up comes before every check but that of the request itself."""
    fields = {"backend": "textit", "request_id": "r-1", "expire_time": moment(60), "schedule_time": moment(30)}
    first = await calling.start(**fields)
    service = await meanwhile(calling)
    second = await calling.start(service, **fields)
    fresh = await calling.refused(service, **{**fields, "request_id": "r-2"})

    assert (True, first.flow_start.id) == (second.replayed, second.flow_start.id)
    assert isinstance(fresh, InvalidRequest | NotFound | Unavailable)


@pytest.mark.parametrize(
    ("different", "fields"),
    [
        ({"urns": ["tel:+12065551213"]}, "urns"),
        ({"params": {"a": 2}}, "params"),
        ({"backend": "community"}, "backend"),
        ({"params": {"a": 2}, "labels": {"a": "b"}, "exclude_active": False}, "params, exclude_active, labels"),
        ({"schedule_time": moment(5)}, "schedule_time"),
    ],
    ids=str,
)
async def test_other_content_under_the_same_id_is_refused(
    calling: Calling, different: dict[str, Any], fields: str
) -> None:
    """With the fields that differ, and the start that has it; no content is told."""
    asked = {"backend": "textit", "request_id": "r-1", "params": {"a": 1}}
    first = await calling.start(**asked)
    error = await calling.refused(**{**asked, **different})

    assert isinstance(error, RequestIdReused)
    assert {"fields": fields, "id": first.flow_start.id} == error.metadata
    assert URN not in str(error)


async def test_twins_get_one_start(calling: Calling) -> None:
    """The second is recorded while the first is about to be."""
    fields = {"backend": "textit", "request_id": "r-1"}
    twins: list[pb.StartFlowResponse] = []

    async def overtake() -> None:
        del calling.watched.before["create"]
        twins.append(await calling.start(**fields))

    calling.watched.before["create"] = overtake
    twins.append(await calling.start(**fields))

    assert [False, True] == [twin.replayed for twin in twins]
    assert twins[0].flow_start == twins[1].flow_start


async def test_a_late_twin_with_other_content_is_refused(calling: Calling) -> None:
    """It is compared where it is found."""
    fields = {"backend": "textit", "request_id": "r-1"}

    async def overtake() -> None:
        del calling.watched.before["create"]
        await calling.start(**fields)

    calling.watched.before["create"] = overtake
    with pytest.raises(RequestIdReused):
        await calling.start(**fields, labels={"a": "b"})


async def test_request_ids_are_a_tenants_own(calling: Calling) -> None:
    """Another tenant's start is neither found nor in the way."""
    request = pb.StartFlowRequest(flow=STUDIO_FLOW, urns=[URN], request_id="r-1").SerializeToString()
    answers = [
        pb.StartFlowResponse.FromString(await calling.service.start_flow(Call(tenant=tenant), request))
        for tenant in ("a", "b")
    ]
    with pytest.raises(NotFound):
        await calling.service.get_flow_start(
            Call(tenant="b"), pb.GetFlowStartRequest(id=answers[0].flow_start.id).SerializeToString()
        )

    assert [False, False] == [answer.replayed for answer in answers]


@pytest.mark.parametrize("operation", ["find_request", "create"])
async def test_a_store_that_is_unavailable_says_so(calling: Calling, operation: str) -> None:
    """And the same call may be made again."""
    calling.flows["textit"].unknown.add(FLOW)  # so that it is looked up first
    calling.watched.down[operation] = 1
    error = await calling.refused(backend="textit", request_id="r-1")
    again = await calling.start(backend="textit", request_id="r-1")

    assert isinstance(error, Unavailable)
    assert error.retry_after is not None
    assert not again.replayed


async def test_draining_takes_nothing_new(calling: Calling) -> None:
    """UNAVAILABLE, with a time to come back; reading goes on."""
    start = (await calling.start(backend="textit")).flow_start
    calling.service.drain()
    error = await calling.refused(backend="textit")

    assert isinstance(error, Unavailable)
    assert "DRAINING" == error.reason
    assert [start.id] == [each.id for each in (await calling.list()).flow_starts]


# --- reading


async def test_a_start_is_read_with_its_params(calling: Calling) -> None:
    """As they were sent; an id that never was is not found."""
    start = (await calling.start(backend="textit", params={"n": 5, "x": 1.5, "o": {"b": [True, None]}})).flow_start
    answer = await calling.service.get_flow_start(CALL, pb.GetFlowStartRequest(id=start.id).SerializeToString())
    found = pb.GetFlowStartResponse.FromString(answer)
    with pytest.raises(NotFound) as caught:
        await calling.service.get_flow_start(CALL, pb.GetFlowStartRequest(id="x").SerializeToString())

    assert start == found.flow_start
    assert {"n": 5, "x": 1.5, "o": {"b": [True, None]}} == json_format.MessageToDict(found.params)
    assert "FLOW_START_NOT_FOUND" == caught.value.reason


async def test_a_list_comes_in_pages(calling: Calling) -> None:
    """The most recently changed first, each start once."""
    ids = [(await calling.start(backend="textit")).flow_start.id for _ in range(5)]
    found, token = [], ""
    for _ in range(3):
        page = await calling.list(page_size=2, page_token=token)
        found += [start.id for start in page.flow_starts]
        token = page.next_page_token

    assert ids[::-1] == found
    assert "" == token


@pytest.mark.parametrize("step", ["garbage", "other filter", "other tenant", "another list"])
async def test_a_foreign_page_token_is_refused(calling: Calling, step: str) -> None:
    """One of another list would skip or repeat starts, so it is no token of this one."""
    for _ in range(3):
        await calling.start(backend="textit")
    token, tenant, filtered = (await calling.list(page_size=1)).next_page_token, "default", None
    if step == "garbage":
        token = "x" + token
    elif step == "other filter":
        filtered = pb.FlowStartFilter(backends=["textit"])
    elif step == "other tenant":
        tenant = "other"
    else:
        token = wire.write_page_token(f"ListFlowStarts {calling.store.epoch} default ".encode(), ["a", 1])
    request = pb.ListFlowStartsRequest(page_size=1, page_token=token, filter=filtered)
    with pytest.raises(InvalidRequest) as caught:
        await calling.service.list_flow_starts(Call(tenant=tenant), request.SerializeToString())

    assert ["page_token"] == paths(caught.value)


FORGED = [
    "null", "true", "-1", "-2", "0", "1", "1e3", "9223372036854775807", "9223372036854775808", "-9223372036854775809",
    "9" * 700, '"1"', '"\\ud800"', "{}", "[]", "[1]", "[true]", '["1"]', "[1,2]", "[-2,-2]", "[-1,-1]", "[0,0]",
    "[0,9]", "[1,true]", '[1,"2"]',
    "[[1],2]", "[1,2,3]", '[1,2,"x",4]', '[1,2,"\\ud800",4]', '[1,2,"\\u0000",4]', "[1,2,3,4]", "[1,2,null,4]",
    '[9223372036854775807,1,"x",9223372036854775807]', '[1,9223372036854775808,"x",1]', '[-2,-2,"",-2]', "[" * 700,
    "", " ", "\xff", "NaN", "[Infinity,1]", "1" + " " * 700, "1" + " " * 10**6,
]  # fmt: skip
"""Positions as anybody can write them; most are of no list."""
TAKEN = {
    "list_flow_starts": {"-1", "0", "1", "9223372036854775807", "[1]", "1" + " " * 700},
    "list_recipients": {"[1,2]", "[-1,-1]", "[0,0]", "[0,9]"},
    "list_changes": {'[1,2,"x",4]', '[9223372036854775807,1,"x",9223372036854775807]'},
    "list_flows": {"-1", "0", "1", "9223372036854775807", "[1]", "1" + " " * 700},
}
"""Those that have the form of a position in a list, and read a page, if only an empty one."""


@pytest.mark.parametrize("name", TAKEN)
async def test_b9_a_forged_page_token_is_refused(calling: Calling, name: str) -> None:
    """Each shape is INVALID_ARGUMENT that names the field; so is a token of another epoch, as of a restored store."""
    start_id = (await calling.start(backend="textit")).flow_start.id
    rpc, epoch = name.title().replace("_", ""), calling.store.epoch
    fields = {"list_flow_starts": {}, "list_flows": {"backend": "studio"}}.get(name, {"id": start_id})
    scope = "ListFlows default studio" if name == "list_flows" else f"{rpc} {epoch} default {fields.get('id', '')}"
    tokens = {place: forged(place.encode("latin-1"), scope.encode()) for place in FORGED}
    if name != "list_flows":
        tokens["another epoch"] = forged(b"1", scope.replace(epoch, "0" * 32).encode())
    taken, named = set(), []
    for place, token in tokens.items():
        request = getattr(pb, f"{rpc}Request")(page_token=token, **fields)
        try:
            await getattr(calling.service, name)(CALL, request.SerializeToString())
            taken.add(place)
        except InvalidRequest as error:
            named += paths(error)

    assert TAKEN[name] == taken
    assert ["page_token"] * (len(tokens) - len(taken)) == named


async def backends(calling: Calling) -> dict[str, pb.Backend]:
    """Calls ListBackends."""
    answer = await calling.service.list_backends(CALL, b"")
    listed = pb.ListBackendsResponse.FromString(answer).backends
    assert sorted(backend.name for backend in listed) == [backend.name for backend in listed]
    return {backend.name: backend for backend in listed}


async def test_backends_are_listed_with_what_they_can(calling: Calling) -> None:
    """Kind, aliases, capabilities and limits."""
    found = await backends(calling)
    studio, textit = found["studio"], found["textit"]

    assert ["community", "studio", "textit"] == sorted(found)
    assert ("twilio", "rapidpro") == (studio.kind, textit.kind)
    assert {"welcome": STUDIO_FLOW, "registration": STUDIO_FLOW} == dict(studio.flow_aliases)
    assert (True, False) == (studio.capabilities.sender, textit.capabilities.sender)
    assert (1, 100) == (studio.limits.recipients_per_dispatch, textit.limits.recipients_per_dispatch)
    assert (10, 60) == (textit.limits.rate, textit.limits.rate_period.ToSeconds())
    assert pb.COMPLETION_MEANING_EXECUTIONS_ENDED == studio.completion_meaning
    assert pb.COMPLETION_MEANING_RECIPIENTS_ENTERED == textit.completion_meaning
    assert pb.Backend.Health.STATE_UNSPECIFIED == studio.health.state


async def test_backends_are_listed_with_how_they_are(calling: Calling) -> None:
    """What waits and how long it takes, the quota left, and what is wrong with which one until when."""
    for _ in range(5):
        await calling.start(backend="textit")
    await calling.start(backend="textit", schedule_time=moment(60))
    textit = calling.backends["textit"].transport
    for _ in range(3):
        assert textit.admits()
    textit.circuit.blocked(Notice(reason="BACKEND_SUSPENDED", message="ask its support"))
    calling.backends["studio"].transport.circuit.answered()
    calling.backends["studio"].transport.circuit.unread = "give the key the permission"
    found = await backends(calling)
    blocked = found["textit"]

    assert (5, 37) == (blocked.lane.pending, blocked.lane.estimated_drain.ToSeconds())  # eight in a minute
    assert (5, 8) == (blocked.quota_left, found["community"].quota_left)  # of eight that may be sent
    assert (pb.Backend.Health.STATE_BLOCKED, "BACKEND_SUSPENDED", "ask its support") == (
        blocked.health.state,
        blocked.health.reason,
        blocked.health.message,
    )
    assert NOON + timedelta(seconds=30) == blocked.health.retry_time.ToDatetime(NOON.tzinfo)
    studio = found["studio"].health
    assert (pb.Backend.Health.STATE_OK, "", "give the key the permission") == (
        studio.state,
        studio.reason,
        studio.message,
    )
    assert not studio.HasField("retry_time")


@pytest.mark.parametrize(
    ("name", "request_class", "response_class", "rows"),
    [
        ("list_recipients", pb.ListRecipientsRequest, pb.ListRecipientsResponse, "recipients"),
        ("list_changes", pb.ListChangesRequest, pb.ListChangesResponse, "changes"),
    ],
)
async def test_details_are_paged_and_their_tokens_are_their_own(
    calling: Calling, name: str, request_class: Any, response_class: Any, rows: str
) -> None:
    """A token of another start is refused, and so is an id that never was."""
    ids = []
    for n in range(2):
        request = pb.StartFlowRequest(flow=STUDIO_FLOW, urns=[URN, f"tel:+1206555121{n}"])
        answer = await calling.service.start_flow(CALL, request.SerializeToString())
        ids.append(pb.StartFlowResponse.FromString(answer).flow_start.id)
    method = getattr(calling.service, name)
    answer = await method(CALL, request_class(id=ids[0], page_size=1).SerializeToString())
    page = response_class.FromString(answer)

    assert 1 == len(getattr(page, rows))
    with pytest.raises(NotFound):
        await method(CALL, request_class(id="never").SerializeToString())
    if page.next_page_token:  # a fresh start has one change only
        foreign = request_class(id=ids[1], page_size=1, page_token=page.next_page_token)
        with pytest.raises(InvalidRequest, match="page_token"):
            await method(CALL, foreign.SerializeToString())
    assert bool(page.next_page_token) == (name == "list_recipients")


# --- cancelling and resolving

GIVE_UP = pb.GiveUp()


class OneStart:
    """A store of one start, running on a backend. It remembers what it was asked to do with it."""

    epoch = "e"

    def __init__(self, backend: str) -> None:
        standing = Standing(state=State.STARTED, updated_at=NOON)
        self.start = FlowStart(asked=asked(id="s1", tenant="default", backend=backend), standing=standing, revision=7)
        self.cancelled: list[bool] = []
        self.resolved: list[Resolution] = []
        self.purged = False  # right after it was found

    async def get(self, tenant: str, start_id: str) -> FlowStart | None:
        """Finds it for its tenant."""
        return self.start if (tenant, start_id) == ("default", "s1") else None

    async def cancel(self, tenant: str, start_id: str, *, can_end: bool) -> FlowStart | None:
        """Notes whether it can be ended."""
        self.cancelled.append(can_end)
        return None if self.purged else await self.get(tenant, start_id)

    async def resolve(self, tenant: str, start_id: str, resolution: Resolution) -> FlowStart | None:
        """Notes what was said."""
        self.resolved.append(resolution)
        return await self.get(tenant, start_id)


def over_one_start(calling: Calling, backend: str) -> tuple[Service, OneStart]:
    """Makes a service whose store is one start of a backend. Twilio's can be cancelled."""
    store: Any = OneStart(backend)
    able: Any = SimpleNamespace(capabilities=replace(Twilio.capabilities, cancel=True), external_id=str)
    backends = {**calling.backends, "studio": calling.lane("studio", able)}
    service = Service(
        store, Watch(calling.store, wire), backends, {}, calling.clock, clients=calling.clients, quota=Quota()
    )
    return service, store


async def cancel(service: Service, start_id: str, call: Call = CALL) -> pb.FlowStart:
    """Calls CancelFlowStart."""
    answer = await service.cancel_flow_start(call, pb.CancelFlowStartRequest(id=start_id).SerializeToString())
    return pb.CancelFlowStartResponse.FromString(answer).flow_start


async def resolve(service: Service, start_id: str, call: Call = CALL, **fields: Any) -> pb.FlowStart:
    """Calls ResolveFlowStart."""
    request = pb.ResolveFlowStartRequest(id=start_id, **fields)
    answer = await service.resolve_flow_start(call, request.SerializeToString())
    return pb.ResolveFlowStartResponse.FromString(answer).flow_start


@pytest.mark.parametrize(("backend", "can_end"), [("studio", True), ("textit", False), ("removed", False)])
async def test_whether_a_start_can_be_ended_is_its_backends_to_say(
    calling: Calling,
    backend: str,
    can_end: bool,  # noqa: FBT001
) -> None:
    """One that is no longer configured cannot be asked."""
    service, store = over_one_start(calling, backend)

    assert ("s1", 7) == ((start := await cancel(service, "s1")).id, start.revision)
    assert [can_end] == store.cancelled


async def test_an_operators_word_is_passed_on(calling: Calling) -> None:
    """What was wrong with it is told before the store is asked."""
    service, store = over_one_start(calling, "studio")
    start = await resolve(service, "s1", was_sent=pb.WasSent(external_id=EXECUTION), dispatch_id="s1-2")
    with pytest.raises(InvalidRequest):
        await resolve(service, "s1")

    assert ("s1", 7) == (start.id, start.revision)
    assert [Resolution(verdict=Verdict.WAS_SENT, external_id=EXECUTION, dispatch_id="s1-2")] == store.resolved


async def test_lose_f7_an_external_id_is_passed_on_as_the_backend_spells_it(calling: Calling) -> None:
    """Otherwise what its lists show is never recognised: RapidPro takes a UUID in capitals, and shows it without."""
    service, store = over_one_start(calling, "textit")
    await resolve(service, "s1", was_sent=pb.WasSent(external_id="4533CD70-668B-4E0A-8C1F-0123456789AB"))

    assert ["4533cd70-668b-4e0a-8c1f-0123456789ab"] == [each.external_id for each in store.resolved]


@pytest.mark.parametrize("said", ["xx", EXECUTION])
async def test_newcomer_10_what_is_no_id_of_the_backend_is_no_word(calling: Calling, said: str) -> None:
    """Else the start would end as gone from the backend, and nobody could correct it."""
    service, store = over_one_start(calling, "textit")
    with pytest.raises(InvalidRequest, match="is not an id of this backend"):
        await resolve(service, "s1", was_sent=pb.WasSent(external_id=said))

    assert [] == store.resolved


@pytest.mark.parametrize(("key", "is_refused"), SHOWN)
async def test_what_the_backend_shows_to_be_of_another_start_is_no_word(
    calling: Calling,
    key: str | None,
    is_refused: bool,  # noqa: FBT001
) -> None:
    """Nobody can have another tenant's ended by naming it."""
    service, store = over_one_start(calling, "studio")

    async def answer(_request: Any) -> Any:
        return None

    transport = ScriptedTransport(answer, ticks=calling.ticks, limiter=Limiter(1, 1.0, clock=calling.ticks))
    service._backends["studio"] = backend(transport, Studio(keys={EXECUTION: Missing() if key is None else key}))  # type: ignore[index]
    failure = None
    try:
        await resolve(service, "s1", was_sent=pb.WasSent(external_id=EXECUTION), dispatch_id="s1-2")
    except InvalidRequest as error:
        failure = error

    assert is_refused is (failure is not None)
    assert int(not is_refused) == len(store.resolved)


@pytest.mark.parametrize("step", ["another id", "another tenant", "purged meanwhile"])
async def test_only_a_tenants_own_starts_are_cancelled_and_resolved(calling: Calling, step: str) -> None:
    """All others are not found, with the id that was asked for."""
    service, store = over_one_start(calling, "studio")
    start_id = "s2" if step == "another id" else "s1"
    call = Call(tenant="other") if step == "another tenant" else CALL
    store.purged = step == "purged meanwhile"
    errors = []
    with pytest.raises(NotFound) as caught:
        await cancel(service, start_id, call)
    errors.append(caught.value)
    if not store.purged:
        with pytest.raises(NotFound) as caught:
            await resolve(service, start_id, call, give_up=GIVE_UP)
        errors.append(caught.value)

    assert {("FLOW_START_NOT_FOUND", start_id)} == {(error.reason, error.metadata["id"]) for error in errors}
    assert [True] * store.purged == store.cancelled


@pytest.mark.parametrize("name", ["cancel_flow_start", "resolve_flow_start"])
async def test_what_is_no_request_is_refused(calling: Calling, name: str) -> None:
    """Bytes that are not the message."""
    with pytest.raises(InvalidRequest):
        await getattr(calling.service, name)(CALL, b"\xff")


async def test_a_start_that_was_not_sent_is_cancelled_at_once(calling: Calling) -> None:
    """It ends interrupted; again is the same; and nothing of it may be sent."""
    start = (await calling.start(backend="textit", schedule_time=moment(60))).flow_start
    first = await cancel(calling.service, start.id)
    second = await cancel(calling.service, start.id)
    calling.clock.tick(61)

    assert (pb.FlowStart.STATE_INTERRUPTED, "CANCELLED") == (first.state, first.failure.reason)
    assert first.HasField("cancel_requested_time")
    assert first == second
    assert () == (await calling.store.claim("textit", 10)).dispatches


async def test_d13_a_cancel_is_logged(calling: Calling) -> None:
    """With whose start it was, and nobody that it is for."""
    start = (await calling.start(backend="textit", schedule_time=moment(60))).flow_start
    with capture_logs() as logged:
        await cancel(calling.service, start.id)

    cancelled = {"event": "start_cancelled", "log_level": "info", "start_id": start.id, "tenant": "default"}
    assert [cancelled] == logged


async def test_what_runs_on_rapidpro_runs_on(calling: Calling) -> None:
    """The answer says so; what has ended cannot be cancelled."""
    start = (await calling.start(backend="textit")).flow_start
    recorded = await calling.store.get("default", start.id)
    assert recorded is not None
    await run_to(calling.store, recorded, accepted("x", State.STARTED))
    running = await cancel(calling.service, start.id)
    ended = (await calling.start(backend="textit")).flow_start
    recorded = await calling.store.get("default", ended.id)
    assert recorded is not None
    await run_to(calling.store, recorded, accepted("y", State.COMPLETED))
    with pytest.raises(NotPossible) as caught:
        await cancel(calling.service, ended.id)

    assert (pb.FlowStart.STATE_STARTED, ["CANNOT_CANCEL"]) == (
        running.state,
        [each.reason for each in running.warnings],
    )
    assert "ALREADY_TERMINAL" == caught.value.reason


@pytest.mark.parametrize(
    ("fields", "state", "reason"),
    [
        ({"was_sent": pb.WasSent(external_id=UUID)}, pb.FlowStart.STATE_QUEUED, ""),
        ({"was_not_sent": pb.WasNotSent()}, pb.FlowStart.STATE_PENDING, ""),
        ({"give_up": GIVE_UP}, pb.FlowStart.STATE_FAILED, "OUTCOME_UNKNOWN"),
    ],
    ids=["was sent", "was not sent", "give up"],
)
async def test_what_is_uncertain_is_resolved_once(
    calling: Calling, fields: dict[str, Any], state: pb.FlowStart.State, reason: str
) -> None:
    """By an operator's word, and then there is nothing more to resolve."""
    start = (await calling.start(backend="textit")).flow_start
    recorded = await calling.store.get("default", start.id)
    assert recorded is not None
    await run_to(calling.store, recorded, unsure())
    with pytest.raises(NotFound):
        await resolve(calling.service, start.id, dispatch_id=f"{start.id}-99", **fields)
    resolved = await resolve(calling.service, start.id, **fields)
    with pytest.raises(NotPossible) as caught:
        await resolve(calling.service, start.id, **fields)

    assert (state, reason) == (resolved.state, resolved.failure.reason)
    assert "NOT_UNCERTAIN" == caught.value.reason
    assert fields.get("was_sent", pb.WasSent()).external_id == resolved.external_id


async def test_a_full_backlog_takes_nothing_more(calling: Calling) -> None:
    """The limit is the backend's own; the error says which, and a retry of what was recorded still finds it."""
    service = calling.over({"textit": replace(calling.backends["textit"], backlog=1)})
    first = await calling.start(service, request_id="r")
    error = await calling.refused(service)
    again = await calling.start(service, request_id="r")

    assert isinstance(error, Exhausted)
    assert ("BACKLOG_FULL", "backend:textit") == (error.reason, error.metadata["quota_subject"])
    assert error.retry_after is not None
    assert (True, first.flow_start) == (again.replayed, again.flow_start)


# --- flows


async def flows(calling: Calling, **fields: Any) -> pb.ListFlowsResponse:
    """Calls ListFlows."""
    answer = await calling.service.list_flows(CALL, pb.ListFlowsRequest(**fields).SerializeToString())
    return pb.ListFlowsResponse.FromString(answer)


async def test_a_flow_that_cannot_be_started_is_refused(calling: Calling) -> None:
    """It is the flow that an alias stands for, the caller's time is told, and nothing is recorded, or validated."""
    calling.flows["textit"].refused[FLOW] = "flow: it is archived."

    for fields in ({}, {"validate_only": True}):
        error = await calling.refused(flow="registration", backend="textit", **fields)
        assert ("NOT_FOUND", "FLOW_NOT_FOUND") == (error.code, error.reason)
    assert [(FLOW, 7.5)] * 2 == calling.flows["textit"].asked


async def test_flows_are_looked_up_after_the_cheap_checks_and_matter_to_no_replay(calling: Calling) -> None:
    """A request that is wrong asks no backend; a retry never fails because its flow was archived since."""
    await calling.start(backend="textit", request_id="r")
    calling.flows["textit"].refused[FLOW] = "flow: it is archived."

    assert (await calling.start(backend="textit", request_id="r")).replayed
    calling.flows["textit"].asked.clear()
    await calling.refused(backend="textit", urns=["no urn"])
    assert [] == calling.flows["textit"].asked


async def test_flows_are_listed_with_their_aliases(calling: Calling) -> None:
    """Page by page, in the backend's order; what the backend does not tell to be startable is not said to be."""
    calling.flows["studio"].offered = (
        Flow(id=STUDIO_FLOW, name="Welcome", startable=True),
        Flow(id="FW" + "b" * 32, name="Draft", startable=None),
        Flow(id="FW" + "c" * 32, name="Archived", startable=False),
    )
    first = await flows(calling, backend="studio", page_size=2)
    second = await flows(calling, backend="studio", page_size=2, page_token=first.next_page_token)

    assert [("Welcome", True, ["registration", "welcome"]), ("Draft", False, [])] == [
        (flow.name, flow.startable, list(flow.aliases)) for flow in first.flows
    ]
    assert [("Archived", False, "")] == [(flow.name, flow.startable, second.next_page_token) for flow in second.flows]


@pytest.mark.parametrize(
    ("fields", "code", "said"),
    [
        ({}, "INVALID_ARGUMENT", "backend is missing; name one of: community, studio, textit."),
        ({"backend": "x"}, "NOT_FOUND", "There are: community, studio, textit."),
        ({"backend": "studio", "page_size": -1}, "INVALID_ARGUMENT", "page_size"),
        ({"backend": "studio", "page_token": "x"}, "INVALID_ARGUMENT", "page_token"),
    ],
    ids=str,
)
async def test_flows_of_what_is_wrong_are_not_listed(
    calling: Calling, fields: dict[str, Any], code: str, said: str
) -> None:
    """The message says which field, and what there is."""
    with pytest.raises(GatewayError) as caught:
        await flows(calling, **fields)

    assert code == caught.value.code
    assert said in str(caught.value)


# --- large answers


async def test_c14_a_page_ends_before_it_is_larger_than_a_client_takes(calling: Calling) -> None:
    """500 starts with large labels are more than the 4 MiB of gRPC's clients: paging goes on all the same."""
    labels = {f"k{number}": "x" * 250 for number in range(64)}
    made = {(await create(calling.store, labels=labels)).asked.id for _ in range(300)}
    pages = [await calling.list(pageSize=500)]
    while pages[-1].next_page_token:
        pages.append(await calling.list(pageSize=500, pageToken=pages[-1].next_page_token))
    listed = [start.id for page in pages for start in page.flow_starts]

    assert sorted(made) == sorted(listed)
    assert 2 == len(pages)
    assert all(page.ByteSize() <= 4 * 1024 * 1024 for page in pages)


async def test_c14_a_history_ends_before_it_is_larger_than_a_client_takes(calling: Calling, clock: Clock) -> None:
    """Each of its changes has the labels again."""
    labels = {f"k{number}": "x" * 250 for number in range(64)}
    start = await create(calling.store, singly(300), labels=labels)
    for number, dispatch_id in enumerate(await claim_ids(calling.store, 300)):
        clock.tick(2)
        await settle(calling.store, dispatch_id, accepted(f"x{number}", State.STARTED))
    request, entries, pages = pb.ListChangesRequest(id=start.asked.id, page_size=1_000), 0, 0
    while True:
        answer = await calling.service.list_changes(CALL, request.SerializeToString())
        page = pb.ListChangesResponse.FromString(answer)
        pages, entries = pages + 1, entries + len(page.changes)
        assert len(answer) <= 4 * 1024 * 1024
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token

    assert pages > 1
    assert entries > 300
