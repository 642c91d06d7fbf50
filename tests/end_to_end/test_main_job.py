"""The main job over real sockets: start, send what the backends ask for, follow, tell."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from asyncio.subprocess import DEVNULL
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import grpc
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2, status_pb2
from startflow.v1 import start_flow_service_pb2 as pb

from gateway.sandbox import SANDBOX_RAPIDPRO_TOKEN, SANDBOX_TWILIO_ACCOUNT_SID, SANDBOX_TWILIO_AUTH_TOKEN
from tests.end_to_end.processes import ROOT, SEED_FLOW, STUDIO_FLOW, Client, GatewayProcess, SandboxThread
from tests.fakes import PATIENCE
from tests.lengths import size

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.end_to_end.processes import SandboxProcess

ARCHIVED_FLOW = "2f709286-11fe-41e1-84fe-40b01018a1ea"
SEED_GROUP = "f5901b62-ba76-4003-9c62-72fdacc15515"
SEED_CONTACT = "f5901b62-ba76-4003-9c62-fjjajdsi15553"
shared = pytest.mark.asyncio(loop_scope="module")  # a test that asks the gateway of all of them


@dataclass
class Job:
    """One gateway that several tests ask one after the other, and what each of them is the first to see."""

    sandbox: SandboxProcess
    gateway: GatewayProcess
    client: Client
    before: Counter[str] = field(default_factory=Counter)

    async def begin(self) -> None:
        """Leaves what was until now to the tests before, and no fault of theirs."""
        await self.sandbox.replace_faults([])
        self.before.update({each: len(await self.creates(each)) for each in ("rapidpro", "twilio")})

    async def creates(self, backend: str) -> list[dict[str, Any]]:
        """Reads the requests that have asked for a start since."""
        return (await self.sandbox.creates(backend))[self.before[backend] :]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def every_job(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Job]:
    """Runs a gateway and both backends; at the end its log must show no bug."""
    folder = tmp_path_factory.mktemp("job")
    async with (
        SandboxThread(folder) as sandbox,
        GatewayProcess(folder, sandbox) as gateway,
        Client(gateway.address) as client,
    ):
        yield Job(sandbox, gateway, client)
    assert gateway.bugs() == []


@pytest_asyncio.fixture(loop_scope="module")
async def job(every_job: Job) -> Job:
    """Has the next test begin."""
    await every_job.begin()
    return every_job


@shared
async def test_rapidpro_gets_the_bytes_it_asks_for(job: Job) -> None:
    """The seed's example arrives as JSON in the documented order, our key first, numbers as sent."""
    response = await job.client.start(
        flow=SEED_FLOW,
        groups=[SEED_GROUP],
        contacts=[SEED_CONTACT],
        urns=["twitter:sirmixalot", "tel:+12065551212"],
        params={"first_name": "Ryan", "last_name": "Lewis", "visits": 5, "score": 1.5},
    )
    (done,) = await job.client.finished(response.flow_start.id)
    (request,) = await job.creates("rapidpro")

    assert pb.FlowStart.STATE_COMPLETED == done.state
    assert f"Token {SANDBOX_RAPIDPRO_TOKEN}" == request["headers"]["Authorization"]
    assert [
        ("flow", SEED_FLOW),
        ("groups", [SEED_GROUP]),
        ("contacts", [SEED_CONTACT]),
        ("urns", ["twitter:sirmixalot", "tel:+12065551212"]),
        (
            "params",
            [
                ("startflow_id", f"{done.id}-1"),
                ("first_name", "Ryan"),
                ("last_name", "Lewis"),
                ("score", 1.5),
                ("visits", 5),
            ],
        ),
    ] == json.loads(request["body"], object_pairs_hook=list)
    assert "5.0" not in request["body"]


@shared
async def test_twilio_gets_the_bytes_it_asks_for(job: Job) -> None:
    """The seed's example arrives form-encoded, `+` as `%2B`, params as JSON in one field, Basic auth."""
    response = await job.client.start(
        flow=STUDIO_FLOW, urns=["tel:+18001234567"], sender="+18007654321", params={"first_name": "Foo", "n": 5}
    )
    (done,) = await job.client.finished(response.flow_start.id)
    (request,) = await job.creates("twilio")
    form = parse_qs(request["body"], strict_parsing=True)
    basic = base64.b64encode(f"{SANDBOX_TWILIO_ACCOUNT_SID}:{SANDBOX_TWILIO_AUTH_TOKEN}".encode()).decode()

    assert pb.FlowStart.STATE_COMPLETED == done.state
    assert pb.COMPLETION_MEANING_EXECUTIONS_ENDED == done.completion_meaning
    assert f"Basic {basic}" == request["headers"]["Authorization"]
    assert "application/x-www-form-urlencoded" == request["headers"]["Content-Type"]
    assert request["body"].startswith("To=%2B18001234567&From=%2B18007654321&Parameters=%7B%22startflow_id%22")
    expected = [("startflow_id", f"{done.id}-1"), ("first_name", "Foo"), ("n", 5)]
    assert expected == json.loads(form["Parameters"][0], object_pairs_hook=list)


