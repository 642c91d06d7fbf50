"""What every adapter reads the same way: settings, JSON that may be anything, statuses that mean the same everywhere.

Nothing here raises because of what a backend answered, and nothing here is any one backend's.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import zip_longest
from typing import TYPE_CHECKING, Generic, NoReturn, TypeVar

from gateway.adapters.base import Barred, Blocked, Failed, Misconfigured, NotSent, Reply, Throttled, Unsure
from gateway.adapters.room import Room
from gateway.errors import Reason
from gateway.model import Cause, Notice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from gateway.adapters.base import Account, Exchange, Request, Trouble

R = TypeVar("R")

MAX_PAGES = 1_000  # so a backend whose pages never end cannot hold us; far more than a real one has
BELIEVED = range(2000, 3000)  # years of a clock that can be right; sums with them cannot overflow
PAGE_SIZE = 1_000  # rows at the most, where an adapter does not say
MAX_COUNT = 2**31 - 1  # a larger count is not one
MAX_RETRY_AFTER = 86_400  # seconds; a longer wait is a mistake, and backing off is better
LISTED_PATHS = 20  # as many as are told; beside them a count of all
URL_SIZE = 4_096  # characters; a longer one is not followed
QUOTED = 200  # characters of a backend's own words that are passed on
PATH_SIZE = 100  # characters of one path
NAME_SIZE = 255  # characters of a name

OK = range(200, 300)
REDIRECTED = range(300, 400)
JUDGED = range(300, 500)  # nothing was carried out, except perhaps at a 408
REJECTS_CREDENTIALS = frozenset({401, 403})
NOT_THE_API = frozenset({405, 407, 415, 421})  # this method and body are right, so it is another host, or a proxy
ONLY_OWN = frozenset({400, 401, 403, 404, 406, 451})  # a wrong host or a firewall answers these too, and 429
TIMED_OUT = 408
TOO_MANY = 429

STARTS_WAIT = " Nothing is lost; its starts wait."
SENT_AGAIN = (
    " The backend did not get it, and it is sent again. Check the backend's `url`; if its other starts are accepted,"
    " find out what the firewall refuses in the params or recipients of this one."
)

BLOCKS = {
    Reason.BACKEND_CREDENTIALS_REJECTED: "The backend rejects the configured credentials, or they may not do this:"
    " correct them in its settings, or give them the permission. Credentials are good for one server, region and"
    f" account only.{STARTS_WAIT}",
    Reason.BACKEND_SUSPENDED: "The backend has suspended or flagged the account: ask its support to re-enable it."
    f"{STARTS_WAIT}",
}

BARRED = (
    "What answered is not the backend's API: another host, or a firewall or proxy in front of it that refuses this"
    f" request.{SENT_AGAIN}"
)

STATUS_UNKNOWN = Notice(
    reason=Reason.STATUS_UNKNOWN,
    message="The backend shows a status that this gateway does not know; the state stays as it was.",
)

UNREAD_ROW = Unsure(reason="unreadable row", cause=Cause.UNREADABLE)
NO_NEXT = Unsure(reason="no telling which page is next", cause=Cause.UNREADABLE)

_PHONE_NUMBER = re.compile(r"\+?(?:\d[\s().-]?){5,}", re.ASCII)
_SECONDS = re.compile(r"\d{1,9}(\.\d{1,6})?", re.ASCII)
_PLAIN_KEY = re.compile(r"\w+", re.ASCII)
_ABSENT = object()


def credential(account: Account, name: str, meaning: str) -> str:
    """Returns a credential without surrounding space, such as the newline that ends a file; `meaning` is for people."""
    value = account.credentials.get(name, "").strip()
    if not value:
        raise Misconfigured(f"`{name}` is missing: set it to {meaning}.")
    if not value.isascii() or not value.isprintable() or " " in value:
        raise Misconfigured(f"`{name}` holds a space or another character that no credential has: set it to {meaning}.")
    return value


def value_in(body: bytes) -> object:
    """Returns what `body` is as JSON; None also if it is no JSON."""
    try:
        value: object = json.loads(body.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):  # not UTF-8, not JSON, NaN, a number of 5,000 digits; nested too deep
        return None
    return value


def object_in(body: bytes) -> dict[str, object]:
    """Returns the JSON object that `body` is, or an empty one if it is anything else."""
    value = value_in(body)
    return value if isinstance(value, dict) else {}


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)  # NaN and Infinity are Python's, not JSON's


def inside(value: object, *keys: str) -> object:
    """Returns what is under `keys`, one below the other; None if it is not there."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def text_of(value: object, form: re.Pattern[str]) -> str:
    """Returns `value` if it is a text that wholly has this form; empty otherwise."""
    return value if isinstance(value, str) and form.fullmatch(value) else ""


def count_of(value: object) -> int | None:
    """Returns `value` if it is a count: an integer, not negative, of 31 bits."""
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT
    return value if is_count and isinstance(value, int) else None


