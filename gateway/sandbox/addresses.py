"""Which person an address is: the one form in which a backend keeps what callers spell in many ways."""

from __future__ import annotations

import re


def canonical(urn: str, country: str = "") -> str:
    """Writes a URN as the backend keeps it: telephone numbers as `tel:+` and digits, all else in lower case."""
    scheme, _, path = urn.partition(":")
    path = path.partition("#")[0].strip()  # the rest is for display
    scheme = scheme.lower()
    if scheme == "tel":
        return f"tel:{telephone(path, country)}"
    if scheme == "whatsapp" and re.fullmatch(r"\+?[0-9]+", path):
        return f"whatsapp:{path.removeprefix('+')}"
    return f"{scheme}:{path.lower()}" if scheme in FOLDED else f"{scheme}:{path}"


FOLDED = frozenset({"twitter", "mailto"})  # schemes whose paths have no case


def telephone(text: str, country: str) -> str:
    """Writes a telephone number with its plus and country, where it has one or the country is known."""
    digits = re.sub(r"[^0-9]", "", text)
    if text.lstrip().startswith("+") or country not in NATIONAL:
        return f"+{digits}" if digits else text
    prefix, trunk, length = NATIONAL[country]
    national = digits.removeprefix(trunk)
    return f"+{prefix}{national}" if len(national) == length else f"+{digits}"


# Country: its prefix, what is dialled before a number within it, and how long a number is.
NATIONAL = {
    "US": ("1", "1", 10),
    "CA": ("1", "1", 10),
    "RW": ("250", "0", 9),
    "ZA": ("27", "0", 9),
    "GB": ("44", "0", 10),
}
