"""What each command does once its words have been read: call, show, and say how it went.

Rules:

1. A method returns the exit code; `client.CallFailed` goes through to whoever opened the session.
2. The exit code tells of the starts that were waited for. Listing and plain watching ask nothing of a start.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import grpc
from startflow.v1 import start_flow_service_pb2 as pb

from gateway.cli import spelling, views
from gateway.cli.asking import FIRST_PAUSE, Asking
from gateway.cli.board import Board, latest_table
from gateway.cli.client import REPEATABLE, CallFailed, WatchTimedOut

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from google.protobuf.message import Message
    from rich.console import RenderableType

    from gateway.cli.client import Client, Problem
    from gateway.cli.console import Console

M = TypeVar("M", bound="Message")

OK, NOT_CLEAN, REFUSED, INTERRUPTED = 0, 1, 3, 130

# Problems of what was asked: to ask again, for whatever place, would not help.
WRONG = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.OUT_OF_RANGE)
OF_ONE = (*WRONG, grpc.StatusCode.FAILED_PRECONDITION)  # another start can be asked for all the same
NOT_CLEAN_COUNTS = ("failed", "skipped", "interrupted", "uncertain")


def shortfall(start: pb.FlowStart) -> str:
    """Says in a sentence why a start did not end completed, with nobody missed; empty if it did."""
    state = pb.FlowStart.State
    counts = {name: int(getattr(start.progress, name)) for name in NOT_CLEAN_COUNTS}
    missed = ", ".join(f"{number:,} {name}" for name, number in counts.items() if number)
    left_out = start.progress.contact_count - start.progress.contact_started_count
    why = f": {start.failure.reason}: {start.failure.message}" if start.failure.reason else ""
    if start.state == state.STATE_COMPLETED:
        if missed:
            whom = "recipient" if start.recipient_count == 1 else "recipients"
            return f"{start.id} completed, but of {start.recipient_count:,} {whom}: {missed}."
        return f"{start.id} completed, but {left_out:,} contacts were not started." if left_out > 0 else ""
    if start.state in {state.STATE_FAILED, state.STATE_INTERRUPTED}:
        return f"{start.id} ended {views.state_name(start)}{why}"
    if start.state == state.STATE_UNCERTAIN:
        said = f"{start.id} is UNCERTAIN: it may have been carried out, and is not sent again by itself{why}"
        return f"{said} {views.how_to_settle(start)}".rstrip()
    waits = views.waits_for(start)
    return f"{start.id} has not ended: it is {views.state_name(start)}{waits and ', waiting: '}{waits or '.'}"


def _is_of_the_flow(problem: Problem) -> bool:
    """Says whether a start was refused for its flow, or because that does not tell its backend."""
    wrong = {path for path, _ in problem.violations}
    return problem.reason == "FLOW_NOT_FOUND" or bool(wrong & {"flow", "backend"})


class Session:
    """One command's conversation with the gateway.

    `timeout` is how many seconds a watch may take (None: for ever), `patience` after how many it asks why starts wait.
    """

    def __init__(
        self,
        client: Client,
        console: Console,
        *,
        flags: str = "",
        timeout: float | None = None,
        patience: float = FIRST_PAUSE,
    ) -> None:
        self._client, self._console, self._timeout = client, console, timeout
        self._flags = flags  # what a command to paste needs to reach the same gateway
        self._last: pb.WatchFlowStartsResponse | None = None
        self._board = Board()
        self._patience = patience
        self._said: set[str] = set()  # why something waits, beside a pipe

    def start(self, request: pb.StartFlowRequest, *, watch: bool) -> int:
        """Starts a flow, and watches it to its end if asked to."""
        again = f"To try again without starting twice, repeat the command with --request-id {request.request_id}"
        try:
            response = self._client.start(request)
        except CallFailed as failed:
            if failed.problem.code in REPEATABLE and not request.validate_only:
                failed.advice = again
            elif _is_of_the_flow(failed.problem):
                with suppress(CallFailed):  # the first failure is the one to tell
                    backends, named = self._client.list_backends(), failed.problem.metadata.get("backend", "")
                    failed.advice = spelling.flow_advice(request, backends, self._flags, named)
            raise
        except KeyboardInterrupt:
            if not request.validate_only:
                self._console.say(f"It may have been recorded. {again}")
            return INTERRUPTED
        if not request.validate_only:
            start_id = response.flow_start.id
            self._console.outlives(
                f"{start_id} is recorded, with the request id {request.request_id}",
                f"Look at it: startflow get {start_id}{self._flags}",
            )
        self._show_started(response, request, watch=watch)
        if not watch:
            return OK
        ids = [response.flow_start.id]
        return self.watch(pb.WatchFlowStartsRequest(ids=ids, until_done=True))

    def _show_started(self, response: pb.StartFlowResponse, request: pb.StartFlowRequest, *, watch: bool) -> None:
        if not self._console.readable:
            self._console.line(response)
            return
        count = response.backend_request_count
        requests = "one backend request" if count == 1 else f"{count:,} backend requests"
        if request.validate_only:
            self._console.say(f"Valid; nothing was recorded. It takes {requests}.")
        elif response.replayed:
            self._console.say("This request id was used before; here is its start as it is now.")
        else:
            self._console.say(f"Recorded. It takes {requests}.")
        if not watch:
            self._console.show(views.start_view(response.flow_start, self._console.now()))
            if not request.validate_only:
                self._console.say(f"Follow it: {self._command(response.flow_start.id)}")

    def get(self, start_id: str) -> int:
        """Shows one start."""
        response = self._client.get(start_id)
        if self._console.readable:
            self._console.show(views.start_details(response, self._console.now()))
        else:
            self._console.line(response)
        return OK

    def cancel(self, start_ids: Sequence[str]) -> int:
        """Cancels starts, and shows what that comes to. Of several, one that is refused keeps none from the others."""
        code = OK
        self._console.outlives("What was asked for is done")
        for start_id in start_ids:
            try:
                self._show_moved(self._client.cancel(start_id))
            except CallFailed as failed:
                if len(start_ids) == 1 or failed.problem.code not in OF_ONE:
                    raise
                if start_id not in failed.problem.metadata.values():
                    failed.advice = f"This is about {start_id}."
                self._console.fail(failed)
                code = REFUSED
        return code

    def resolve(self, request: pb.ResolveFlowStartRequest) -> int:
        """Settles what is uncertain or stalled of a start, and shows what that comes to."""
        self._console.outlives("What was asked for is done")
        return self._show_moved(self._client.resolve(request))

    def _show_moved(self, response: pb.CancelFlowStartResponse | pb.ResolveFlowStartResponse) -> int:
        """Shows a start after a call that moved it; its params are only in the answer to `get`."""
        start = response.flow_start
        if not self._console.readable:
            self._console.line(response)
            return OK
        self._console.show(views.start_details(pb.GetFlowStartResponse(flow_start=start), self._console.now()))
        if not start.HasField("end_time"):
            self._console.say(f"It has not ended yet. Follow it: {self._command(start.id)}")
        return OK

    def list(self, selection: pb.FlowStartFilter, limit: int) -> int:
        """Shows the starts that match, the most recently changed first."""
        if not self._console.readable:
            found = False
            for start in self._client.list_starts(selection, limit):
                self._console.line(start)
                found = True
            if not found:
                self._say_what_is_unknown(selection)
            return OK
        starts = list(self._client.list_starts(selection, limit + 1))  # one more tells whether there are more
        if starts:
            shown = starts[:limit]
            self._console.show(latest_table(shown, self._console.width, self._console.now(), wraps=True))
            for line in views.waits(starts[:limit], self._console.now()):
                self._console.show(line)
        if not starts:
            self._console.say("No starts match.")
            self._say_what_is_unknown(selection)
        elif len(starts) > limit:
            self._console.say(f"There are more: --limit {limit * 2}")
        return OK

    def _say_what_is_unknown(self, selection: pb.FlowStartFilter) -> None:
        """Says of a filter that nothing matches what of it the gateway does not have."""
        if not selection.backends and not selection.flow:
            return
        with suppress(CallFailed):
            if advice := spelling.filter_advice(selection, self._client.list_backends()):
                self._console.say(advice)

    def recipients(self, start_id: str, limit: int) -> int:
        """Shows what became of each recipient of a start."""
        return self._show_some(self._client.list_recipients(start_id, limit + 1), limit, views.recipients_table)

    def changes(self, start_id: str, limit: int) -> int:
        """Shows the history of a start."""
        return self._show_some(self._client.list_changes(start_id, limit + 1), limit, views.changes_table)

    def flows(self, backend: str, limit: int) -> int:
        """Shows the flows that a backend has."""
        return self._show_some(self._client.list_flows(backend, limit + 1), limit, views.flows_table)

    def _show_some(self, messages: Iterator[M], limit: int, table: Callable[[Iterable[M], int], RenderableType]) -> int:
        """Shows at most `limit` of them, and says if there are more."""
        shown = list(islice(messages, limit))
        if self._console.readable:
            self._console.show(table(shown, self._console.width))
        else:
            for message in shown:
                self._console.line(message)
        if next(messages, None) is not None:
            self._console.say(f"There are more: --limit {limit * 2}")
        return OK

    def backends(self) -> int:
        """Shows the backends."""
        backends = self._client.list_backends()
        if self._console.readable:
            self._console.show(views.backends_table(backends, self._console.width))
        else:
            for backend in backends:
                self._console.line(backend)
        return OK

    def watch(self, request: pb.WatchFlowStartsRequest) -> int:
        """Shows what happens until it is done, for as long as it may, or until Ctrl-C."""
        self._board = Board(one=len(request.ids) == 1)
        try:
            with Asking(self._client, self._board, self._say_why, first_pause=self._patience):
                if self._console.readable:
                    with self._console.live(self._picture):
                        self._follow(request)
                else:
                    self._follow(request)
        except CallFailed as failed:
            if failed.problem.code not in WRONG and (request.until_done or self._last is not None):
                failed.advice = f"The starts continue. To resume: {self._resumption(request)}"
            raise
        except KeyboardInterrupt:
            self._console.say(f"Stopped watching; the starts continue. To resume: {self._resumption(request)}")
            return INTERRUPTED
        except WatchTimedOut:
            if not request.until_done:
                return OK
            self._console.say(f"Not done after {self._timeout:g} s. To resume: {self._resumption(request)}")
        return self._verdict(request.ids) if request.until_done else OK

    def _follow(self, request: pb.WatchFlowStartsRequest) -> None:
        matched = False
        for message in self._client.watch(request, seconds=self._timeout, begin_anew=self._board.clear):
            if not self._console.readable:
                self._console.line(message)
            if self._console.readable or request.until_done:
                self._board.take(message)
            if message.HasField("changed"):
                matched = True
            elif message.HasField("snapshot_end") and not matched:
                self._say_what_is_unknown(request.filter)
            self._last = message

    def _say_why(self) -> None:
        """Says beside a pipe why starts wait, each reason once; a person has it in the picture."""
        if self._console.readable:
            return
        news = [start for start in self._board.asked() if views.waits_for(start) not in self._said]
        self._said.update(map(views.waits_for, news))
        for why in views.reasons(news, self._console.now()):
            self._console.say(why)

    def _picture(self, width: int, height: int) -> RenderableType:
        return self._board.picture(width, height, self._console.now())

    def _verdict(self, ids: Iterable[str]) -> int:
        """Says of each start that was waited for what it lacks, and to a person how they all went."""
        starts = [
            self._board.get(start_id) or self._client.get(start_id).flow_start for start_id in ids
        ]  # ended before
        sentences = [sentence for start in starts if (sentence := shortfall(start))]
        for sentence in sentences:
            self._console.say(sentence)
        if self._console.readable and len(starts) > 1:
            clean = len(starts) - len(sentences)
            well = f"{clean:,} of {len(starts):,} starts completed"
            self._console.say(f"{well}, with nothing failed, skipped, interrupted or uncertain.")
        elif self._console.readable and not sentences:
            took = views.age(starts[0], self._console.now())
            meaning = views.MEANINGS.get(starts[0].completion_meaning, "")
            self._console.say(f"{starts[0].id} completed in {took}{meaning and ': '}{meaning}.")
        return NOT_CLEAN if sentences else OK

    def _resumption(self, request: pb.WatchFlowStartsRequest) -> str:
        """Returns what goes on: waiting begins with how the starts are by then, all else with the next change."""
        if request.until_done:
            return self._command(*request.ids)
        if self._last is None or not self._last.revision:
            return "repeat the command"
        return f"repeat the command with --after-revision {self._last.revision} --epoch {self._last.epoch}"

    def _command(self, *ids: str) -> str:
        return f"startflow watch {' '.join(ids)} --until-done{self._flags}"