def contacts_of(value: object) -> int | None:
    """Returns `value` if it is a count; one of more than 31 bits, which the API cannot say, as the largest that it can.

    It must not be taken for unknown: what was counted last, often 0, would stand.
    """
    return count_of(min(value, MAX_COUNT) if isinstance(value, int) else value)


def moment_of(value: object) -> datetime | None:
    """Returns the ISO 8601 moment, with its offset or `Z`, in UTC; None if it is none of this millennium."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        moment = moment.astimezone(UTC) if moment and moment.tzinfo else None
    except (ValueError, OverflowError):
        return None
    return moment if moment and moment.year in BELIEVED else None


def date_of(headers: Mapping[str, str]) -> datetime | None:
    """Returns what time it was by the backend's clock when it answered, in whole seconds; None if it does not say."""
    try:
        moment = parsedate_to_datetime(headers.get("date", "")).astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        return None
    return moment if moment.year in BELIEVED else None


def name_of(value: object) -> str:
    """Returns a name that people gave, on one line; empty if it is none."""
    text = value[:NAME_SIZE] if isinstance(value, str) else ""
    return "".join(letter if letter.isprintable() else " " for letter in text).strip()


def altered(sent: object, echoed: object, path: str) -> Iterator[str]:
    """Yields the path of every value that differs, by JSON's idea of equal: 1 is 1.0, and neither is true."""
    if isinstance(sent, dict) and isinstance(echoed, dict):
        for key in {**sent, **echoed}:
            step = f".{key}" if _PLAIN_KEY.fullmatch(key) else f"[{json.dumps(key)}]"
            yield from altered(sent.get(key, _ABSENT), echoed.get(key, _ABSENT), path + step)
    elif isinstance(sent, list) and isinstance(echoed, list):
        for index, (ours, theirs) in enumerate(zip_longest(sent, echoed, fillvalue=_ABSENT)):
            yield from altered(ours, theirs, f"{path}[{index}]")
    elif isinstance(sent, bool) != isinstance(echoed, bool) or sent != echoed:
        yield path[:PATH_SIZE]


def listed(paths: Iterable[str]) -> dict[str, str]:
    """Writes paths as metadata: the first 20 in `fields`, comma-separated, and how many there are in `field_count`."""
    every = list(paths)
    return {"fields": ", ".join(every[:LISTED_PATHS]), "field_count": str(len(every))} if every else {}


def params_altered(sent: object, echoed: object) -> tuple[Notice, ...]:
    """Returns the warning that a backend shows other params than were sent, if it does; with paths, without values."""
    paths = list(altered(sent, echoed, "params"))
    message = "The backend changed the params: its flow sees other values than were sent at these paths."
    return (Notice(reason=Reason.PARAMS_ALTERED, message=message, metadata=listed(paths)),) if paths else ()


def quotation(words: object, private: Iterable[str]) -> str:
    """Returns a backend's own words on one line, without private addresses and what looks like a phone number."""
    text = words[: 10 * QUOTED] if isinstance(words, str) else ""
    hidden = {part for address in private for part in (address, address.partition(":")[2]) if len(part) > 2}  # noqa: PLR2004
    for part in sorted(hidden, key=len, reverse=True):
        text = text.replace(part, "…")
    return name_of(_PHONE_NUMBER.sub("…", text)[:QUOTED])


def sift(
    answer: Reply | Failed,
    *,
    is_own: Callable[[Reply], bool],
    is_suspended: Callable[[Reply], bool],
) -> Reply | Trouble:
    """Passes on what an adapter must judge itself: 2xx, and 4xx that refuse this request. The rest is trouble.

    `is_own` tells whether the body of an error is in the backend's own words, `is_suspended` whether it says that the
    account is.
    """
    if isinstance(answer, Reply) and answer.status == TOO_MANY and not is_own(answer):
        return _barred(answer)  # a proxy that counts by path or content says nothing of the account
    trouble = passing(answer)
    if trouble is not None:
        return trouble
    assert isinstance(answer, Reply), "one that failed is trouble"
    if answer.status in OK:
        return answer
    return _blocked(answer, is_own=is_own(answer), is_suspended=is_suspended(answer)) or answer


def passing(answer: Reply | Failed) -> Unsure | NotSent | Throttled | None:
    """Returns the trouble that may be over when the same is asked again, whichever backend it is; None if none."""
    if isinstance(answer, Failed):
        made = Unsure if answer.sent else NotSent
        return made(reason=answer.reason, cause=answer.cause)
    if answer.status == TOO_MANY:
        return Throttled(seconds=_retry_after(answer))
    if answer.status not in OK and (answer.status == TIMED_OUT or answer.status not in JUDGED):
        return Unsure(reason=f"HTTP {answer.status}", cause=Cause.SERVER_ERROR)
    return None


