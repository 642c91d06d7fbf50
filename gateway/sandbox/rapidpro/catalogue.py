"""What there is in the sandbox's RapidPro workspace: flows, contacts, groups."""

from __future__ import annotations

import re
from dataclasses import dataclass

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """A flow of the sandbox's workspace."""

    uuid: str
    name: str
    archived: bool = False


FLOWS = {
    flow.uuid: flow
    for flow in (
        Flow(uuid="f5901b62-ba76-4003-9c62-72fdacc1b7b7", name="Thrift Shop"),
        Flow(uuid="309f8a4b-b8ea-404f-84a9-656780bb1d7d", name="Registration"),
        Flow(uuid="2f709286-11fe-41e1-84fe-40b01018a1ea", name="Archived Flow", archived=True),
    )
}
CONTACTS = {
    "f5901b62-ba76-4003-9c62-fjjajdsi15553": "Wanz",
    "f5901b62-ba76-4003-9c62-72fdacc15515": "Wanz",
    "f1ea776e-c923-4c1a-b3a3-0c466932b2cc": "Wanz",
}
CONTACTS_BY_URN = {
    "tel:+250788123123": "f5901b62-ba76-4003-9c62-72fdacc15515",
    "tel:+12065551313": "f1ea776e-c923-4c1a-b3a3-0c466932b2cc",
}
GROUPS = {
    "c24813d2-3bc7-4467-8916-255b6525c6be": "Ryan & Macklemore",
    "f5901b62-ba76-4003-9c62-72fdacc1b7b7": "Ryan & Macklemore",
    "f5901b62-ba76-4003-9c62-72fdacc15515": "Ryan & Macklemore",
}
GROUPS_BY_NAME = {"ryan & macklemore": "c24813d2-3bc7-4467-8916-255b6525c6be"}


def _exists(uuid: str) -> bool:
    return UUID.fullmatch(uuid) is not None and not uuid.startswith("00000000")


def find_contact(text: str) -> tuple[str, str] | None:
    """Finds a contact by its UUID or URN. Any well-formed UUID exists, but for those that begin with eight zeros."""
    uuid = CONTACTS_BY_URN.get(text, text)
    if uuid in CONTACTS or _exists(uuid):
        return uuid, CONTACTS.get(uuid, f"Contact {uuid[:8]}")
    return None


def find_group(text: str) -> tuple[str, str] | None:
    """Finds a group by its UUID, as with contacts, or by its name."""
    uuid = GROUPS_BY_NAME.get(text.lower(), text)
    if uuid in GROUPS or _exists(uuid):
        return uuid, GROUPS.get(uuid, f"Group {uuid[:8]}")
    return None
