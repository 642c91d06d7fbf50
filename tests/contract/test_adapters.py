"""What every adapter must do: its table of cases, and rules that no table needs to repeat."""

from __future__ import annotations

import ast
from dataclasses import fields, is_dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never

import phonenumbers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gateway.adapters
from gateway.adapters import ADAPTERS
from gateway.adapters.base import (
    DISPATCH_ID_SIZE,
    Accepted,
    Barred,
    Canceller,
    Distrusted,
    Failed,
    KeyReader,
    Listener,
    Lister,
    Misconfigured,
    NotSent,
    Reply,
    Request,
    Throttled,
    Unsure,
)
from gateway.errors import Reason
from gateway.lanes.guarding import guarded
from gateway.model import CORRELATION_KEY, Cause, Notice, RecipientKind, Recipients, State
from gateway.wire import distinct
from tests.cases import REQUIRED, REQUIRED_OF_KIND, REQUIRED_OF_VERB, Table
from tests.third_adapter import Pigeon

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gateway.adapters.base import Adapter, Exchange

KINDS = {**ADAPTERS, "pigeon": Pigeon}
"""The adapters there are, and the one that `docs/adding-a-backend.md` shows."""
TABLES: dict[str, Table] = {kind: import_module(f"tests.cases.{kind}").TABLE for kind in KINDS}
VERBS = {"flows": Lister, "key": KeyReader, "cancel": Canceller, "hear": Listener}
"""The verbs that not every adapter has, and the protocol of those who have them."""
ASKS_NOTHING = {"hear"}

every_kind = pytest.mark.parametrize("kind", KINDS)


def rows(part: str) -> pytest.MarkDecorator:
    """Parametrises a test over one part of every table."""
    found = [(kind, *row) for kind, table in TABLES.items() for row in getattr(table, part)]
    return pytest.mark.parametrize(
        ("kind", "row"), [pytest.param(kind, row, id=f"{kind}: {row[0]}") for kind, *row in found]
    )


def made(kind: str) -> Adapter:
    """Makes an adapter as its table is configured, guarded as it is when it runs."""
    return guarded(KINDS[kind](TABLES[kind].account), kind)


def drive(exchange: Exchange[Any], answers: Iterable[Reply | Failed]) -> tuple[list[Request], Any]:
    """Plays the transport: returns what was requested, and the result."""
    requests, answering = [], iter(answers)
    try:
        request = next(exchange)
        while True:
            requests.append(request)
            request = exchange.send(next(answering))
    except StopIteration as end:
        return requests, end.value


def bare(value: Any) -> Any:
    """Leaves the messages of notices out: they are for people."""
    if isinstance(value, Notice):
        return replace(value, message="")
    if isinstance(value, tuple):
        return tuple(bare(each) for each in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{each.name: bare(getattr(value, each.name)) for each in fields(value)})
    return value


def notices(value: Any) -> Iterator[Notice]:
    """Finds every notice in a result."""
    if isinstance(value, Notice):
        yield value
    elif isinstance(value, tuple):
        for each in value:
            yield from notices(each)
    elif is_dataclass(value):
        for each in fields(value):
            yield from notices(getattr(value, each.name))


def exchanges(kind: str) -> dict[str, Exchange[Any]]:
    """Starts each verb as the table's first telling row does."""
    table, adapter = TABLES[kind], made(kind)
    since, windows = next((row[1], row[2]) for row in table.sweep if row[0] == "found")
    every: dict[str, Exchange[Any]] = {
        "send": adapter.send(table.dispatch),
        "look": adapter.look(table.dispatch),
        "sweep": adapter.sweep(since, windows),
        "identify": adapter.identify(),
    }
    if isinstance(adapter, Lister):
        every["flows"] = adapter.flows(table.flow)
    if isinstance(adapter, KeyReader):
        every["key"] = adapter.key(table.flow, table.dispatch.external_id)
    if isinstance(adapter, Canceller):
        every["cancel"] = adapter.cancel(table.dispatch)
    return every


