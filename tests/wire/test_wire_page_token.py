import base64
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import InvalidRequest
from gateway.wire import Position, read_page_token, write_page_token
from gateway.wire.page_token import VERSION, _checksum

counts = st.integers(-1, 2**63 - 1)
ids = st.text("0123456789abcdefghijklmnopqrstuvwxyz-_", max_size=30)
positions: st.SearchStrategy[Position] = counts | st.lists(counts | ids, max_size=4)


def forged(place: bytes, scope: bytes = b"list") -> str:
    """Makes a token of any position, as anybody can."""
    return base64.urlsafe_b64encode(VERSION + _checksum(scope, place) + place).decode().rstrip("=")


GOOD = write_page_token(b"list", 42)

# fmt: off
REFUSED = [
    ("garbage",                "garbage"),
    ("not ASCII",              "é"),
    ("not base64",             GOOD[:-1] + "!"),
    ("cut short",              GOOD[:-2]),
    ("one character only",     "A"),
    ("longer",                 GOOD + "AAAA"),
    ("of another scope",       write_page_token(b"other", 42)),
    ("of another version",     base64.urlsafe_b64encode(b"\x02" + base64.urlsafe_b64decode(GOOD + "=" * (-len(GOOD) % 4))[1:]).decode().rstrip("=")),  # noqa: E501 - one row
    ("far too long",           "A" * 1_000_000),
    ("forged: not JSON",       forged(b"{")),
    ("forged: not UTF-8",      forged(b"\xff\xfe\xfd")),
    ("forged: an object",      forged(b"{}")),
    ("forged: a bool",         forged(b"true")),
    ("forged: a float",        forged(b"1.5")),
    ("forged: text",           forged(b'"x"')),
    ("forged: too large",      forged(b"9223372036854775808")),
    ("forged: too many digits", forged(b"9" * 700)),
    ("forged: nested",         forged(b"[" * 700)),
    ("forged: a bool inside",  forged(b"[1,true]")),
    ("forged: nothing",        forged(b"")),
    ("forged: negative",       forged(b"-2")),
    ("forged: half a character", forged(b'[1,1,"\\ud800",1]')),
    ("forged: a NUL",          forged(b'[1,1,"\\u0000",1]')),
    ("forged: long text",      forged(b'[1,1,"%s",1]' % (b"a" * 500))),
]
# fmt: on


@settings(deadline=None)
@given(positions, st.binary(max_size=20))
def test_a_position_comes_back_in_its_own_scope_only(position: Position, scope: bytes) -> None:
    """The token is safe in a URL, and means nothing in another list."""
    token = write_page_token(scope, position)

    assert re.fullmatch(r"[A-Za-z0-9_-]+", token)
    assert position == read_page_token(token, scope)
    with pytest.raises(InvalidRequest):
        read_page_token(token, scope + b"x")


@pytest.mark.parametrize(("label", "token"), REFUSED, ids=[label for label, _ in REFUSED])
def test_a_token_that_is_not_of_this_list_is_refused(label: str, token: str) -> None:
    """The caller is told the field and what to do, and the token is not repeated."""
    with pytest.raises(InvalidRequest) as refused:
        read_page_token(token, b"list")

    assert [violation.field for violation in refused.value.violations] == ["page_token"], label
    assert token not in refused.value.message.split()


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_refused_or_none(token: str) -> None:
    """Nothing but `InvalidRequest` comes out; only the empty token is the first page."""
    if token:
        with pytest.raises(InvalidRequest):
            read_page_token(token, b"list")
    else:
        assert read_page_token(token, b"list") is None


def test_a_scope_may_be_text() -> None:
    """Text and its UTF-8 are one scope."""
    assert read_page_token(write_page_token("Ä", [1, "x"]), "Ä".encode()) == [1, "x"]


def test_a_token_never_changes() -> None:
    """A caller may hold one across an upgrade."""
    assert write_page_token(b"list", [7, "a"]) == "ASSZKV7VgxRWWzcsImEiXQ"
