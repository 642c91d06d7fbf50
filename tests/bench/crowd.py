"""Starts that have been running for a while, on both backends: in a gateway's store and in a sandbox's journal.

The store is filled by its own operations, many of them in one transaction. The sandbox takes its part from the journal
as it does when it is started again; what is in it runs until it is told otherwise.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from gateway.model import Asked, CompletionMeaning, OutcomeKind, Recipients, State
from gateway.sandbox import SANDBOX_TWILIO_ACCOUNT_SID
from gateway.sightings import Sighting
from gateway.store import Settlement, Terms, claiming, finding
from gateway.store.answering import Answer, record
from gateway.store.creating import Creation, create
from gateway.store.sending import Beginning, begin
from gateway.store.sqlite import open_sqlite

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from gateway.store.transaction import Transaction

FLOWS = {
    "rapidpro": ["f5901b62-ba76-4003-9c62-72fdacc1b7b7"],
    "twilio": [f"FW{letter * 32}" for letter in "abcde"],
}
ACCOUNTS = {"rapidpro": "fa8adbbd-eac7-4cf3-99b6-0cf259bb2c86", "twilio": SANDBOX_TWILIO_ACCOUNT_SID}
MEANINGS = {"rapidpro": CompletionMeaning.RECIPIENTS_ENTERED, "twilio": CompletionMeaning.EXECUTIONS_ENDED}
SPAN = timedelta(minutes=50)  # in which most of them were accepted
QUIET = timedelta(minutes=15)  # since then
AGE = timedelta(days=20)  # of a few of each Twilio flow, with ENDED between them and the others that are over
OLD, ENDED = 5, 2_000
BATCH = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """One start that runs."""

    number: int
    backend: str
    flow: str
    at: datetime

    @property
    def id(self) -> str:
        """The start's id here."""
        return f"{self.backend[0]}{self.number:025}"

    @property
    def external_id(self) -> str:
        """Its id there."""
        drawn = uuid.UUID(int=self.number, version=4)
        return str(drawn) if self.backend == "rapidpro" else f"FN{drawn.hex}"

    @property
    def urn(self) -> str:
        """Who it is for."""
        return f"tel:+1206{self.number:07}"


def crowd(count: int, now: datetime) -> dict[str, list[Running]]:
    """Tells who runs on each backend, by when it began; on Twilio as many on each flow."""
    found: dict[str, list[Running]] = {}
    for backend, flows in FLOWS.items():
        old = [AGE] * OLD * len(flows) if backend == "twilio" else []
        ages = old + [QUIET + SPAN * (1 - n / count) for n in range(count)]
        found[backend] = [
            Running(number=n, backend=backend, flow=flows[n % len(flows)], at=now - age) for n, age in enumerate(ages)
        ]
    return found


async def fill(path: Path, runs: Sequence[Running], account: str = "") -> None:
    """Writes starts of one backend into a store, as if they had been sent and accepted when they began.

    `account` is whose they are, if not the sandbox's as it is by default.
    """
    when, account = runs[0].at, account or ACCOUNTS[runs[0].backend]
    store = open_sqlite(path, lambda: when)
    for first in range(0, len(runs), BATCH):
        batch = runs[first : first + BATCH]
        when = batch[-1].at
        await store.engine.writer.submit(lambda transaction, batch=batch: _write(transaction, batch, account))
    await store.close()


def _write(transaction: Transaction, batch: Sequence[Running], account: str) -> None:
    backend = batch[0].backend
    runs = {each.id: each for each in batch}
    creations = []
    for each in batch:
        asked = Asked(
            id=each.id,
            tenant="default",
            backend=backend,
            flow=each.flow,
            recipient_count=1,
            params={"first_name": "Ryan"},
            created_at=each.at,
            completion_meaning=MEANINGS[backend],
        )
        terms = Terms(account=account, one_at_a_time=backend == "twilio")
        creations.append(Creation(asked, [Recipients(urns=(each.urn,))], "1:f", (), terms))
    create(transaction, creations)
    dispatches = claiming.Claim(backend, BATCH)(transaction).dispatches
    sent = [(dispatch.id, runs[dispatch.id.rpartition("-")[0]]) for dispatch in dispatches]
    attempts = begin(transaction, [Beginning(dispatch_id, account, each.at) for dispatch_id, each in sent])
    answers = []
    for (dispatch_id, each), attempt in zip(sent, attempts, strict=True):
        assert attempt is not None
        accepted = Settlement(
            outcome=OutcomeKind.ACCEPTED,
            detail="",
            state=State.STARTED,
            external_id=each.external_id,
            account=account,
            accepted_at=each.at,
        )
        answers.append(Answer(dispatch_id, attempt, accepted))
    record(transaction, answers)
    if account == ACCOUNTS["rapidpro"]:  # older ones count nothing
        counted = [
            Sighting(external_id=each.external_id, state=None, contact_count=1, contact_started_count=1)
            for each in batch
        ]
        finding.Sight(backend, counted, account)(transaction)


def write_journal(path: Path, crowds: dict[str, list[Running]], now: datetime) -> int:
    """Writes what a sandbox begins with, and returns how many entries that is."""
    number = 0
    with path.open("w") as file:
        for entry in _entries(crowds, now):
            number += 1
            file.write(json.dumps({"n": number, "at": _moment(now), "request": 0, **entry}) + "\n")
    return number


def _entries(crowds: dict[str, list[Running]], now: datetime) -> Iterator[dict[str, Any]]:
    for each in crowds["rapidpro"]:
        yield {
            **_created(each, each.number + 1),
            "contacts": [],
            "groups": [],
            "urns": [each.urn],
            "restart_participants": True,
            "exclude_active": False,
            "duration": 0.5,
        }
    over = [
        Running(number=10**9 + n, backend="twilio", flow=flow, at=now - AGE / 2)
        for flow in FLOWS["twilio"]
        for n in range(n_of(flow), n_of(flow) + ENDED)
    ]
    for each in sorted([*crowds["twilio"], *over], key=lambda each: each.at):
        ended = each.number >= 10**9
        yield {
            **_created(each, each.number + 1),
            "to": each.urn.removeprefix("tel:"),
            "from": "+18007654321",
            "request_id": f"RQ{each.number:032x}",
            "ends_at": _moment(each.at) if ended else None,
        }


def n_of(flow: str) -> int:
    """Where the numbers of a flow's executions that are over begin."""
    return FLOWS["twilio"].index(flow) * ENDED


def _created(each: Running, number: int) -> dict[str, Any]:
    return {
        "kind": "created",
        "backend": each.backend,
        "external_id": each.external_id,
        "id": number,
        "flow": each.flow,
        "params": {"startflow_id": f"{each.id}-1", "first_name": "Ryan", "sandbox": "stick"},
        "created_at": _moment(each.at),
    }


def _moment(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
