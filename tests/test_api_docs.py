"""docs/api.md says all that the .proto says, and its links lead somewhere."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from google.protobuf import json_format, message_factory
from startflow.v1 import start_flow_service_pb2

from docs import api

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor, EnumDescriptor, MethodDescriptor

FILE = start_flow_service_pb2.DESCRIPTOR
PAGE = Path(api.__file__).with_suffix(".md")
TEXT = PAGE.read_text(encoding="utf-8")
METHODS = [method for service in FILE.services_by_name.values() for method in service.methods]
TYPES = list(api.types(FILE.message_types_by_name, FILE.enum_types_by_name))


def heading_anchors() -> list[str]:
    """Names the headings as GitHub does: lower case, no punctuation, hyphens for spaces, a number for the second."""
    seen: Counter[str] = Counter()
    anchors = []
    for heading in re.findall(r"^#+ (.*)$", TEXT, flags=re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        anchors.append(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return anchors


def section(name: str) -> str:
    """Returns what stands below a heading, up to the next one."""
    found = re.search(rf"^#+ {re.escape(name)}\n(.*?)(?=^#|\Z)", TEXT, flags=re.MULTILINE | re.DOTALL)
    assert found, f"docs/api.md has no section {name}"
    return found[1]


def first_cells(name: str) -> list[str]:
    """Returns the first column of a section's table, its head left out."""
    rows = re.findall(r"^\| (?:↳ )?`(\w+)` \|.*\|$", section(name), flags=re.MULTILINE)
    assert section(name).count("\n| ") == len(rows) + 2 * bool(rows)  # the head and the rule below it
    return rows


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_rpc_is_described(method: MethodDescriptor) -> None:
    """An RPC is in the table and has a section with its request, its response, whether it streams and an example."""
    text = section(method.name)
    streams = "a **stream** of " if method.server_streaming else ""

    assert f"| [`{method.name}`](#{method.name.lower()}) |" in section("StartFlowService")
    assert f"Takes {api.link(method.input_type.name)}, returns {streams}{api.link(method.output_type.name)}." in text


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_example_is_a_request(method: MethodDescriptor) -> None:
    """What is passed to grpcurl is JSON of the right message, and names the RPC."""
    (line,) = re.findall(r"^grpcurl .*$", section(method.name), flags=re.MULTILINE)
    *_, request, address, name = shlex.split(line)
    message = json_format.Parse(request, message_factory.GetMessageClass(method.input_type)())

    assert (api.ADDRESS, method.full_name) == (address, name.replace("/", "."))
    assert message.IsInitialized()


@pytest.mark.parametrize("declared", TYPES, ids=lambda declared: declared.full_name)
def test_every_message_and_enum_is_described(declared: Descriptor | EnumDescriptor) -> None:
    """A section has a row for every field, oneof and value, in the order of the file, and none more."""
    if hasattr(declared, "values"):
        expected = [value.name for value in declared.values]
    else:
        expected = [field.name for field in declared.fields]
        for oneof in declared.oneofs:
            if not oneof.name.startswith("_"):
                expected.insert(expected.index(oneof.fields[0].name), oneof.name)

    assert expected == first_cells(api.short(declared.full_name))


def test_the_page_has_a_section_for_all_there_is() -> None:
    """What is walked above is all that the file declares, nested declarations included."""
    written = (api.ROOT / api.PROTO).read_text(encoding="utf-8")

    assert len(re.findall(r"^\s*(?:message|enum) \w+ \{", written, flags=re.MULTILINE)) == len(TYPES)
    assert len(re.findall(r"^\s*rpc \w+\(", written, flags=re.MULTILINE)) == len(METHODS)


def test_every_link_leads_somewhere() -> None:
    """A link is to a heading that there is, once, to a file of the repository, or to protobuf's own pages."""
    anchors = heading_anchors()
    for target in re.findall(r"\]\(([^)]*)\)", TEXT):
        if target.startswith("#"):
            assert anchors.count(target[1:]) == 1, target
        elif not target.startswith(api.WELL_KNOWN):
            assert (PAGE.parent / target).is_file(), target


def test_no_word_is_lost() -> None:
    """Every word of the comments is on the page, as often as it was written."""
    written = (api.ROOT / api.PROTO).read_text(encoding="utf-8")
    said = " ".join(re.findall(r"^\s*//(.*)$", written, flags=re.MULTILINE))
    shown = re.sub(r"\]\([^)]*\)|<br>", " ", TEXT)

    assert Counter() == Counter(re.findall(r"\w+", said)) - Counter(re.findall(r"\w+", shown))


def test_no_row_is_torn() -> None:
    """A row has as many cells as the head of its table."""
    for rows in re.findall(r"(?:^\|.*\n)+", TEXT, flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows.splitlines()}) == 1, rows


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        ("Optional. One line,\ngoing on.", "Optional. One line, going on."),
        ("One.\n\nTwo,\ngoing on.\n\n\nThree.", "One.<br><br>Two, going on.<br><br>Three."),
        ("`a|b` or c | d.", r"`a\|b` or c \| d."),
        ("Either:\n - one,\n   going on\n * two\n\nAfter.", "Either:<br>• one, going on<br>• two<br><br>After."),
        ("Rules:\n\n 1. first,\n    going on\n 2. second", "Rules:<br><br>1. first, going on<br>2. second"),
        ("A range, 1 - 2\nand 2^53 -1.", "A range, 1 - 2 and 2^53 -1."),
        ("", ""),
    ],
)
def test_a_cell_holds_a_comment_whole(comment: str, expected: str) -> None:
    """Paragraphs and list items are kept apart, pipes do not end the cell, and nothing breaks the line."""
    assert expected == api.cell(comment)
