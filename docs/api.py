"""Writes docs/api.md from the comments of the .proto, so that the page and the API cannot drift apart.

No maintained tool does it: protoc-gen-doc was last released in 2022 and breaks its tables at a comment's second line,
md-protobuf keeps only the first line and leaves services out, sabledocs writes HTML.
"""
# ruff: noqa: INP001 - a script beside the page it writes, not a package

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet
from startflow.v1 import start_flow_service_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor, OneofDescriptor

ROOT = Path(__file__).parents[1]
FILE = start_flow_service_pb2.DESCRIPTOR  # what there is; it comes without comments
PROTO = f"protos/{FILE.name}"
SYNTAX = [12]  # where descriptor.proto keeps the comment at the top of a file
ADDRESS = "127.0.0.1:50051"  # as in the README's sessions
WELL_KNOWN = "https://protobuf.dev/reference/protobuf/google.protobuf/"


def main() -> None:
    """Writes the page."""
    page = Page(comments(compiled()))
    (ROOT / "docs/api.md").write_text("\n\n".join(page.blocks()) + "\n", encoding="utf-8")


def compiled() -> FileDescriptorProto:
    """Compiles the file, its comments included."""
    protoc = [sys.executable, "-m", "grpc_tools.protoc", "-I", "protos", "--include_source_info"]
    command = [*protoc, "--descriptor_set_out=/dev/stdout", FILE.name]
    written = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout  # noqa: S603 - our own words
    return FileDescriptorSet.FromString(written).file[0]


def comments(file: FileDescriptorProto) -> dict[str, str]:
    """Returns the comment of everything by its full name, in the order of the file; that of the file is ''."""
    found = {}
    for place in sorted(file.source_code_info.location, key=lambda place: tuple(place.span)):
        name = "" if place.path == SYNTAX else name_at(file, place.path)
        if name is not None:
            found[name] = re.sub(r"(?m)^ ", "", place.leading_comments).strip("\n")
    return found


def name_at(file: FileDescriptorProto, path: Sequence[int]) -> str | None:
    """Returns the full name of what is at a path of field numbers and indices, if it has one."""
    here: Any = file
    names = [file.package]
    for number, index in zip(path[::2], path[1::2], strict=False):
        kind = here.DESCRIPTOR.fields_by_number[number]
        here = getattr(here, kind.name)[index] if kind.is_repeated else None
        if not hasattr(here, "name"):  # an option, an import, a reserved range
            return None
        names.append(here.name)
    return ".".join(names) if len(path) % 2 == 0 else None


def types(
    messages: Mapping[str, Descriptor], enums: Mapping[str, EnumDescriptor]
) -> Iterator[Descriptor | EnumDescriptor]:
    """Walks messages and enums, nested ones included."""
    yield from enums.values()
    for message in messages.values():
        if not message.GetOptions().map_entry:
            yield message
            yield from types(message.nested_types_by_name, message.enum_types_by_name)


def short(full_name: str) -> str:
    """Returns a full name as the file itself would write it."""
    return full_name.removeprefix(f"{FILE.package}.")


def link(name: str) -> str:
    """Links a name to its heading, by GitHub's rule."""
    return f"[`{name}`](#{name.replace('.', '').lower()})"


def cell(comment: str) -> str:
    """Returns a comment on one line, as a table takes it: breaks stand for paragraphs and list items."""
    paragraphs = []
    for paragraph in re.split(r"\n\s*\n", comment.strip().replace("|", r"\|")):
        parts = (" ".join(part.split()) for part in re.split(r"\n(?=\s*(?:[-*]|\d+\.)\s)", paragraph))
        paragraphs.append("<br>".join(re.sub(r"^[-*] ", "• ", part) for part in parts))
    return "<br><br>".join(paragraphs)


def table(*rows: Sequence[str]) -> str:
    """Lays rows out as a table, the first one as its head."""
    head, *body = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *body])


