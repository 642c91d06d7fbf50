"""Puts the sandbox's own flows, contacts and groups in place of the captured ones, and compares answers."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gateway.sandbox import SANDBOX_RAPIDPRO_AGENT_TOKEN, SANDBOX_RAPIDPRO_EMAIL, SANDBOX_RAPIDPRO_TOKEN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.captures.captured import Captured

THRIFT_SHOP, REGISTRATION = "f5901b62-ba76-4003-9c62-72fdacc1b7b7", "309f8a4b-b8ea-404f-84a9-656780bb1d7d"
ARCHIVED, GROUP = "2f709286-11fe-41e1-84fe-40b01018a1ea", "c24813d2-3bc7-4467-8916-255b6525c6be"
BY_URN = "f5901b62-ba76-4003-9c62-72fdacc15515"
Pairs = list[tuple[str, str]]

OURS: dict[str, Pairs] = {
    "new": [
        ("39edfd15-ba4d-46d8-b730-05864ab5985d", THRIFT_SHOP),
        ("dfbc966f-c946-4511-86c2-7d1b2f7cb24a", THRIFT_SHOP),
        ("cf8e0a29-e964-4428-8698-7cdcf2b9f322", REGISTRATION),
        ("3aac7c74-52ec-4ac0-b81e-9451bcafacf6", GROUP),
    ],
    "old": [
        ("3e8f4634-6e03-4f9f-b899-47dc0e3b2b00", THRIFT_SHOP),
        ("985fafec-4913-48b6-bb0d-6ca72633e1cb", REGISTRATION),
        ("4bb18495-de3e-4551-b214-ddab81e94cc2", ARCHIVED),
        ("8cefbb06-4c62-4e96-8acc-9d5d7b876196", GROUP),
    ],
}
"""The captured workspace's flows and groups, and the sandbox's that stand for them."""

STEERS: Pairs = [
    ('"sim":"ok"', '"sandbox":"complete"'), ('"sim": "ok"', '"sandbox": "complete"'),
    ('"sim":"noop"', '"sandbox":"nobody"'), ('"sim": "noop"', '"sandbox": "nobody"'),
    ('"sim":"', '"sandbox":"'), ('"sim": "', '"sandbox": "'), ('"mothers"', '"ryan & macklemore"'),
]  # fmt: skip
"""The words that steer a start, there and here; and a group's name."""

OTHERS: Pairs = [
    (THRIFT_SHOP, "<flow>"), (REGISTRATION, THRIFT_SHOP), ("<flow>", REGISTRATION),
    ("7f45a6cb-4bc9-4e4d-ab06-6744898d4e47", "11aa22bb-4bc9-4e4d-ab06-6744898d4e47"),
    ("ae3a0b32-ba9c-499b-a017-186422af20d9", "33cc44dd-ba9c-499b-a017-186422af20d9"),
    ("tel:+250788123123", "tel:+12065551313"), (BY_URN, "f1ea776e-c923-4c1a-b3a3-0c466932b2cc"),
    ("788", "733"), ("00000000-0000-4000", "00000000-1111-4000"), ("joe", "ann"), ("example.test", "example.org"),
    ("foo:", "bar:"), ('"zzz"', '"yyy"'), ("xyz", "uvw"), ('"maybe"', '"perhaps"'), ("gw_request_id", "other_key_too"),
]  # fmt: skip
"""Other values of the same kind: the second time round."""

FOREIGN = {"post_400_contact_other_org": "contacts", "post_400_group_other_org": "groups",
           "post_400_deleted_contact": "contacts"}  # fmt: skip
TOKENS = {
    "TOKEN_AGENT": SANDBOX_RAPIDPRO_AGENT_TOKEN,
    "EMAIL_AND_TOKEN_ADMIN": b64encode(f"{SANDBOX_RAPIDPRO_EMAIL}:{SANDBOX_RAPIDPRO_TOKEN}".encode()).decode(),
}
STAND_INS = {"auth_role_lost": f"Token {SANDBOX_RAPIDPRO_AGENT_TOKEN}", "auth_token_deactivated": "Token " + "0" * 40}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z")