def required(kind: str, part: str) -> frozenset[str]:
    """Tells which rows a part of a table must have."""
    adapter, of_kind = made(kind), REQUIRED_OF_KIND.get(kind, {}).get(part, frozenset())
    if part in VERBS:
        return of_kind | REQUIRED_OF_VERB[part] if isinstance(adapter, VERBS[part]) else frozenset()
    verbs = {verb for verb, protocol in VERBS.items() if isinstance(adapter, protocol)} - ASKS_NOTHING
    return REQUIRED[part] | of_kind | (verbs if part == "questions" else frozenset())


@every_kind
@pytest.mark.parametrize("part", [*REQUIRED, *REQUIRED_OF_VERB])
def test_no_required_row_is_missing(kind: str, part: str) -> None:
    """A case that every backend meets is in every table, no label is there twice, and no verb that it has not."""
    labels = [row[0] for row in getattr(TABLES[kind], part)]

    assert set() == required(kind, part) - set(labels)
    assert len(set(labels)) == len(labels)
    assert bool(required(kind, part)) == bool(labels)


def test_the_parts_of_the_tables_are_known() -> None:
    """So that a misspelt part or kind requires nothing unnoticed."""
    assert set(REQUIRED_OF_VERB) == set(VERBS)
    assert set(REQUIRED_OF_KIND) == set(ADAPTERS)
    assert {part for every in REQUIRED_OF_KIND.values() for part in every} <= {*REQUIRED, *REQUIRED_OF_VERB}


@every_kind
def test_a_capability_is_a_verb(kind: str) -> None:
    """What it says that it can do it has a verb for."""
    adapter = made(kind)

    assert adapter.capabilities.cancel == isinstance(adapter, Canceller)


@rows("requests")
def test_sends_one_exact_request(kind: str, row: tuple[Any, ...]) -> None:
    """A dispatch is one request, byte for byte."""
    _, dispatch, expected = row
    requests, _ = drive(made(kind).send(dispatch), [Failed(sent=True, reason="lost", cause=Cause.BROKEN)])

    assert [expected] == requests


@rows("send")
def test_says_what_came_of_a_request(kind: str, row: tuple[Any, ...]) -> None:
    """An answer to a dispatch becomes its outcome, after one request that creates."""
    _, answer, expected = row
    requests, outcome = drive(made(kind).send(TABLES[kind].dispatch), [answer])

    assert expected == bare(outcome)
    assert [request.creates for request in requests] == [True]


@rows("look")
def test_says_how_a_dispatch_stands(kind: str, row: tuple[Any, ...]) -> None:
    """An answer about a dispatch becomes its sighting, after one request that reads."""
    _, answer, expected = row
    requests, sighting = drive(made(kind).look(TABLES[kind].dispatch), [answer])

    assert expected == bare(sighting)
    assert [(each.method, each.creates, each.body) for each in requests] == [("GET", False, b"")]


@rows("sweep")
def test_scans(kind: str, row: tuple[Any, ...]) -> None:
    """A scan asks for its pages in turn and shows what they hold."""
    _, since, windows, queries, answers, expected = row
    requests, sweep = drive(made(kind).sweep(since, windows), answers)

    assert expected == bare(sweep)
    assert list(queries) == [request.query for request in requests]
    assert {"GET"} >= {request.method for request in requests}


@rows("flows")
def test_reads_flows(kind: str, row: tuple[Any, ...]) -> None:
    """Looking for a flow, or listing them all, asks for its pages in turn and shows what they hold."""
    _, flow, queries, answers, expected = row
    adapter = made(kind)
    assert isinstance(adapter, Lister)
    requests, found = drive(adapter.flows(flow), answers)

    assert expected == bare(found)
    assert list(queries) == [request.query for request in requests]
    assert {"GET"} == {request.method for request in requests}