class Page:
    """The API with its comments, as Markdown."""

    def __init__(self, comments: Mapping[str, str]) -> None:
        self.comments = comments  # by full name, in the order of the file
        self.types = {found.full_name: found for found in types(FILE.message_types_by_name, FILE.enum_types_by_name)}
        methods = (method.name for service in FILE.services_by_name.values() for method in service.methods)
        self.names = frozenset([*methods, *map(short, self.types)])

    def blocks(self) -> Iterator[str]:
        """Writes the page, block by block."""
        title, _, introduction = self.comment("").partition("\n\n")
        yield f"<!-- Written by docs/api.py from {PROTO}. Do not edit; run make generate. -->"
        yield f"# {title.rstrip('.')}"
        yield introduction
        yield f"This page is made from the comments of [`{PROTO}`](../{PROTO})."
        for service in FILE.services_by_name.values():
            yield f"## {service.name}"
            yield self.comment(service.full_name)
            summaries = (
                (link(method.name), cell(self.comment(method.full_name).partition("\n\n")[0]))
                for method in service.methods
            )
            yield table(("RPC", "What it does"), *summaries)
            for method in service.methods:
                yield from self.method(method)
        yield "## Messages and enums"
        for full_name in self.comments:
            if full_name in self.types:
                yield from self.type(self.types[full_name])

    def method(self, method: MethodDescriptor) -> Iterator[str]:
        """Writes the section of an RPC."""
        takes = "a **stream** of " * method.client_streaming + link(short(method.input_type.full_name))
        returns = "a **stream** of " * method.server_streaming + link(short(method.output_type.full_name))
        request = json.dumps(self.example(method.input_type), ensure_ascii=False)
        yield f"### {method.name}"
        yield f"Takes {takes}, returns {returns}."
        yield self.comment(method.full_name)
        yield (
            f"```\ngrpcurl -plaintext -d '{request}' {ADDRESS} {method.containing_service.full_name}/{method.name}\n```"
        )

    def example(self, message: Descriptor) -> dict[str, Any]:
        """Returns the least that a message must hold, as JSON to be filled in."""
        least: dict[str, Any] = {}
        for field in message.fields:
            oneof = self.oneof(field)
            comment = self.comments[oneof.full_name if oneof else field.full_name]
            needed = comment.startswith("Required.") or f"At least one of `{field.name}`" in comment
            if needed and (oneof is None or field is oneof.fields[0]):
                value = self.example(field.message_type) if field.message_type else "…"
                least[field.name] = [value] if field.is_repeated else value
        return least

    def type(self, declared: Descriptor | EnumDescriptor) -> Iterator[str]:
        """Writes the section of a message or an enum."""
        name = short(declared.full_name)
        yield f"{'#' * (3 + name.count('.'))} {name}"
        yield self.comment(declared.full_name)
        if isinstance(declared, EnumDescriptor):
            values = ((f"`{v.name}`", cell(self.comment(f"{declared.full_name}.{v.name}"))) for v in declared.values)
            yield table(("Value", "Meaning"), *values)
        elif declared.fields:
            yield table(("Field", "Type", "Meaning"), *(row for field in declared.fields for row in self.rows(field)))

    def rows(self, field: FieldDescriptor) -> Iterator[tuple[str, str, str]]:
        """Returns the row of a field; a oneof has one of its own, and its fields are indented below it."""
        oneof = self.oneof(field)
        if oneof and field is oneof.fields[0]:
            yield f"`{oneof.name}`", "one of", cell(self.comment(oneof.full_name))
        yield "↳ " * bool(oneof) + f"`{field.name}`", self.label(field), cell(self.comment(field.full_name))

    def oneof(self, field: FieldDescriptor) -> OneofDescriptor | None:
        """Returns the oneof that a field was written in; that of an `optional` is protoc's own."""
        oneof = field.containing_oneof
        return oneof if oneof and oneof.full_name in self.comments else None

    def label(self, field: FieldDescriptor) -> str:
        """Returns the type of a field and how often it may be there."""
        if field.message_type and field.message_type.GetOptions().map_entry:
            return "map of {} to {}".format(*map(self.label, field.message_type.fields))
        if kind := field.message_type or field.enum_type:
            known = f"[`{kind.name}`]({WELL_KNOWN}#{kind.name.lower()})"
            name = link(short(kind.full_name)) if kind.full_name in self.types else known
        else:
            scalar = FieldDescriptorProto.Type.DESCRIPTOR.values_by_number[field.type].name
            name = f"`{scalar.removeprefix('TYPE_').lower()}`"
        return "repeated " * field.is_repeated + "optional " * (field.containing_oneof != self.oneof(field)) + name

    def comment(self, full_name: str) -> str:
        """Returns a comment as Markdown, with the RPCs, messages and enums that it names linked."""
        return re.sub(
            r"`([A-Z][\w.]*)`",
            lambda found: link(found[1]) if found[1] in self.names else found[0],
            self.comments[full_name],
        )


if __name__ == "__main__":
    main()
