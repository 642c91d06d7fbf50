"""Addresses as Twilio has them: which there are, how they are written, and which sender reaches whom.

A phone number has no prefix; `whatsapp:`, `rcs:`, `messenger:` and `client:` keep theirs; a SIP address is
`name@company.com`. What may be an address is sent: Twilio judges it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gateway.errors import Reason, Violation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MESSAGING_SERVICE = re.compile(r"MG[0-9a-fA-F]{32}")

NUMBER = re.compile(r"\+[1-9][0-9]{1,14}")
LONG_NUMBER = re.compile(r"[0-9]{9,15}")  # no short code, and not written as a number
NAME = re.compile(r"\S{1,256}")
WHATSAPP = re.compile(rf"{NUMBER.pattern}|(?![0-9+]+$)[^\s+]{{1,256}}")  # a number, or an id such as `US.1349`
SCHEMES = {
    "tel": (NUMBER, "`tel:` and a number in E.164 form, such as `tel:+12065551212`"),
    "whatsapp": (WHATSAPP, "`whatsapp:` and a number in E.164 form, such as `whatsapp:+12065551212`, or an id"),
    "rcs": (WHATSAPP, "`rcs:` and a number in E.164 form, such as `rcs:+12065551212`, or an id"),
    "messenger": (NAME, "`messenger:` and an id, without spaces"),
    "sip": (re.compile(r"[^\s@:]+@[^\s@]+"), "`sip:` and an address such as `sip:name@example.com`"),
    "client": (NAME, "`client:` and the name of a client, without spaces"),
}
"""The schemes of Twilio's addresses, the form of each one's path, and words for it."""

WRITTEN_BARE = frozenset({"tel", "sip"})
CALLS = frozenset({"sip", "client"})  # what a Messaging Service cannot reach
PUNCTUATION = re.compile(r"[\s().-]")  # of numbers, which Studio cleans


def written(urn: str) -> str:
    """Writes a URN as Twilio does."""
    scheme, _, path = urn.partition(":")
    return path if scheme in WRITTEN_BARE else urn


def canonical(urn: str) -> str:
    """Writes a URN so that two of one address are the same: numbers without punctuation, SIP hosts in lower case."""
    scheme, _, path = urn.partition(":")
    if scheme == "sip":
        name, _, host = path.rpartition("@")
        return f"{scheme}:{name}@{host.lower()}"
    number = PUNCTUATION.sub("", path)
    return f"{scheme}:{number}" if number.removeprefix("+").isdecimal() else urn


def sender_for(sender: str, to: str) -> str:
    """Writes the sender on the recipient's channel."""
    address = written(sender)
    return f"whatsapp:{address}" if to.startswith("whatsapp:") and NUMBER.fullmatch(address) else address


def is_same(shown: object, sent: str) -> bool:
    """Whether Studio shows the address that was sent, which it may have cleaned."""
    return isinstance(shown, str) and _cleaned(shown) == _cleaned(sent)


def number_in(shown: object) -> str:
    """Returns the digits of an address that Studio shows, if it is a phone number; else nothing."""
    cleaned = _cleaned(shown) if isinstance(shown, str) else ""
    return cleaned if cleaned.isdecimal() and cleaned.isascii() else ""


def _cleaned(address: str) -> str:
    bare = address.removeprefix("whatsapp:").removeprefix("tel:").removeprefix("sip:")
    number = PUNCTUATION.sub("", bare).removeprefix("+")
    return number if number.isdecimal() else bare.casefold()


def bad_urns(urns: Sequence[str]) -> Iterator[Violation]:
    """Finds the URNs that are no addresses of Twilio's."""
    for index, urn in enumerate(urns):
        scheme, _, path = urn.partition(":")
        if scheme not in SCHEMES:
            description = f"is of a scheme that Twilio does not have: use one of {', '.join(SCHEMES)}."
            reason = Reason.UNSUPPORTED_BY_BACKEND
            yield Violation(field=f"urns[{index}]", description=description, reason=reason)
        elif not SCHEMES[scheme][0].fullmatch(path):
            yield Violation(field=f"urns[{index}]", description=f"must be {SCHEMES[scheme][1]}.")


def bad_sender(sender: str, urns: Sequence[str]) -> Iterator[Violation]:
    """Finds a sender that is missing, no address, or of a channel that does not reach every recipient."""
    schemes = [urn.partition(":")[0] for urn in urns]
    if not sender:
        wrong = "is needed by Twilio: set it to a number of the account, or configure a default for the backend."
    else:
        wrong = wrong_sender(sender) or _wrong_channel(sender, schemes)
    if wrong:
        yield Violation(field="sender", description=wrong)


def wrong_sender(sender: str) -> str:
    """Says what is wrong with a sender in itself; empty if nothing is. Short codes and names are Twilio's to judge."""
    scheme, colon, path = sender.partition(":")
    if colon and (scheme not in SCHEMES or not SCHEMES[scheme][0].fullmatch(path)):
        return "must be a number such as `+18007654321`, an address as in `urns`, or a Messaging Service `MG…`."
    if LONG_NUMBER.fullmatch(sender):
        return f"must begin with + and the country code, such as `+{sender}`, if it is no short code."
    return ""


def _wrong_channel(sender: str, schemes: Sequence[str]) -> str:
    """Says what is wrong with a sender for recipients of these schemes; empty if nothing is."""
    for index, scheme in enumerate(schemes):
        if MESSAGING_SERVICE.fullmatch(sender):
            if scheme in CALLS:
                return f"is a Messaging Service, which calls nobody, and urns[{index}] is called: send that separately."
            continue
        if sender.startswith("whatsapp:") and scheme != "whatsapp":
            return f"is on WhatsApp, and urns[{index}] is not: send that separately, with another sender."
        if scheme == "whatsapp" and not (sender.startswith("whatsapp:") or NUMBER.fullmatch(written(sender))):
            return f"must be a WhatsApp number, such as `whatsapp:+18007654321`, for urns[{index}]."
    return ""