@rows("identify")
def test_says_whose_account_answers(kind: str, row: tuple[Any, ...]) -> None:
    """An answer becomes the account's id, after one request that reads."""
    _, account, answer, expected = row
    requests, found = drive(guarded(KINDS[kind](account), kind).identify(), [answer])

    assert expected == bare(found)
    assert [(each.method, each.creates, each.body) for each in requests] == [("GET", False, b"")]


@rows("key")
def test_reads_a_correlation_key(kind: str, row: tuple[Any, ...]) -> None:
    """An answer about one start becomes its key, after one request that reads."""
    _, answer, expected = row
    dispatch, adapter = TABLES[kind].dispatch, made(kind)
    assert isinstance(adapter, KeyReader)
    requests, found = drive(adapter.key(dispatch.flow, dispatch.external_id), [answer])

    assert expected == bare(found)
    assert [(each.method, each.creates, each.body) for each in requests] == [("GET", False, b"")]


@rows("cancel")
def test_ends_a_dispatch(kind: str, row: tuple[Any, ...]) -> None:
    """One request that may be repeated, and if it is refused another that reads, become how the dispatch stands."""
    _, answers, expected = row
    adapter = made(kind)
    assert isinstance(adapter, Canceller)
    requests, sighting = drive(adapter.cancel(TABLES[kind].dispatch), answers)

    assert expected == bare(sighting)
    assert len(answers) == len(requests)
    assert ["GET"] * (len(answers) - 1) == [each.method for each in requests[1:]]
    assert not any(each.creates for each in requests)


@rows("hear")
def test_hears(kind: str, row: tuple[Any, ...]) -> None:
    """A push becomes what it tells, if it is the backend's; why it may not be is told without a secret of ours."""
    _, account, push, expected = row
    adapter = guarded(KINDS[kind](account), kind)
    assert isinstance(adapter, Listener)
    heard = adapter.hear(push)

    if isinstance(expected, Distrusted):
        assert isinstance(heard, Distrusted)
        assert expected.may_be_ours is heard.may_be_ours
        assert expected.why in heard.why
        assert not [secret for secret in account.credentials.values() if secret in heard.why]
    else:
        assert expected == bare(heard)


@rows("questions")
def test_asks_exactly(kind: str, row: tuple[Any, ...]) -> None:
    """What is asked is one request, byte for byte."""
    verb, expected = row

    assert expected == next(exchanges(kind)[verb])


UNSURE, BARRED = {408, *range(100, 200), *range(500, 600)}, {401, 403, 405, 407, 415, 421, 429, *range(300, 400)}


@every_kind
def test_a_status_alone_tells_the_outcome(kind: str) -> None:
    """Of sending, where its body does not matter: nothing that may have been carried out is taken for refused."""
    dispatch = TABLES[kind].dispatch
    outcomes = {
        status: type(drive(made(kind).send(dispatch), [Reply(status=status, body=b"<html>")])[1])
        for status in range(100, 600)
    }

    assert {status for status, outcome in outcomes.items() if outcome is Unsure} == UNSURE | set(range(200, 300))
    assert {status for status, outcome in outcomes.items() if outcome is Barred} == BARRED | {400, 404, 406, 451}
    assert not {NotSent, Throttled} & set(outcomes.values())


@rows("objections")
def test_objects_to_what_it_cannot_express(kind: str, row: tuple[Any, ...]) -> None:
    """Every bad field is named, with what to do."""
    _, asked, recipients, expected = row
    found = made(kind).objections(asked, recipients)

    assert list(expected) == [(each.field, each.reason) for each in found]
    assert all(each.description.endswith(".") for each in found)


@rows("same")
async def test_a5_one_recipient_in_several_spellings_is_named_once(kind: str, row: tuple[Any, ...]) -> None:
    """By the backend's own idea of who is the same: the first spelling stays, in its place."""
    _, country, named, kept = row
    adapter = made(kind)
    left, warnings = await distinct(named, lambda of, recipient: adapter.same_as(of, recipient, country))

    assert kept == left
    assert [Reason.DUPLICATES_REMOVED] * (kept != named) == [warning.reason for warning in warnings]


