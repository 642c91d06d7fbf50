"""Event Streams, where a table of cases does not reach: real signatures, spellings of a URL, whatever may be in it."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twilio.request_validator import RequestValidator

from gateway.adapters.base import Distrusted, Push, Unsure
from gateway.adapters.twilio.events import Keys, hear, sign
from gateway.model import State
from gateway.sandbox.twilio.events import with_hash
from tests.cases.twilio import ACCOUNT, ENDS_TOO, EXECUTION, SINK, STARTS
from tests.contract.test_adapters_hostile import BODIES, mutants

if TYPE_CHECKING:
    from gateway.adapters.base import Heard

TOKEN = "12345"
KEYS = Keys(token=TOKEN, shared="sh4red")
FORM_URL = "https://mycompany.com/myapp.php?foo=1&bar=2"
FORM = {
    "CallSid": "CA1234567890ABCDE",
    "Digits": "1234",
    "From": "+14158675309",
    "To": "+18005551212",
    "Caller": "+14158675309",
}
JSON_URL = (
    "https://gw.example.com/twilio/events?bodySHA256=4813beef7e54a5fa4aa421385cb2a7fd0d9bab3a22b1c3a1159c1b5852c52f4c"
)
JSON_BODY = (
    b'[{"specversion": "1.0", "type": "com.twilio.studio.flow.execution.ended", "id": "EZ1", "data":'
    b' {"execution_sid": "FNaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "status": "ended"}}]'
)


def signed(url: str, body: bytes | None, *, signed_as: str = "") -> tuple[Heard, ...] | Distrusted | Unsure:
    """Hears a post that the validator of Twilio's own SDK would let pass; signed for another URL, if one is given."""
    signature = RequestValidator(TOKEN).compute_signature(signed_as or url, {})
    return hear(Push(url=url, headers={"x-twilio-signature": signature}, body=body), keys=KEYS, account=ACCOUNT)


@pytest.mark.parametrize(
    ("text", "signature"),
    [
        (JSON_URL, "y4cjRxNXBjrNUUtxSONGJ+gXdQI="),
        (FORM_URL + "".join(f"{name}{FORM[name]}" for name in sorted(FORM)), "RSOYDt4T1cUTdK1PDd93/VVr8B8="),
        (FORM_URL + "B2a1", "7+6xDLraG9CDDY1SSSi8+cRQLR0="),
    ],
    ids=["json", "form", "mixed case"],
)
def test_signs_as_twilio_does(text: str, signature: str) -> None:
    """Its documentation's own example among them. What a form adds to the text, an event never has."""
    assert signature == sign(text, TOKEN).decode()
    assert signature == RequestValidator(TOKEN).compute_signature(text, {})


@pytest.mark.parametrize("body", [JSON_BODY, None])
def test_a_post_that_twilio_signed_is_believed(body: bytes | None) -> None:
    """Before its body is read and after it; it says of no account that it is ours, so nothing is heard."""
    push = Push(url=JSON_URL, headers={"x-twilio-signature": "y4cjRxNXBjrNUUtxSONGJ+gXdQI="}, body=body)

    assert () == hear(push, keys=KEYS, account=ACCOUNT)


def test_a_post_that_was_changed_is_not() -> None:
    """One letter of its body, its URL or its signature is enough."""
    good = {"url": JSON_URL, "body": JSON_BODY, "signature": "y4cjRxNXBjrNUUtxSONGJ+gXdQI="}
    changed = [
        {**good, name: value[:place] + (b"~" if isinstance(value, bytes) else "~") + value[place + 1 :]}  # type: ignore[operator]
        for name, value in good.items()
        for place in range(0, len(value), 7)
    ]
    for each in changed:
        push = Push(url=each["url"], headers={"x-twilio-signature": each["signature"]}, body=each["body"])

        assert isinstance(hear(push, keys=KEYS, account=ACCOUNT), Distrusted)
    assert len(changed) > 40