@shared
async def test_many_recipients_are_one_start(job: Job) -> None:
    """250 URNs are 3 requests on RapidPro, 3 URNs are 3 executions on Twilio, each one start."""
    bulk = await job.client.start(flow="thrift", urns=[f"tel:+1206555{n:04}" for n in range(250)])
    three = await job.client.start(flow=STUDIO_FLOW, urns=[f"tel:+1800123456{n}" for n in range(3)])
    starts = await job.client.finished(bulk.flow_start.id, three.flow_start.id)

    assert [3, 3] == [bulk.backend_request_count, three.backend_request_count]
    assert [pb.FlowStart.STATE_COMPLETED] * 2 == [start.state for start in starts]
    assert [250, 3] == [start.progress.completed for start in starts]
    assert ["", ""] == [start.external_id for start in starts]
    listed = await job.client.stub.ListRecipients(pb.ListRecipientsRequest(id=bulk.flow_start.id, page_size=1_000))
    history = await job.client.stub.ListChanges(pb.ListChangesRequest(id=bulk.flow_start.id))
    outcomes = [entry.attempt.outcome for entry in history.changes if entry.HasField("attempt")]
    assert [f"tel:+1206555{n:04}" for n in range(250)] == [each.recipient for each in listed.recipients]
    assert {pb.Recipient.STATE_COMPLETED} == {each.state for each in listed.recipients}
    assert [pb.Attempt.OUTCOME_ACCEPTED] * 3 == outcomes
    sizes = [len(json.loads(entry["body"])["urns"]) for entry in await job.creates("rapidpro")]
    assert [50, 100, 100] == sorted(sizes)  # they are sent side by side, so any may arrive first
    assert 3 == len(await job.creates("twilio"))


_BAD: list[tuple[str, dict[str, Any], list[str]]] = [
    ("no recipients", {"flow": SEED_FLOW}, ["urns"]),
    ("too many", {"flow": SEED_FLOW, "urns": [f"tel:+1206{n:07}" for n in range(10_001)]}, ["urns"]),
    ("malformed", {"flow": SEED_FLOW, "urns": ["tel:+12065551212", "12065551212", "tel:"]}, ["urns[1]", "urns[2]"]),
    ("NUL", {"flow": SEED_FLOW, "urns": ["tel:+1"], "params": {"a": "x\0"}}, ["params.a"]),
    ("our key", {"flow": SEED_FLOW, "urns": ["tel:+1"], "params": {"startflow_id": "x"}}, ["params.startflow_id"]),
    ("large for RapidPro", {"flow": SEED_FLOW, "urns": ["tel:+1"], "params": {"a": "x" * 10_000}}, ["params"]),
    (
        "large for Twilio",
        {"flow": STUDIO_FLOW, "urns": ["tel:+12065551212"], "params": {"a": "x" * 16_384}},
        ["params"],
    ),
    ("too exact", {"flow": SEED_FLOW, "urns": ["tel:+1"], "params": {"n": 2.0**53 + 2}}, ["params.n"]),
    ("group on Twilio", {"flow": STUDIO_FLOW, "groups": [SEED_GROUP]}, ["groups"]),
    ("past", {"flow": SEED_FLOW, "urns": ["tel:+1"], "expire_time": {"seconds": 1}}, ["expire_time"]),
    ("overlap", {"flow": SEED_FLOW, "urns": [f"tel:+1206555{n:04}" for n in range(101)], "groups": ["x"]}, ["groups"]),
]


@shared
async def test_bad_input_is_refused(job: Job) -> None:
    """Every bad field is named; nothing is recorded and nothing sent."""
    before = await job.client.stub.ListFlowStarts(pb.ListFlowStartsRequest())
    for label, fields, paths in _BAD:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await job.client.stub.StartFlow(pb.StartFlowRequest(**fields))
        told = _detail(caught.value, error_details_pb2.BadRequest).field_violations

        assert grpc.StatusCode.INVALID_ARGUMENT == caught.value.code(), label
        assert paths == [violation.field for violation in told], label
    listed = await job.client.stub.ListFlowStarts(pb.ListFlowStartsRequest())

    assert before == listed
    assert [] == await job.creates("rapidpro") + await job.creates("twilio")


