"""The starts that exist on both servers under test, and the watches that are held on them.

Starts change by name: `crowd-15` is fifteen that change in one commit, `single-7` is one that changes alone.
"""

from __future__ import annotations

from startflow.v1 import start_flow_service_pb2 as pb

FLOW = "f5901b62-ba76-4003-9c62-72fdacc1b7b7"
TENANT = "default"
LABELS = {"campaign": "spring", "channel": "whatsapp"}
OTHER_LABELS = {"campaign": "autumn"}  # of no start
CROWDS = (10, 15)
SINGLES = 100  # starts that change alone
ID_LENGTH = 26  # of real ids
EXTERNAL_ID_LENGTH = 36  # of RapidPro's


def ids_of(what: str) -> list[str]:
    """Returns the ids of the starts that change under a name."""
    kind, number = what.split("-")
    return [start_id(int(number))] if kind == "single" else [crowd_id(int(number), n) for n in range(int(number))]


def start_id(number: int) -> str:
    """Returns the id of a start that is watched, and perhaps changes, alone."""
    return f"single{number:0{ID_LENGTH - 6}}"


def crowd_id(size: int, number: int) -> str:
    """Returns the id of one start of a crowd."""
    return f"crowd{size:03}s{number:0{ID_LENGTH - 9}}"


def external_id(start: str) -> str:
    """Returns what the backend calls a start."""
    return start.rjust(EXTERNAL_ID_LENGTH, "e")


def watch(*ids: str, labels: dict[str, str] | None = None, after: int) -> bytes:
    """Builds the request of a watch that begins where everything has been built up."""
    chosen = pb.FlowStartFilter(labels=labels or {})
    return pb.WatchFlowStartsRequest(ids=ids, filter=chosen, after_revision=after).SerializeToString()


def shared(selection: str, crowd: int, after: int) -> list[bytes]:
    """Builds the one request of watchers that all want the same: everything, what a label says, or some ids."""
    if selection == "label":
        return [watch(labels=LABELS, after=after)]
    if selection == "id":
        return [watch(start_id(0), *ids_of(f"crowd-{crowd}"), after=after)]
    return [watch(after=after)]


def one_by_one(count: int, after: int) -> list[bytes]:
    """Builds requests of watchers that want one start each, each another."""
    return [watch(start_id(number), after=after) for number in range(count)]


def few_of_many(selection: str, few: int, many: int, after: int) -> list[bytes]:
    """Builds requests of many watchers of which a few want the start 0."""
    if selection == "label":
        wanted, other = watch(labels=LABELS, after=after), watch(labels=OTHER_LABELS, after=after)
        return [wanted] * few + [other] * (many - few)
    others = [watch(start_id(number), after=after) for number in range(1, many - few + 1)]
    return [watch(start_id(0), after=after)] * few + others