@every_kind
@settings(deadline=None)
@given(of=st.sampled_from(RecipientKind), recipient=st.text(max_size=300), country=st.sampled_from(["", "US", "XX"]))
def test_a5_any_text_has_a_canonical_form(kind: str, of: RecipientKind, recipient: str, country: str) -> None:
    """Recipients are compared before they are looked at: nothing raises, and the same text is the same."""
    adapter = made(kind)

    assert adapter.same_as(of, recipient, country) == adapter.same_as(of, recipient, country)
    assert adapter.same_as(of, f"tel:{recipient}", country)


def test_b_a_number_that_is_none_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Libphonenumber takes some 0.2 ms for a text of 250 characters: ten thousand of them are a request."""
    monkeypatch.setattr(phonenumbers, "parse", _never)
    adapter = made("rapidpro")

    for long in ("+" + "1" * 200, "+12065551212;phone-context=+1222" + "2" * 100, "x" * 200):
        assert adapter.same_as(RecipientKind.URN, f"tel:{long}", "US")


def test_a5_an_extension_makes_nobody_else() -> None:
    """What is short enough to be a number is read as one, also where its digits and letters are more than fifteen."""
    adapter = made("rapidpro")
    spellings = ("+1 206 555 1212 ext. 5555", "+1 (206) 555-1212", "+12065551212")

    assert {"tel:+12065551212"} == {adapter.same_as(RecipientKind.URN, f"tel:{each}", "US") for each in spellings}


def _never(*_: object) -> Never:
    raise AssertionError


@pytest.mark.parametrize(
    ("one", "other"), [("\u0661\u0662\u0663", "\u0664\u0665\u0666"), ("+1206555\u0661", "+1206555\u0662")]
)
def test_a5_digits_of_other_scripts_are_not_left_out(one: str, other: str) -> None:
    """Two people are never taken for one; whether they are numbers is RapidPro's to say."""
    adapter = made("rapidpro")

    assert len({adapter.same_as(RecipientKind.URN, f"tel:{each}", "US") for each in (one, other)}) == 2


@rows("plan")
def test_plans_dispatches(kind: str, row: tuple[Any, ...]) -> None:
    """Recipients are split as the backend takes them."""
    _, recipients, expected = row

    assert list(expected) == made(kind).plan(TABLES[kind].asked, recipients)


@rows("misconfigured")
def test_names_the_setting_that_is_wrong(kind: str, row: tuple[Any, ...]) -> None:
    """Settings that do not suffice are told by name, and no secret is."""
    _, account, setting = row
    with pytest.raises(Misconfigured, match=rf"^`{setting}` .*\.$") as raised:
        KINDS[kind](account)

    assert not [secret for secret in account.credentials.values() if secret.strip() and secret in str(raised.value)]


@every_kind
def test_requests_are_deterministic_and_hold_secrets_only_in_headers(kind: str) -> None:
    """The same call makes the same bytes; no secret and no address is in a repr or a URL."""
    table = TABLES[kind]
    sent = [urn.partition(":")[2] for urn in table.dispatch.recipients.urns]
    for verb in exchanges(kind):
        first, again = (next(exchanges(kind)[verb]) for _ in range(2))

        assert first == again
        for shown in (repr(first), first.path, first.query):
            assert not [each for each in (*table.secrets, *sent) if each in shown]
        assert not [each for each in table.secrets if each.encode() in first.body]
    assert not [each for each in table.secrets if each in repr(made(kind)) + repr(table.account)]