@pytest.mark.parametrize(
    ("came_to", "signed_as"),
    [
        ("https://gw.example.com:8443/e", "https://gw.example.com/e"),
        ("https://gw.example.com:443/e", "https://gw.example.com/e"),
        ("https://gw.example.com/e", "https://gw.example.com:443/e"),
        ("http://gw.example.com/e", "http://gw.example.com:80/e"),
        ("http://[::1]:8080/e", "http://[::1]/e"),
        ("http://[::1]/e", "http://[::1]:80/e"),
    ],
)
def test_a_url_is_the_same_with_and_without_its_port(came_to: str, signed_as: str) -> None:
    """As it is for Twilio's own SDK."""
    url, other = with_hash(came_to, ENDS_TOO), with_hash(signed_as, ENDS_TOO)
    heard = signed(url, ENDS_TOO, signed_as=other)

    assert not isinstance(heard, Distrusted | Unsure)
    assert [(EXECUTION, State.COMPLETED)] == [(each.sighting.external_id, each.sighting.state) for each in heard]


@pytest.mark.parametrize(
    ("came_to", "signed_as"),
    [
        ("https://gw.example.com/e", "https://gw.example.com:8443/e"),
        ("https://gw.example.com/e", "http://gw.example.com/e"),
        ("https://gw.example.com/e", "https://gw.example.com.evil.example/e"),
        ("https://gw.example.com/e", "https://gw.example.com/e/"),
        ("https://gw.example.com/e?a=1", "https://gw.example.com/e?a=2"),
    ],
)
def test_another_url_is_another(came_to: str, signed_as: str) -> None:
    """Another port that is not left out, another scheme, host, path or query."""
    url, other = with_hash(came_to, ENDS_TOO), with_hash(signed_as, ENDS_TOO)

    assert isinstance(signed(url, ENDS_TOO, signed_as=other), Distrusted)


@pytest.mark.parametrize("body", BODIES)
def test_never_raises_whatever_the_body(body: bytes) -> None:
    """Signed as it is."""
    heard = signed(with_hash(SINK, body), body)

    assert heard == () or isinstance(heard, Unsure)


@pytest.mark.parametrize("good", [STARTS, ENDS_TOO])
def test_never_raises_when_one_part_of_a_good_body_is_odd(good: bytes) -> None:
    """What is believed of it can be stored, and a beginning never becomes an end."""
    count = 0
    for mutant in mutants(json.loads(good)):
        body = json.dumps(mutant).encode()
        heard = signed(with_hash(SINK, body), body)
        for each in () if isinstance(heard, Unsure | Distrusted) else heard:
            count += 1
            assert each.sighting.external_id == EXECUTION
            assert each.id.rpartition(" ")[2] in ("", "EZ1", "EZ2")
            assert good is ENDS_TOO or each.sighting.state is State.STARTED
    assert count > 50


TEXT = st.text() | st.text(st.characters(codec=None, categories=["Cs"])) | st.from_regex(r"https?://[^ ]*")


BASIC = st.builds("Basic {}".format, st.binary().map(lambda login: b64encode(login).decode()) | TEXT)


@given(
    url=TEXT | st.builds((SINK + "?bodySHA256={}").format, TEXT),
    around=st.fixed_dictionaries(
        {"x-twilio-signature": TEXT},
        optional={"authorization": TEXT | BASIC, "x-twilio-webhooks-signature-settings": TEXT},
    ),
    body=st.none() | st.binary(),
)
def test_never_raises_whatever_the_url_and_the_headers(url: str, around: dict[str, str], body: bytes | None) -> None:
    """Bytes that are no text included."""
    push = Push(url=url, headers=around, body=body)

    assert isinstance(hear(push, keys=KEYS, account=ACCOUNT), Distrusted)


def test_what_is_shown_of_a_push_tells_nothing() -> None:
    """Its body has somebody's number."""
    push: Any = Push(url=SINK, headers={"x-twilio-signature": "s1gnature"}, body=ENDS_TOO)

    assert not [each for each in ("s1gnature", "+1800", "contact") if each in repr(push)]
