"""Which person an address is: the one form in which a backend keeps what callers spell in many ways.

Written from what RapidPro's `URN.normalize` does, and apart from the gateway, which is judged by it.
"""

from __future__ import annotations

import re

import phonenumbers

WITH_COUNTRY = 11  # digits: as many are a number with its country, plus or not
FOLDED = frozenset({"twitter", "mailto"})  # schemes whose paths have no case


def canonical(urn: str, country: str = "") -> str:
    """Writes a URN as the backend keeps it, telephone numbers by the country of the workspace."""
    scheme, _, path = urn.partition(":")
    scheme = scheme.lower()
    path = re.split(r"[?#]", path, maxsplit=1)[0].strip()  # the rest is for display
    if scheme == "tel":
        path = telephone(path, country)
    elif scheme == "whatsapp":
        path = path.removeprefix("+")
    elif scheme in FOLDED:
        path = path.lower().removeprefix("@")
    return f"{scheme}:{path}"


def telephone(text: str, country: str) -> str:
    """Writes a number that can be one in E.164, any other without its punctuation."""
    plain = re.sub(r"[^0-9a-z]", "", text.lower())
    is_whole = text.startswith("+") or (len(plain) >= WITH_COUNTRY and plain[0] != "0")
    try:
        number = phonenumbers.parse(f"+{plain}" if is_whole else plain, country or None)
    except phonenumbers.NumberParseException:
        return plain
    is_one = phonenumbers.is_possible_number(number)
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164) if is_one else plain
