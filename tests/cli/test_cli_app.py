import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from startflow.v1 import start_flow_service_pb2 as pb
from typer.testing import CliRunner, Result

from gateway.cli import completion
from gateway.cli.app import app
from gateway.tenants import clients
from tests.cli.stub_gateway import HANG, STATE, StubGateway, changed, flow_start, heartbeat, status
from tests.lengths import QUICK, some

FLOW = "f5901b62-ba76-4003-9c62-72fdacc1b7b7"
Run = Callable[..., Result]
COMMANDS = (
    *("serve", "sandbox", "start", "get", "list", "watch", "cancel", "resolve", "recipients", "changes", "flows"),
    *("backends", "check"),
)
DONE = changed(9, flow_start(progress=pb.Progress(completed=3)))


@pytest.fixture
def gateway() -> Iterator[StubGateway]:
    """Gives a gateway on a real socket that answers what is laid out."""
    with StubGateway() as stub:
        yield stub


@pytest.fixture
def run(gateway: StubGateway) -> Run:
    """Runs `startflow` with these words against that gateway, its output in pipes."""

    def run(*words: str, stdin: str | None = None) -> Result:
        return CliRunner(env={"STARTFLOW_ADDRESS": gateway.address}).invoke(app, words, input=stdin)

    return run


def command(gateway: StubGateway, *words: str) -> tuple[list[str], dict[str, str]]:
    """Returns a real process's command and environment."""
    environment = {**os.environ, "STARTFLOW_ADDRESS": gateway.address, "TERM": "xterm", "COLUMNS": "120"}
    return [sys.executable, "-m", "gateway", *words], {**environment, "PYTHONPATH": "generated"}


def read_all(terminal: int) -> str:
    """Reads what a process shows on a terminal until it ends."""
    shown = b""
    while True:
        try:
            read = os.read(terminal, 65_536)
        except OSError:  # what Linux says when the other side is closed
            read = b""
        if not read:
            os.close(terminal)
            return shown.decode()
        shown += read


def test_every_word_of_a_start_reaches_the_gateway(run: Run, gateway: StubGateway) -> None:
    """Every word of a start reaches the gateway."""
    gateway.answers.append(pb.StartFlowResponse(flow_start=flow_start()))

    result = run(
        *("start", FLOW, "tel:+12065551212", "twitter:sirmixalot", "--backend", "textit"),
        *("--contact", "c1", "--contact", "c2", "--group", "g1", "--params", '{"age": 5}', "--param", "name=Ryan"),
        *("--sender", "+18007654321", "--no-restart-participants", "--exclude-active", "--request-id", "r1"),
        *("--schedule-time", "2030-01-01T00:00:00Z", "--expire-time", "2030-01-02T00:00:00Z"),
        *("--label", "a=1", "--label", "b=2", "--validate-only"),
    )

    expected = pb.StartFlowRequest(
        backend="textit",
        flow=FLOW,
        urns=["tel:+12065551212", "twitter:sirmixalot"],
        contacts=["c1", "c2"],
        groups=["g1"],
        sender="+18007654321",
        restart_participants=False,
        exclude_active=True,
        request_id="r1",
        labels={"a": "1", "b": "2"},
        validate_only=True,
    )
    expected.params.update({"age": 5, "name": "Ryan"})
    expected.schedule_time.FromJsonString("2030-01-01T00:00:00Z")
    expected.expire_time.FromJsonString("2030-01-02T00:00:00Z")
    assert 0 == result.exit_code, result.output
    assert [expected] == gateway.requests
    assert "s1" == json.loads(result.stdout)["flowStart"]["id"]


def test_what_was_not_typed_stays_unset_but_for_a_new_request_id(run: Run, gateway: StubGateway) -> None:
    """What was not typed stays unset but for a new request id."""
    gateway.answers += [pb.StartFlowResponse(flow_start=flow_start())] * 2

    run("start", FLOW)
    run("start", FLOW)

    first, second = gateway.requests
    assert first.request_id != second.request_id
    assert 36 == len(first.request_id)
    assert pb.StartFlowRequest(flow=FLOW, request_id=first.request_id) == first


def test_params_come_through_standard_input(run: Run, gateway: StubGateway) -> None:
    """Params come through standard input."""
    gateway.answers.append(pb.StartFlowResponse(flow_start=flow_start()))

    run("start", FLOW, "--params", "-", stdin='{"name": "Ærø"}')

    assert {"name": "Ærø"} == dict(gateway.requests[0].params)


def test_a_lost_answer_is_asked_for_again_under_one_request_id(run: Run, gateway: StubGateway) -> None:
    """A lost answer is asked for again under one request id."""
    gateway.answers += [
        status(grpc.StatusCode.UNAVAILABLE, "draining", reason="DRAINING", retry_after=0.01),
        pb.StartFlowResponse(flow_start=flow_start(), replayed=True),
    ]

    result = run("start", FLOW)

    assert 0 == result.exit_code
    assert 1 == len({each.request_id for each in gateway.requests})
    assert 2 == len(gateway.requests)
    assert "the gateway answered DRAINING; trying again" in result.stderr