@shared
async def test_flows_that_cannot_be_started_are_refused(job: Job) -> None:
    """Unknown ones on both backends, archived ones on RapidPro; a backend that does not answer stops nobody."""
    for flow in (ARCHIVED_FLOW, "00000000" + SEED_FLOW[8:], "FW" + "0" * 32):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await job.client.start(flow=flow, urns=["tel:+12065551212"])
        told = _detail(caught.value, error_details_pb2.ErrorInfo)
        assert (grpc.StatusCode.NOT_FOUND, "FLOW_NOT_FOUND", flow) == (
            caught.value.code(),
            told.reason,
            told.metadata["flow"],
        )
    assert [] == await job.creates("rapidpro") + await job.creates("twilio")

    listed = await job.client.stub.ListFlows(pb.ListFlowsRequest(backend="rapidpro"))
    assert {ARCHIVED_FLOW: False, SEED_FLOW: True}.items() <= {flow.id: flow.startable for flow in listed.flows}.items()

    await job.sandbox.fault(preset="html_502", backend="twilio", verb="flows")
    answer = await job.client.start(flow=STUDIO_FLOW, urns=["tel:+12065551212"])
    (done,) = await job.client.finished(answer.flow_start.id)
    assert pb.FlowStart.STATE_COMPLETED == done.state


async def test_the_configuration_that_runs_is_checked(gateway: GatewayProcess) -> None:
    """`startflow check` tries its backends, and with --live asks the gateway itself; its exit code tells."""
    for words in ([], ["--live"])[-size(2, quick=1) :]:
        assert 0 == await _checked(gateway, *words)
    await gateway.kill()
    assert 1 == await _checked(gateway, "--live")


async def _checked(gateway: GatewayProcess, *words: str) -> int:
    command = [sys.executable, "-m", "gateway", "check", "--config", str(gateway.folder / "startflow.toml"), *words]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=gateway.environment, stdout=DEVNULL)
    return await process.wait()


@shared
async def test_bytes_that_are_no_message(job: Job) -> None:
    """Every method answers INVALID_ARGUMENT, never UNKNOWN."""
    service = pb.DESCRIPTOR.services_by_name["StartFlowService"]
    async with grpc.aio.insecure_channel(job.gateway.address) as channel:
        for method in service.methods[:4]:
            path = f"/{service.full_name}/{method.name}"
            call = channel.unary_stream if method.server_streaming else channel.unary_unary
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                answer = call(path)(b"\xff\xff\xff")
                _ = [message async for message in answer] if method.server_streaming else await answer

            assert grpc.StatusCode.INVALID_ARGUMENT == caught.value.code()
            assert "VALIDATION_FAILED" == _detail(caught.value, error_details_pb2.ErrorInfo).reason


@shared
async def test_request_id_makes_a_start_idempotent(job: Job) -> None:
    """The same content returns the first start as it is now; other content is refused, the fields named."""
    asked = {"flow": SEED_FLOW, "urns": ["tel:+12065551212"], "request_id": "r-1"}
    first = await job.client.start(**asked)
    (done,) = await job.client.finished(first.flow_start.id)
    again = await job.client.start(**asked)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await job.client.start(**{**asked, "urns": ["tel:+12065551213"], "labels": {"a": "b"}})

    assert (True, done) == (again.replayed, again.flow_start)
    assert 1 == len(await job.creates("rapidpro"))
    assert grpc.StatusCode.ALREADY_EXISTS == caught.value.code()
    assert "urns, labels" == _detail(caught.value, error_details_pb2.ErrorInfo).metadata["fields"]


_AMBIGUOUS: list[dict[str, Any]] = [
    {"preset": "500_after_commit"},
    {"preset": "500_before_commit"},
    {"preset": "reset_after_commit"},
    {"preset": "truncated_201"},
    {"answer": {"status": 201, "body": "<html>"}},
    {"answer": {"patch": {"uuid": 7, "sid": 7}}},
    {"answer": {"patch": {"flow": [], "flow_sid": []}}},
]
_CLEAR: list[dict[str, Any]] = [{"answer": {"patch": {"status": None}}}, {"preset": "throttled"}]