@every_kind
def test_messages_tell_no_addresses_and_no_params(kind: str) -> None:
    """What is stored and shown of a refusal names recipients by their place."""
    table = TABLES[kind]
    private = [*table.dispatch.recipients.urns, *map(str, table.dispatch.params.values())]
    private += [urn.partition(":")[2] for urn in table.dispatch.recipients.urns]
    for _, answer, _ in (*table.send, *table.look):
        _, outcome = drive(made(kind).send(table.dispatch), [answer])
        for notice in notices(outcome):
            text = " ".join([notice.message, *notice.metadata.values()])

            assert notice.message
            assert notice.reason in set(Reason)
            assert not [each for each in private if each in text]


@every_kind
@settings(deadline=None, max_examples=60)
@given(counts=st.tuples(*[st.integers(0, 350)] * 3))
def test_a_plan_covers_every_recipient_once_in_order(kind: str, counts: tuple[int, int, int]) -> None:
    """No recipient is lost, named twice, or moved past another, and no dispatch is too large or empty."""
    adapter = made(kind)
    names = dict(zip(RecipientKind, ("urns", "contacts", "groups"), strict=True))
    wanted = {
        names[of]: tuple(f"{names[of]}:{n}" for n in range(count))
        for of, count in zip(RecipientKind, counts, strict=True)
        if of in adapter.capabilities.recipient_kinds
    }
    plan = adapter.plan(TABLES[kind].asked, Recipients(**wanted))

    for name, recipients in wanted.items():
        assert recipients == tuple(each for part in plan for each in getattr(part, name))
        assert all(len(getattr(part, name)) <= adapter.capabilities.recipients_per_dispatch for part in plan)
    assert all(part.count for part in plan)


@every_kind
def test_only_one_kind_offers_a_flow(kind: str) -> None:
    """A flow id tells its kind of backend, and no alias looks like one."""
    flow = TABLES[kind].flow

    assert [kind] == [other for other in KINDS if made(other).offers(flow)]
    assert not [odd for odd in ("", "registration", flow + "\n", flow[:-1], " " + flow) if made(kind).offers(odd)]


@every_kind
def test_the_correlation_key_is_the_first_param(kind: str) -> None:
    """Whatever the caller's keys are: a backend may drop the last ones."""
    params = {"a_first_param": 1}
    dispatch = replace(TABLES[kind].dispatch, id="z" * DISPATCH_ID_SIZE, params=params)
    body = next(made(kind).send(dispatch)).body

    places = [body.index(word.encode()) for word in (CORRELATION_KEY, dispatch.id, *params)]
    assert sorted(places) == places


@every_kind
def test_an_acceptance_is_a_legal_first_state(kind: str) -> None:
    """No row is accepted into a state that only the gateway itself can give."""
    accepted = [expected.state for _, _, expected in TABLES[kind].send if isinstance(expected, Accepted)]

    assert accepted
    assert not {State.PENDING, State.UNCERTAIN} & set(accepted)


@every_kind
def test_newcomer_10_what_a_person_wrote_is_an_external_id_or_nothing(kind: str) -> None:
    """Each that the table has is taken as it is; a word is none."""
    adapter = made(kind)
    accepted = {expected.external_id for _, _, expected in TABLES[kind].send if isinstance(expected, Accepted)}

    assert accepted == {adapter.external_id(each) for each in accepted}
    assert "" == adapter.external_id("xx") == adapter.external_id("..")


def test_adapters_are_pure() -> None:
    """They import nothing that could do I/O, read a clock or log."""
    allowed = {"__future__", "base64", "collections", "dataclasses", "datetime", "gateway", "hashlib", "hmac"}
    allowed |= {"email", "functools", "itertools", "json", "phonenumbers", "re", "typing", "urllib"}
    for path in Path(gateway.adapters.__file__).parent.rglob("*.py"):
        tree = list(ast.walk(ast.parse(path.read_text())))
        found = {each.module for each in tree if isinstance(each, ast.ImportFrom) and each.module}
        found |= {name.name for each in tree if isinstance(each, ast.Import) for name in each.names}

        assert {name.partition(".")[0] for name in found} <= allowed
        assert "urllib.request" not in found