def test_a_watched_start_is_json_lines_in_a_pipe(run: Run, gateway: StubGateway) -> None:
    """A watched start is JSON lines in a pipe."""
    gateway.answers.append(pb.StartFlowResponse(flow_start=flow_start(state=STATE.STATE_PENDING)))
    gateway.streams.append([heartbeat(7), DONE])

    result = run("start", FLOW, "--watch")

    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert 0 == result.exit_code
    assert [{"flowStart"}, {"revision", "epoch", "heartbeat"}, {"revision", "epoch", "changed"}] == [*map(set, lines)]
    assert "STATE_COMPLETED" == lines[2]["changed"]["state"]


def test_a_watched_start_that_failed_exits_1(run: Run, gateway: StubGateway) -> None:
    """A watched start that failed exits 1."""
    gateway.answers.append(pb.StartFlowResponse(flow_start=flow_start()))
    gateway.streams.append([changed(9, flow_start(state=STATE.STATE_FAILED))])

    result = run("start", FLOW, "--watch")

    assert 1 == result.exit_code
    assert "s1 ended FAILED" in result.stderr


def test_a_refusal_exits_3_with_every_bad_field(run: Run, gateway: StubGateway) -> None:
    """A refusal exits 3 with every bad field."""
    refusal = status(
        grpc.StatusCode.INVALID_ARGUMENT, "wrong", reason="VALIDATION_FAILED", violations={"urns[3]": "no scheme"}
    )
    gateway.answers.append(refusal)

    result = run("start", FLOW)

    assert 3 == result.exit_code
    assert "" == result.stdout
    assert "error: wrong [VALIDATION_FAILED]\n  urns[3]: no scheme\n" == result.stderr


HAVE = pb.ListBackendsResponse(
    backends=[
        pb.Backend(name="textit", flow_aliases={"registration": FLOW, "farewell": FLOW}),
        pb.Backend(name="studio", flow_aliases={"survey": "FW1"}),
    ]
)


@pytest.mark.parametrize(("words", "field", "says"), [
    (["registratin"],                        "backend",
     "There is no alias registratin; near it: registration (of textit). What can be started: startflow flows textit"),
    (["registratin", "--backend", "studio"], "flow",
     "There is no alias registratin; there are: survey (of studio). What can be started: startflow flows studio"),
    (["nothing"],                            "backend",
     "There is no alias nothing; there are: farewell (of textit), registration (of textit), survey (of studio). What"),
    ([FLOW, "--backend", "textit"],          "FLOW_NOT_FOUND",    "  What can be started: startflow flows textit"),
    (["tel:+12065551212", "registration"],   "backend",           "The flow comes first, then the addresses:"),
    (["registration"],                       "urns[0]",           ""),
    (["survey"],                             "flow",              ""),
])  # fmt: skip
def test_a_flow_that_is_not_known_comes_with_those_that_are(
    run: Run, gateway: StubGateway, words: list[str], field: str, says: str
) -> None:
    """Whoever misspells an alias is told of a backend that is not named, or of a UUID, and is led astray."""
    if field == "FLOW_NOT_FOUND":
        gateway.answers.append(status(grpc.StatusCode.NOT_FOUND, "no such flow", reason=field))
    else:
        gateway.answers.append(status(grpc.StatusCode.INVALID_ARGUMENT, "wrong", violations={field: "is wrong"}))
    gateway.answers.append(HAVE)

    result = run("start", *words)

    assert 3 == result.exit_code
    assert says in result.stderr
    assert bool(says) is (3 == len(result.stderr.splitlines()) or "FLOW_NOT_FOUND" in result.stderr)


@pytest.mark.parametrize(("words", "says"), [
    (["--backend", "nosuch"],     "--backend: there is no nosuch; there are: studio, textit.\n"),
    (["--flow", "registration"],  "--flow: registration is an alias; starts have the flow's id, which is"),
    (["--backend", "textit"],     ""),
])  # fmt: skip
@pytest.mark.parametrize("command_", ["list", "watch"])
def test_a_filter_that_can_match_nothing_is_told_so(
    run: Run, gateway: StubGateway, command_: str, words: list[str], says: str
) -> None:
    """Nothing is refused: a backend that is configured no more may have starts, and then they are shown."""
    if command_ == "list":
        gateway.answers.append(pb.ListFlowStartsResponse())
    ended = status(grpc.StatusCode.NOT_FOUND, reason="R")
    gateway.streams.append([pb.WatchFlowStartsResponse(epoch="e1", snapshot_end=pb.SnapshotEnd()), ended])
    gateway.answers.append(HAVE)

    result = run(command_, *words)

    assert result.stderr.startswith(says)
    assert bool(says) is ("--" in result.stderr)