def _blocked(answer: Reply, *, is_own: bool, is_suspended: bool) -> Blocked | Barred | None:
    """Says why a 3xx or 4xx is nothing against this request, if it is not."""
    status, metadata = answer.status, {"http_status": str(answer.status)}
    reason = Reason.BACKEND_SUSPENDED if is_suspended else None
    if is_own and status in REJECTS_CREDENTIALS:
        reason = reason or Reason.BACKEND_CREDENTIALS_REJECTED
    if reason is not None:
        return Blocked(notice=Notice(reason=reason, message=BLOCKS[reason], metadata=metadata))
    if status in NOT_THE_API or status in REDIRECTED or (status in ONLY_OWN and not is_own):
        return _barred(answer)
    return None


def _barred(answer: Reply) -> Barred:
    metadata = {"http_status": str(answer.status)}
    return Barred(notice=Notice(reason=Reason.BACKEND_MISCONFIGURED, message=BARRED, metadata=metadata))


def unread(reply: Reply, what: str = "answer") -> Unsure:
    """Says that a reply does not show what was asked for; `what` names that for people."""
    if reply.status in OK:
        return Unsure(reason=f"unreadable {what}", cause=Cause.UNREADABLE)
    return Unsure(reason=f"HTTP {reply.status}", cause=Cause.SERVER_ERROR)


def foreign(what: str) -> Unsure:
    """Says that a success is about something else than was asked for."""
    return Unsure(reason=f"the answer is about another {what}", cause=Cause.UNREADABLE)


def _retry_after(reply: Reply) -> float | None:
    """Returns the header's seconds. A date is not believed: it is by a clock that is not ours."""
    value = reply.headers.get("retry-after", "").strip()
    seconds = float(value) if _SECONDS.fullmatch(value) else None
    return seconds if seconds is not None and seconds <= MAX_RETRY_AFTER else None


@dataclass(slots=True, kw_only=True)
class Scan(Generic[R]):
    """What the rows of a list say, page after page. `trouble` is set when its end was not reached.

    `unread` counts the rows that could not be read, `pages` those that were. `headers` are those of the first whole
    reply, `last` is the latest one; None if there was none.
    """

    rows: list[R] = field(default_factory=list)
    unread: int = 0
    pages: int = 0
    headers: Mapping[str, str] | None = None
    last: Reply | None = None
    trouble: Trouble | None = None


def scan(
    query: str,
    *,
    ask: Callable[[str], Request],
    judge: Callable[[Reply | Failed], Reply | Trouble],
    rows: str,
    read: Callable[[object], R | None],
    follow: Callable[[dict[str, object]], str | None],
    page_size: int = PAGE_SIZE,
    room: Room | None = None,
) -> Exchange[Scan[R]]:
    """Reads a list to its end, or as far as it goes.

    `ask` makes the request with a query, `rows` is the key of the rows, and `read` reads one; only what that returns
    is kept, because a list may be long. `follow` finds the query of the next page: empty if there is none, None if
    that cannot be told. Reading stops at a page of far more rows than `page_size`, and when `room`, which lists can
    share, is used up.
    """
    found: Scan[R] = Scan()
    room = Room() if room is None else room
    asked = {query}
    for _ in range(MAX_PAGES):
        answer = yield ask(query)
        if isinstance(answer, Reply):
            found.headers, found.last = found.headers or answer.headers, answer
        reply = judge(answer)
        if not isinstance(reply, Reply):
            found.trouble = reply
            return found
        body = _page(reply, rows, page_size, room)
        if isinstance(body, Unsure):
            found.trouble = body
            return found
        page = body[rows]
        assert isinstance(page, list), "it was looked at"
        found.pages += 1
        every = [read(row) for row in page]
        found.rows += [row for row in every if row is not None]
        found.unread += len(page) - sum(row is not None for row in every)
        following = follow(body)
        if following == "":
            return found
        if following is None or following in asked:
            found.trouble = NO_NEXT
            return found
        asked.add(following)
        query = following
    found.trouble = Unsure(reason=f"more than {MAX_PAGES} pages", cause=Cause.UNREADABLE)
    return found


def _page(reply: Reply, rows: str, page_size: int, room: Room) -> dict[str, object] | Unsure:
    """Makes sense of a page that there is room for."""
    if wrong := room.weigh(reply.body):
        return Unsure(reason=wrong, cause=Cause.UNREADABLE)
    body = object_in(reply.body) if reply.status in OK else {}
    page = body.get(rows)
    if not isinstance(page, list):
        return unread(reply, "list")
    if wrong := room.count(len(page), page_size):
        return Unsure(reason=wrong, cause=Cause.UNREADABLE)
    return body


def query_in(holder: object, name: str) -> str | None:
    """Returns the query of the URL of the next page, and never its host; empty for null, None if it is no such URL.

    Where nothing of that name is there, a page may be cut off: None as well. The last page says that it is the last.
    """
    if not isinstance(holder, dict) or name not in holder:
        return None
    url = holder[name]
    if url is None:
        return ""
    is_url = isinstance(url, str) and url.isascii() and len(url) <= URL_SIZE
    return url.partition("#")[0].partition("?")[2] or None if is_url and isinstance(url, str) else None
