"""Who is one recipient to RapidPro, however it is spelled, and whom a start of several requests might reach twice.

What RapidPro does to a URN before it looks for the contact (`URN.normalize` in its `temba/contacts/models.py`, the same
in v9 and v26; `urns` in nyaruka/gocommon):

1. `?query` and `#display` are no part of who it is.
2. `tel:` loses everything but letters and digits, and is read by libphonenumber with the workspace's country: a
   possible number is stored as E.164. Eleven digits that do not begin with 0 are a whole number without a plus, too.
3. `twitter:` and `mailto:` are in lower case, `twitter:` without its `@`; other schemes are compared as they are.
4. A group's name is compared whatever its case. A contact may be named by a UUID or by a URN that it has.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

import phonenumbers

from gateway.errors import Reason, Violation
from gateway.model import RecipientKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.model import Recipients

PER_KIND = 100  # groups, contacts and URNs each, in one request
WHATSAPP_FORM = re.compile(r"whatsapp:\+?[0-9]+")
URN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):([^?#]+)")
WHOLE = 11  # digits: as many are a number with its country code
LONGEST_TEXT = 32  # letters and digits; what is longer is no number, and libphonenumber takes long to say so
NUMBERS = 20_000  # that are kept as they were read: a request's are read twice, and libphonenumber takes 0.1 ms for one
LOCAL, LONGEST = 7, 15  # digits that a number without country code has at the least, and any number at the most

_unspoken = re.compile(r"[^0-9a-z]")
_spreadsheet = ("e+11", "e+12")  # what a spreadsheet makes of a number


def same_as(kind: RecipientKind, recipient: str, country: str = "") -> str:
    """Returns the canonical form of a recipient. Without a `country`, a number without its code stays as it is."""
    if kind is RecipientKind.GROUP:
        return f"group {recipient.lower()}"
    urn = URN.match(recipient)
    if urn is None:
        return f"contact {recipient.lower()}"
    scheme, path = urn[1].lower(), urn[2].strip()
    if scheme == "tel":
        path = _number(path, country)
    elif scheme == "twitter":
        path = path.lower().removeprefix("@")
    elif scheme == "mailto":
        path = path.lower()
    elif scheme == "whatsapp":
        path = path.removeprefix("+")
        path = path[:2].upper() + path[2:] if path[2:3] == "." else path  # a business-scoped id begins with a country
    return f"{scheme}:{path}"


@lru_cache(maxsize=NUMBERS)
def _number(text: str, country: str) -> str:
    """Writes a possible number in E.164, and any other without punctuation."""
    text = text.lower()
    if text.endswith(_spreadsheet):
        text = text[:-4].replace(".", "")
    plain = _unspoken.sub("", text)
    if len(plain) > LONGEST_TEXT:
        return plain
    if any(character.isalnum() and not character.isascii() for character in text):
        return text  # what is left out of it would make one of two people
    is_whole = text.startswith("+") or (len(plain) >= WHOLE and not plain.startswith("0"))
    try:
        number = phonenumbers.parse(f"+{plain}" if is_whole else plain, country or None)
    except phonenumbers.NumberParseException:
        return plain
    if phonenumbers.is_possible_number(number):
        return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    return plain


def spelled(recipient: str) -> str:
    """Writes a URN as RapidPro does: a `whatsapp:` number has no plus. What is no number is sent as it is."""
    return recipient.replace("+", "", 1) if WHATSAPP_FORM.fullmatch(recipient) else recipient


def sent(recipients: Recipients) -> dict[str, list[str]]:
    """Returns the recipients as they are sent."""
    return {
        "groups": list(recipients.groups),
        "contacts": [spelled(contact) for contact in recipients.contacts],
        "urns": [spelled(urn) for urn in recipients.urns],
    }


def overlap(recipients: Recipients, country: str = "") -> Iterator[Violation]:
    """Finds what could reach somebody twice: RapidPro removes duplicates within one request only.

    The recipients are distinct already. While the `country` is not known, two numbers may still be one.
    """
    named = {field: count for field in ("urns", "contacts", "groups") if (count := len(getattr(recipients, field)))}
    several = max(named.values(), default=0) > PER_KIND
    if several and (len(named) > 1 or "groups" in named):
        yield Violation(
            field="groups" if "groups" in named else "contacts",
            description=f"with more than {PER_KIND} recipients of a kind, a start takes several RapidPro requests, and"
            " anyone named in two of them would be started twice. Send the URNs as one start, the contacts as"
            f" another, and the groups in starts of at most {PER_KIND}.",
            reason=Reason.RECIPIENTS_MAY_OVERLAP,
        )
    elif several and len({URN.match(contact) is None for contact in recipients.contacts}) > 1:
        yield Violation(
            field="contacts",
            description=f"with more than {PER_KIND} contacts, a start takes several RapidPro requests, and a contact"
            " that is named by its UUID in one and by a URN in another would be started twice. Name all by UUID, or"
            " send the URNs as another start.",
            reason=Reason.RECIPIENTS_MAY_OVERLAP,
        )
    if not country and len(recipients.urns) + len(recipients.contacts) > 1:
        yield from _perhaps_one(recipients)


def _perhaps_one(recipients: Recipients) -> Iterator[Violation]:
    """Finds numbers without a country code that end another one which RapidPro would not compare with them."""
    numbers = [
        *((f"urns[{n}]", f"urns {n // PER_KIND}", urn) for n, urn in enumerate(recipients.urns)),
        *((f"contacts[{n}]", f"contacts {n}", contact) for n, contact in enumerate(recipients.contacts)),
    ]
    local: list[tuple[str, str, str]] = []
    ends: dict[str, dict[str, str]] = {}  # of numbers: in which of what is compared each was, and the first field there
    for field, place, recipient in numbers:
        form = same_as(RecipientKind.URN, recipient)
        digits = form.removeprefix("tel:").removeprefix("+").lstrip("0")
        if not form.startswith("tel:") or not digits.isdecimal() or not LOCAL <= len(digits) <= LONGEST:
            continue
        if not form.startswith("tel:+"):
            local.append((field, place, digits))
        for size in range(LOCAL, len(digits) + 1):
            ends.setdefault(digits[-size:], {}).setdefault(place, field)
    for field, place, digits in local:
        other = next((first for where, first in ends[digits].items() if where != place), None)
        if other is not None:
            yield Violation(
                field=field,
                description=f"may be the same number as {other}, and would be started twice: by which country the"
                " workspace completes numbers is not known. Write both with a plus and their country code, such as"
                " `tel:+12065551212`.",
                reason=Reason.RECIPIENTS_MAY_OVERLAP,
            )