@pytest.mark.parametrize(("words", "says"), [
    (["start"],                                                  "Missing argument"),
    (["start", FLOW, "--params", "[1]"],                         "must be a JSON object"),
    (["start", FLOW, "--params", '{"a": 9007199254740993}'],     "send it as a string"),
    (["start", FLOW, "--params", "@/nowhere"],                   "cannot read /nowhere"),
    (["start", FLOW, "--param", "a"],                            "--param: 'a' is not key=value"),
    (["start", FLOW, "--schedule-time", "soon"],                 "--schedule-time: 'soon' is not a time"),
    (["start", FLOW, "--label", "a"],                            "--label: 'a' is not key=value"),
    (["start", FLOW, "--validate-only", "--watch"],              "nothing to --watch"),
    (["start", "\udce9"],                                        "not valid UTF-8"),
    (["get"],                                                    "Missing argument"),
    (["list", "--state", "done"],                                "There are: pending"),
    (["list", "--limit", "0"],                                   "--limit"),
    (["list", "--since", "2026-01-01"],                          "no time zone"),
    (["list", "--timeout", "0"],                                 "--timeout"),
    (["watch", "--until-done"],                                  "needs the IDs"),
    (["watch", "--epoch", "e"],                                  "goes with --after-revision"),
    (["watch", "--after-revision", "-1"],                        "--after-revision"),
    (["cancel"],                                                 "Missing argument"),
    (["resolve", "s1"],                                          "Give exactly one of --was-sent EXTERNAL_ID"),
    (["resolve", "s1", "--was-sent", "x", "--give-up"],          "Give exactly one of --was-sent EXTERNAL_ID"),
    (["resolve", "s1", "--was-not-sent", "--give-up"],           "Give exactly one of --was-sent EXTERNAL_ID"),
    (["resolve", "s1", "--was-sent"],                            "requires an argument"),
    (["resolve", "s1", "--was-not-sent", "--dispatch", ""],      "--dispatch is empty"),
    (["resolve", "\udce9", "--give-up"],                         "not valid UTF-8"),
    (["stop"],                                                   "No such command"),
    (["sandbox", "--rapidpro-listen", "0.0.0.0:1"],              "loopback only"),
])  # fmt: skip
def test_wrong_usage_exits_2_and_sends_nothing(run: Run, gateway: StubGateway, words: list[str], says: str) -> None:
    """Wrong usage exits 2 and sends nothing."""
    result = run(*words)

    assert (2, "") == (result.exit_code, result.stdout)
    assert says in result.stderr
    assert "Traceback" not in result.stderr
    assert [] == gateway.requests


def test_a_configuration_that_cannot_be_read_exits_2(tmp_path: Path) -> None:
    """A configuration that cannot be read exits 2."""
    result = CliRunner().invoke(app, ["serve", "--config", str(tmp_path / "nowhere.toml")])

    assert 2 == result.exit_code
    assert "error: " in result.stderr
    assert "nowhere.toml" in result.stderr


def test_a_gateway_that_is_not_there_exits_3_and_says_how_to_start_one() -> None:
    """A gateway that is not there exits 3 and says how to start one."""
    result = CliRunner().invoke(app, ["list", "--address", "127.0.0.1:1"])

    assert 3 == result.exit_code
    assert "the gateway at 127.0.0.1:1 cannot be reached" in result.stderr
    assert "startflow serve --sandbox" in result.stderr


def test_filters_and_limit_reach_the_gateway(run: Run, gateway: StubGateway) -> None:
    """Filters and limit reach the gateway."""
    gateway.answers.append(pb.ListFlowStartsResponse(flow_starts=[flow_start("s1"), flow_start("s2")]))

    result = run(
        *("list", "--backend", "a", "--backend", "b", "--flow", FLOW, "--state", "failed", "--state", "UNCERTAIN"),
        *("--label", "k=v", "--request-id", "r1", "--external-id", "x1", "--since", "2026-01-01T00:00:00Z"),
        *("--until", "2026-01-02T00:00:00Z", "--limit", "7", "--json"),
    )

    expected = pb.FlowStartFilter(
        backends=["a", "b"],
        flow=FLOW,
        states=[STATE.STATE_FAILED, STATE.STATE_UNCERTAIN],
        labels={"k": "v"},
        request_id="r1",
        external_id="x1",
    )
    expected.create_time_from.FromJsonString("2026-01-01T00:00:00Z")
    expected.create_time_to.FromJsonString("2026-01-02T00:00:00Z")
    assert [pb.ListFlowStartsRequest(filter=expected, page_size=7)] == gateway.requests
    assert ["s1", "s2"] == [json.loads(line)["id"] for line in result.stdout.splitlines()]