def translated(captured: Captured, generation: str, more: Pairs) -> Captured:
    """Puts the sandbox's values in place of the captured ones, in request and answer alike."""
    pairs = OURS[generation] + STEERS
    if captured.name in FOREIGN:  # whoever begins with eight zeros does not exist in the sandbox
        foreign = json.loads(captured.body or "")[FOREIGN[captured.name]][0]
        pairs = [*pairs, (foreign, f"00000000{foreign[8:]}")]
    if captured.name == "post_201_contact_by_urn":
        known = json.loads(captured.answer)["contacts"][0]["uuid"]
        pairs = [*pairs, (known, BY_URN)]
    auth = STAND_INS.get(captured.name) or re.sub(
        "[A-Z]+(_[A-Z]+)+", lambda found: TOKENS.get(found[0], SANDBOX_RAPIDPRO_TOKEN), captured.auth
    )
    return replace(
        captured,
        path=swapped(captured.path, [*pairs, *more]),
        auth=auth,
        body=None if captured.body is None else swapped(captured.body, [*pairs, *more]),
        answer=swapped(captured.answer, [*pairs, *more]),
    )


def swapped(text: str, pairs: Sequence[tuple[str, str]]) -> str:
    """Replaces each pair's first by its second, in turn."""
    for old, new in pairs:
        text = text.replace(old, new)
    return text


def further_on(captured: Captured) -> Captured:
    """Moves the bad URNs of a request one place on, if that is what was refused."""
    if captured.status != 400 or not captured.answer.startswith('{"urns":{') or captured.body is None:
        return captured
    body, answer = json.loads(captured.body), json.loads(captured.answer)
    body["urns"] = ["tel:+12065550000", *body["urns"]]
    answer["urns"] = {str(int(index) + 1): words for index, words in answer["urns"].items()}
    return replace(captured, body=json.dumps(body), answer=json.dumps(answer, separators=(",", ":")))


def shape(text: str) -> str:
    """Leaves out of an answer what differs from server to server: ids, times, names, sizes of groups.

    What stays: the order and the types of all keys, how numbers are written, every other value.
    """
    try:
        document = json.loads(text, parse_float=lambda digits: f"float {digits}")
    except ValueError:
        return text
    if isinstance(document, dict) and "timezone" in document:
        return json.dumps({key: _type(value) for key, value in document.items()})
    rows = document.get("results", [document]) if isinstance(document, dict) else []
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, dict) and "uuid" in row:
            _level(row)
    for name in ("next", "previous"):
        if isinstance(document, dict) and isinstance(document.get(name), str):
            document[name] = re.sub(r"//[^/]+", "//host", document[name])
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def _type(value: Any) -> str:
    return type(value).__name__


def _level(row: dict[str, Any]) -> None:
    fresh = row.get("status") == "pending" and row["created_on"][:19] == row["modified_on"][:19]
    same = row["created_on"] == row["modified_on"]
    row["uuid"] = f"{_type(row['uuid'])} of {len(row['uuid'])}"
    for name in ("id", "name", "expires"):
        if name in row:
            row[name] = _type(row[name])
    for name in ("created_on", "modified_on"):
        found = TIME.fullmatch(row[name])
        row[name] = found and ("micros" if found[1] else "whole")
        if name == "created_on" or "type" in row:
            row[name] = bool(found)
    if fresh:
        row["modified_on"] = "as created" if same else "just after"
    for name in ("groups", "contacts"):
        for named in row.get(name, []):
            named["name"] = _type(named["name"])
        row.get(name, []).sort(key=lambda named: str(named["uuid"]))
    if "flow" in row:
        row["flow"]["name"] = _type(row["flow"]["name"])
    if "progress" in row:
        row["progress"] = {name: min(number, 1) for name, number in row["progress"].items()}