@pytest.mark.longer  # each of them is tried without processes in tests/contract
async def test_answers_that_make_no_sense_are_not_believed(client: Client, sandbox: SandboxProcess) -> None:
    """What an ambiguous answer left is found in the lists, or proved absent and sent again, as what is throttled is."""
    ended = []
    for n, rule in enumerate(_AMBIGUOUS + _CLEAR):
        ids = []
        for backend, flow in (("rapidpro", SEED_FLOW), ("twilio", STUDIO_FLOW)):
            await sandbox.fault(**{**rule, "backend": backend, "verb": "create", "times": 1, "match": f"rule-{n}-"})
            asked = {"flow": flow, "urns": [f"tel:+1206555120{n}"], "params": {"rule": f"rule-{n}-"}}
            ids.append((await client.start(**asked)).flow_start.id)
        ended += await client.finished(*ids)
        plain = [await client.start(flow=flow, urns=[f"tel:+1206555999{n}"]) for flow in (SEED_FLOW, STUDIO_FLOW)]
        await client.finished(*(start.flow_start.id for start in plain))  # their answers keep the lanes open

    assert {pb.FlowStart.STATE_COMPLETED} == {start.state for start in ended}
    assert ["ADOPTED_AFTER_ERROR"] * 2 == [warning.reason for start in ended[:2] for warning in start.warnings]
    for backend in ("rapidpro", "twilio"):
        created = await sandbox.journal(kind="created", backend=backend)
        posts = await sandbox.creates(backend)
        assert 2 * len(_AMBIGUOUS + _CLEAR) == len(created)
        assert 2 == len(posts) - len(created), "sent again: what was throttled, and what was proved absent"


@shared
async def test_lists_that_make_no_sense_stop_nothing(job: Job) -> None:
    """The tracker reads on until the lists make sense again."""
    answers: list[dict[str, Any]] = [
        {"status": 200, "body": "<html>"},
        {"status": 200, "body": '{"results":[{}'},
        {"status": 200, "body": "[]"},
        {"patch": {"status": None}},
        {"patch": {"status": ["ended"], "uuid": {}, "sid": 5}},
    ]
    for answer in answers:
        for backend in ("rapidpro", "twilio"):
            await job.sandbox.fault(backend=backend, verb="list", times=2, answer=answer)
    first = await job.client.start(flow=SEED_FLOW, urns=["tel:+12065551212"])
    second = await job.client.start(flow=STUDIO_FLOW, urns=["tel:+12065551212"])
    starts = await job.client.finished(first.flow_start.id, second.flow_start.id)

    assert [pb.FlowStart.STATE_COMPLETED] * 2 == [start.state for start in starts]
    assert 0 == await job.sandbox.pending_faults()


async def test_a_blocked_account_burns_no_start(client: Client, sandbox: SandboxProcess) -> None:
    """Bad credentials leave the start pending with a warning, and ListBackends says what to do.

    Whether the send meets them first or the lists: then nothing is sent, and the start says that it waits, and why.
    """
    await sandbox.fault(preset="unauthorized", backend="twilio")
    response = await client.start(flow=STUDIO_FLOW, urns=["tel:+12065551212"])
    asked = pb.GetFlowStartRequest(id=response.flow_start.id)
    async with asyncio.timeout(PATIENCE):
        while True:
            start = (await client.stub.GetFlowStart(asked)).flow_start
            if any("correct them" in warning.message for warning in start.warnings):
                break
            await asyncio.sleep(0.05)
    backends = await client.stub.ListBackends(pb.ListBackendsRequest())
    health = {backend.name: backend.health for backend in backends.backends}

    assert pb.FlowStart.STATE_PENDING == start.state
    assert {"BACKEND_CREDENTIALS_REJECTED", "WAITING"} >= {each.reason for each in start.warnings}
    assert start.HasField("next_attempt_time")
    assert pb.Backend.Health.STATE_BLOCKED == health["twilio"].state
    assert "BACKEND_CREDENTIALS_REJECTED" == health["twilio"].reason


async def test_sigterm_ends_streams_and_exits_0(gateway: GatewayProcess, client: Client) -> None:
    """A watcher is told UNAVAILABLE with a time to come back, by the handler itself."""
    stream = client.stub.WatchFlowStarts(pb.WatchFlowStartsRequest())
    await stream.read()
    await stream.read()
    stopped = await gateway.stop()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        while await stream.read() is not grpc.aio.EOF:
            pass

    assert 0 == stopped
    assert grpc.StatusCode.UNAVAILABLE == caught.value.code()
    assert _detail(caught.value, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 0


def _detail(error: grpc.aio.AioRpcError, kind: Any) -> Any:
    """Reads one kind of detail of an error."""
    status = status_pb2.Status()
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status.ParseFromString(value)
    detail = kind()
    assert any(packed.Unpack(detail) for packed in status.details), f"{kind.__name__} is not among the details"
    return detail