def test_cancel_is_json_in_a_pipe(run: Run, gateway: StubGateway) -> None:
    """The start as it stands then, in one line."""
    gateway.answers.append(pb.CancelFlowStartResponse(flow_start=flow_start(state=STATE.STATE_INTERRUPTED)))

    result = run("cancel", "s1")

    assert (0, "") == (result.exit_code, result.stderr)
    assert "STATE_INTERRUPTED" == json.loads(result.stdout)["flowStart"]["state"]
    assert [pb.CancelFlowStartRequest(id="s1")] == gateway.requests


def test_cancelling_what_has_ended_exits_3(run: Run, gateway: StubGateway) -> None:
    """With the gateway's sentence and reason."""
    gateway.answers.append(status(grpc.StatusCode.FAILED_PRECONDITION, "It has ended.", reason="ALREADY_TERMINAL"))

    result = run("cancel", "s1")

    assert (3, "", "error: It has ended. [ALREADY_TERMINAL]\n") == (result.exit_code, result.stdout, result.stderr)


def test_several_are_cancelled_though_one_has_ended(run: Run, gateway: StubGateway) -> None:
    """What is refused of one is told with its id; the exit code says that something was."""
    gateway.answers += [
        pb.CancelFlowStartResponse(flow_start=flow_start(id="s1")),
        status(grpc.StatusCode.FAILED_PRECONDITION, "It has ended.", reason="ALREADY_TERMINAL"),
        pb.CancelFlowStartResponse(flow_start=flow_start(id="s3")),
    ]

    result = run("cancel", "s1", "s2", "s3")

    assert 3 == result.exit_code
    assert ["s1", "s3"] == [json.loads(line)["flowStart"]["id"] for line in result.stdout.splitlines()]
    assert "error: It has ended. [ALREADY_TERMINAL]\n  This is about s2.\n" == result.stderr


def test_of_several_none_is_cancelled_after_what_holds_for_all(run: Run, gateway: StubGateway) -> None:
    """A credential that is refused is refused for the others too."""
    gateway.answers.append(status(grpc.StatusCode.UNAUTHENTICATED, "Who?", reason="CREDENTIALS_INVALID"))

    assert 3 == run("cancel", "s1", "s2").exit_code
    assert 1 == len(gateway.requests)


def test_urns_come_from_files_and_standard_input(run: Run, gateway: StubGateway, tmp_path: Path) -> None:
    """One on each line, in the order of the words; empty lines and remarks are none."""
    (tmp_path / "urns.txt").write_text("\ufeff# spring\ntel:+12065551212\n\n  tel:+12065551213  \r\n")
    gateway.answers.append(pb.StartFlowResponse(flow_start=flow_start()))

    result = run("start", FLOW, "tel:+1", f"@{tmp_path}/urns.txt", "-", stdin="tel:+2\ntel:+3\n")

    assert 0 == result.exit_code, result.output
    assert ["tel:+1", "tel:+12065551212", "tel:+12065551213", "tel:+2", "tel:+3"] == gateway.requests[0].urns


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["@nowhere.txt"], "URN: cannot read nowhere.txt: No such file or directory."),
        (["-"], "URN: standard input has no URN in it, one on each line."),
        (["-", "--params", "-"], "Standard input can be read once: give one of the two as @FILE."),
        (["-", "-"], "Standard input can be read once: give one of the two as @FILE."),
    ],
)
def test_urns_that_cannot_be_read_start_nothing(run: Run, gateway: StubGateway, words: list[str], said: str) -> None:
    """It exits with 2 and says what to do."""
    result = run("start", FLOW, *words, stdin="# none\n")

    assert (2, f"error: {said}\n", []) == (result.exit_code, result.stderr, gateway.requests)


@pytest.mark.parametrize(
    ("words", "answers", "offered"),
    [
        ("list --state co", [], ["completed"]),
        (
            "list --backend te",
            [pb.ListBackendsResponse(backends=[pb.Backend(name="textit"), pb.Backend(name="x")])],
            ["textit"],
        ),
        ("get s", [pb.ListFlowStartsResponse(flow_starts=[flow_start(id="s7"), flow_start(id="t8")])], ["s7"]),
        (
            "list --flow f",
            [
                pb.ListBackendsResponse(backends=[pb.Backend(name="textit")]),
                pb.ListFlowsResponse(flows=[pb.Flow(id="f1"), pb.Flow(id="g1")]),
            ],
            ["f1"],
        ),
        (
            "start f",
            [
                pb.ListBackendsResponse(backends=[pb.Backend(name="textit")]),
                pb.ListBackendsResponse(backends=[pb.Backend(name="textit")]),
                pb.ListFlowsResponse(flows=[pb.Flow(id="f1", startable=True), pb.Flow(id="f2")]),
            ],
            ["f1"],  # newcomer 10: f2 is archived
        ),
        ("get s", [status(grpc.StatusCode.UNAUTHENTICATED, "Who?", reason="CREDENTIALS_INVALID")], []),
        ("token --scopes st", [], ["start"]),
        ("token --scopes start,read,", [], ["start,read,admin", "start,read,operator"]),
        ("cancel s", [pb.ListFlowStartsResponse(flow_starts=[flow_start(id="s7")])], ["s7"]),
        ("resolve s", [pb.ListFlowStartsResponse(flow_starts=[flow_start(id="s7")])], ["s7"]),
        (
            "watch --label c",
            [pb.ListFlowStartsResponse(flow_starts=[flow_start(labels={"c": "1", "d": "2"})])],
            ["c=1"],
        ),
        ("list --request-id r", [pb.ListFlowStartsResponse(flow_starts=[flow_start(request_id="r1")])], ["r1"]),
        ("list --external-id F", [pb.ListFlowStartsResponse(flow_starts=[flow_start(external_id="FN1")])], ["FN1"]),
        (
            "resolve s1 --dispatch s1-",
            [
                pb.ListRecipientsResponse(
                    recipients=[pb.Recipient(dispatch_id=each) for each in ("s1-1", "s1-1", "s1-2")]
                )
            ],
            ["s1-1", "s1-2"],
        ),
        ("sandbox --rapidpro-generation o", [], ["old"]),
    ],
    ids=str,
)
def test_a_shell_completes_what_the_gateway_has(
    gateway: StubGateway, words: str, answers: list[object], offered: list[str]
) -> None:
    """And says nothing where it cannot tell."""
    gateway.answers += answers
    line = f"startflow {words}"
    arguments, environment = command(gateway)
    completing = {"_STARTFLOW_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}

    if QUICK:  # the next test has a process
        result = CliRunner(env={**environment, **completing}).invoke(app, [], prog_name="startflow")
        assert (offered, "", 0) == (result.stdout.split(), result.stderr, result.exit_code)
        return
    done = subprocess.run(
        arguments, env={**environment, **completing}, capture_output=True, text=True, timeout=60, check=False
    )

    assert (offered, "") == (done.stdout.split(), done.stderr)


def test_newcomer_40_a_shell_offers_every_scope_and_state() -> None:
    """The words stand in the command line's own list, because those who complete wait for every import."""
    assert completion.SCOPES == tuple(clients.Scope)
    names = [name.removeprefix("STATE_").lower() for name, _ in pb.FlowStart.State.items()]
    assert completion.STATES == tuple(name for name in names if name != "unspecified")


def test_newcomer_40_what_has_ended_is_not_offered_to_be_cancelled(gateway: StubGateway) -> None:
    """The gateway is asked for the others only."""
    gateway.answers.append(pb.ListFlowStartsResponse(flow_starts=[flow_start(id="s7")]))
    arguments, environment = command(gateway)
    completing = {"_STARTFLOW_COMPLETE": "complete_bash", "COMP_WORDS": "startflow cancel s", "COMP_CWORD": "2"}
    done = subprocess.run(arguments, env={**environment, **completing}, capture_output=True, timeout=60, check=True)

    assert (["s7"], b"") == (done.stdout.decode().split(), done.stderr)
    assert [STATE.STATE_PENDING, STATE.STATE_QUEUED, STATE.STATE_STARTED, STATE.STATE_UNCERTAIN] == list(
        gateway.requests[0].filter.states
    )


@pytest.mark.parametrize(("words", "expected"), [
    (["--was-sent", "FN1"],                   {"was_sent": pb.WasSent(external_id="FN1")}),
    (["--was-sent", ""],                      {"was_sent": pb.WasSent()}),
    (["--was-not-sent", "--yes"],             {"was_not_sent": pb.WasNotSent()}),
    (["--give-up", "--dispatch", "s1-2"],     {"give_up": pb.GiveUp(), "dispatch_id": "s1-2"}),
])  # fmt: skip
def test_every_word_of_resolve_reaches_the_gateway(
    run: Run, gateway: StubGateway, words: list[str], expected: dict[str, object]
) -> None:
    """The answer is one line of JSON."""
    gateway.answers.append(pb.ResolveFlowStartResponse(flow_start=flow_start()))

    result = run("resolve", "s1", *words)

    assert (0, "") == (result.exit_code, result.stderr)
    assert "s1" == json.loads(result.stdout)["flowStart"]["id"]
    assert [pb.ResolveFlowStartRequest(id="s1", **expected)] == gateway.requests


def test_d3_nothing_is_sent_again_where_nobody_can_be_asked(run: Run, gateway: StubGateway) -> None:
    """A pipe has not said yes."""
    result = run("resolve", "s1", "--was-not-sent")

    assert (2, "") == (result.exit_code, result.stdout)
    assert "Add --yes. Nothing was changed." in result.stderr
    assert [] == gateway.requests


@pytest.mark.parametrize(("typed", "words", "code"), [
    ("y",    [],           0),
    pytest.param("Yes", [], 0, marks=pytest.mark.longer),
    ("",     [],           1),
    pytest.param("no", [], 1, marks=pytest.mark.longer),
    (None,   ["--yes"],    0),
])  # fmt: skip
def test_a_person_is_asked_before_anything_is_sent_again(
    gateway: StubGateway, typed: str | None, words: list[str], code: int
) -> None:
    """On standard error, so that standard output holds the answer alone; without a yes nothing is changed."""
    gateway.answers.append(pb.ResolveFlowStartResponse(flow_start=flow_start()))
    words, environment = command(gateway, "resolve", "s1", "--was-not-sent", "--dispatch", "s1-2", *words)

    ours, theirs = pty.openpty()
    pipe = subprocess.PIPE
    with subprocess.Popen(words, env=environment, stdin=theirs, stdout=pipe, stderr=pipe, text=True) as process:
        os.close(theirs)
        if typed is not None:
            os.write(ours, f"{typed}\n".encode())
        out, said = process.communicate(timeout=20)
    os.close(ours)

    assert code == process.returncode, said
    asked = "This sends dispatch s1-2 again. If the backend did carry it out, people are messaged twice. Go on? [y/N] "
    assert said == ("" if typed is None else asked if code == 0 else f"{asked}Nothing was changed.\n")
    assert (code == 0) == bool(gateway.requests)
    assert (["s1"] if code == 0 else []) == [json.loads(line)["flowStart"]["id"] for line in out.splitlines()]


def test_get_and_backends_are_json_in_a_pipe(run: Run, gateway: StubGateway) -> None:
    """Get and backends are JSON in a pipe."""
    gateway.answers += [
        pb.GetFlowStartResponse(flow_start=flow_start()),
        pb.ListBackendsResponse(backends=[pb.Backend(name="a"), pb.Backend(name="b")]),
    ]

    assert "s1" == json.loads(run("get", "s1").stdout)["flowStart"]["id"]
    assert '{"name":"a"}\n{"name":"b"}\n' == run("backends").stdout


def test_a_watch_asks_for_what_was_typed(run: Run, gateway: StubGateway) -> None:
    """A watch asks for what was typed."""
    gateway.streams.append([DONE])

    run("watch", "s1", "s2", "--after-revision", "0", "--epoch", "e1", "--until-done", "--state", "failed")

    expected = pb.WatchFlowStartsRequest(
        ids=["s1", "s2"],
        filter=pb.FlowStartFilter(states=[STATE.STATE_FAILED]),
        after_revision=0,
        epoch="e1",
        until_done=True,
    )
    assert expected == gateway.requests[0]


def test_a_watch_survives_its_connection_and_goes_on_where_it_was(run: Run, gateway: StubGateway) -> None:
    """A watch survives its connection and goes on where it was."""
    gateway.streams.append([heartbeat(5), status(grpc.StatusCode.UNAVAILABLE, reason="DRAINING", retry_after=0.01)])
    gateway.streams.append([DONE])

    result = run("watch", "s1", "--until-done")

    assert 0 == result.exit_code
    assert ["5", "9"] == [json.loads(line)["revision"] for line in result.stdout.splitlines()]
    assert (5, "e1") == (gateway.requests[1].after_revision, gateway.requests[1].epoch)
    assert not gateway.requests[0].HasField("after_revision")
    assert "resuming after revision 5" in result.stderr


def test_a_revision_that_is_not_kept_is_explained(run: Run, gateway: StubGateway) -> None:
    """A revision that is not kept is explained."""
    gateway.streams.append([status(grpc.StatusCode.OUT_OF_RANGE, "not kept", reason="REVISION_NOT_AVAILABLE")])

    result = run("watch", "--after-revision", "3", "--epoch", "old")

    assert 3 == result.exit_code
    assert "Watch again without --after-revision and --epoch" in result.stderr


@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS)])
def test_help_teaches_with_examples_and_exit_codes(words: list[str]) -> None:
    """Help teaches with examples and exit codes."""
    result = CliRunner().invoke(app, [*words, "--help"])

    assert 0 == result.exit_code
    assert "Examples:\n    startflow " in result.stdout
    assert "Exit codes:\n    0 " in result.stdout


@pytest.mark.parametrize("words", [[], ["store"]])
def test_each_command_says_what_it_does_in_a_line(words: list[str]) -> None:
    """A sentence that does not fit is cut short."""
    help_ = CliRunner().invoke(app, [*words, "--help"]).stdout

    listed = help_.partition("Commands:\n")[2].splitlines()
    assert listed
    assert [] == [line for line in listed if line.endswith("...")]


@pytest.mark.parametrize("words", [["--help"], ["watch", "--help"], ["changes", "--help"]])
def test_d10_jq_in_the_help_skips_what_has_no_such_field(words: list[str]) -> None:
    """A watch also carries heartbeats and the end of the snapshot, and `null` for each is no answer."""
    help_ = CliRunner().invoke(app, words).stdout

    assert "jq" in help_
    assert [] == [line for line in help_.splitlines() if "| jq" in line and "// empty" not in line]


def test_d10_a_call_without_a_credential_says_how_a_command_gets_one(run: Run, gateway: StubGateway) -> None:
    """The gateway speaks of the header; a command has options for it."""
    gateway.answers.append(status(grpc.StatusCode.UNAUTHENTICATED, "The call has none.", reason="CREDENTIALS_MISSING"))
    result = run("list")

    assert 3 == result.exit_code
    assert "--token-file FILE, or the variable STARTFLOW_TOKEN, gives this command a credential." in result.stderr


def test_d10_a_moment_in_words_is_refused_with_what_to_write(run: Run) -> None:
    """For a moment in the past, a duration is one ago."""
    result = run("list", "--since", "yesterday")

    assert 2 == result.exit_code
    assert (
        "'yesterday' is not a time. Write RFC 3339 (2026-01-31T09:00:00Z) or a duration (24h, which is" in result.stderr
    )


def test_help_and_version_load_neither_grpc_nor_rich() -> None:
    """A person waits for these; both libraries take longer to load than everything else."""
    script = (
        "import sys; from gateway.cli.app import app\n"
        "for word in ('--help', '--version'):\n"
        "    try: app([word])\n"
        "    except SystemExit: pass\n"
        "assert not {'grpc', 'rich', 'google.protobuf', 'aiohttp'} & set(sys.modules), sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert "startflow 0." in done.stdout


@pytest.mark.parametrize(
    "typed", some(["list", "watch", "get s1", "--help", "--version", "token", "check"], "list", "watch", "--help")
)
def test_newcomer_44_a_reader_that_leaves_early_ends_a_command_as_any_tool(
    gateway: StubGateway, tmp_path: Path, typed: str
) -> None:
    """`startflow list | head -1`: without a word, and by the signal that a shell knows as the end of a pipe."""
    words = typed.split()
    gateway.answers.append(
        pb.ListFlowStartsResponse(flow_starts=[flow_start(f"s{n}") for n in range(500)])
        if words == ["list"]
        else pb.GetFlowStartResponse(flow_start=flow_start())
    )
    gateway.streams.append([heartbeat(7), DONE])
    config = tmp_path / "startflow.toml"
    config.write_text(
        '[backends.textit]\nkind = "rapidpro"\nurl = "http://127.0.0.1:1"\ntoken = "no-backend-is-there"\n'
    )
    run, environment = command(gateway, *words, *(["--config", str(config)] if words == ["check"] else []))
    broken = nobody_reads()
    done = subprocess.run(run, env=environment, stdout=broken, stderr=subprocess.PIPE, text=True, check=False)
    os.close(broken)

    assert (-signal.SIGPIPE, "") == (done.returncode, done.stderr)


def nobody_reads() -> int:
    """Opens a pipe whose other end is closed."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


UNPRINTED = [
    (typed, where)
    for typed in (f"start {FLOW}", f"start {FLOW} --watch", "cancel s1 s2")
    for where in ("full disk", "reader gone")
]


@pytest.mark.parametrize("unprinted", some(UNPRINTED, UNPRINTED[0], UNPRINTED[3], UNPRINTED[4]))
def test_what_is_done_is_no_failure_though_it_cannot_be_printed(
    gateway: StubGateway, unprinted: tuple[str, str]
) -> None:
    """A script that repeats what fails would send it once more; standard error tells what happened, if it is there."""
    words, where = unprinted[0].split(), unprinted[1]
    typed, environment = command(gateway, *words, *(["--request-id", "r1"] if "start" in words else []))
    for said_to in (subprocess.PIPE, subprocess.STDOUT):
        gateway.answers.extend(
            [pb.StartFlowResponse(flow_start=flow_start())]
            if "start" in words
            else [pb.CancelFlowStartResponse(flow_start=flow_start(each)) for each in ("s1", "s2")]
        )
        gateway.streams.append([heartbeat(7), DONE])
        unwritable = os.open("/dev/full", os.O_WRONLY) if where == "full disk" else nobody_reads()
        done = subprocess.run(typed, env=environment, stdout=unwritable, stderr=said_to, text=True, check=False)
        os.close(unwritable)

        assert (0, True) == (done.returncode, not gateway.answers), done.stderr
        if said_to == subprocess.PIPE:
            why = "No space left on device" if where == "full disk" else "Broken pipe"
            recorded = "s1 is recorded, with the request id r1" if "start" in words else "What was asked for is done"
            assert done.stderr.startswith(f"{recorded}, but the output cannot be written: {why}.")
            assert 1 == done.stderr.count("\n")


@pytest.mark.parametrize("words", [["list"], ["list", "--json"], ["--version"]])
def test_what_cannot_be_printed_because_stdout_is_closed_is_an_error(gateway: StubGateway, words: list[str]) -> None:
    """`startflow list >&-` prints nothing: a script must not take that for an empty list."""
    gateway.answers.append(pb.ListFlowStartsResponse(flow_starts=[flow_start()]))
    typed, environment = command(gateway, *words) if "list" in words else ([*command(gateway)[0], *words], None)
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *typed], env=environment, stderr=subprocess.PIPE, text=True, check=False
    )

    assert 1 == done.returncode
    assert "error: the output cannot be written: Bad file descriptor." in done.stderr
    assert 1 == done.stderr.count("\n")


def test_a_failed_start_is_told_by_the_exit_code_though_nothing_can_be_printed(gateway: StubGateway) -> None:
    """The watch goes on to the end that it was asked for."""
    gateway.answers.append(pb.StartFlowResponse(flow_start=flow_start()))
    gateway.streams.append([changed(9, flow_start(state=STATE.STATE_FAILED))])
    typed, environment = command(gateway, "start", FLOW, "--watch")
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        done = subprocess.run(typed, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False)

    assert (1, "s1 ended FAILED") == (done.returncode, done.stderr.splitlines()[-1])


def test_ctrl_c_while_watching_exits_130_and_the_last_line_is_whole(gateway: StubGateway) -> None:
    """Ctrl-C while watching exits 130 and the last line is whole."""
    gateway.answers.append(pb.StartFlowResponse(flow_start=flow_start()))
    gateway.streams.append([heartbeat(7), HANG])
    words, environment = command(gateway, "start", FLOW, "--watch")

    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        lines = [process.stdout.readline(), process.stdout.readline()]
        process.send_signal(signal.SIGINT)
        rest, said = process.communicate(timeout=10)

    assert [7] == [int(json.loads(line).get("revision", 0)) for line in lines[1:]]
    assert (130, "") == (process.returncode, rest)
    assert f"startflow watch s1 --until-done --address {gateway.address}" in said


def test_a_terminal_gets_a_live_picture_with_colours(gateway: StubGateway) -> None:
    """A terminal gets a live picture with colours."""
    gateway.answers.append(pb.StartFlowResponse(flow_start=flow_start(), backend_request_count=2))
    gateway.streams.append([heartbeat(7), DONE])
    words, environment = command(gateway, "start", FLOW, "--watch")
    environment.pop("NO_COLOR", None)

    ours, theirs = pty.openpty()
    with subprocess.Popen(words, env=environment, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = read_all(ours)

    assert 0 == process.returncode, shown
    assert "Recorded. It takes 2 backend requests." in shown
    assert "\x1b[32mCOMPLETED" in shown
    assert "3 of 3 ended" in shown


def test_newcomer_10_a_refusal_that_names_the_start_names_it_once(run: Run, gateway: StubGateway) -> None:
    """It said the id in two lines, one below the other."""
    gateway.answers += [
        status(grpc.StatusCode.NOT_FOUND, "No start has this id.", reason="FLOW_START_NOT_FOUND", metadata={"id": each})
        for each in ("s1", "s2")
    ]
    said = run("cancel", "s1", "s2").stderr

    assert (1, 1) == (said.count("s1"), said.count("s2"))


def test_newcomer_10_a_flow_that_a_backend_has_archived_comes_with_the_flows_of_that_one(
    run: Run, gateway: StubGateway
) -> None:
    """The answer says whose it is, so nobody has to fill a name in."""
    gateway.answers.append(
        status(grpc.StatusCode.NOT_FOUND, "It is archived.", reason="FLOW_NOT_FOUND", metadata={"backend": "textit"})
    )
    gateway.answers.append(HAVE)

    assert "What can be started: startflow flows textit" in run("start", FLOW, "tel:+12065551212").stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["list", "--limit", "0"], "'0' is not a whole number from 1 on"),
        (["list", "--limit", "many"], "'many' is not a whole number from 1 on"),
        (["list", "--timeout", "abc"], "'abc' is not a number of seconds; write it as 30 or 0.5"),
        (["list", "--timeout", "nan"], "'nan' is not a number of seconds"),
    ],
    ids=str,
)
def test_newcomer_10_a_number_that_is_none_is_named_in_our_words(run: Run, words: list[str], said: str) -> None:
    """It said "Input should be a valid number, unable to parse string as a number"."""
    result = run(*words)

    assert 2 == result.exit_code
    assert said in " ".join(result.stderr.split())
