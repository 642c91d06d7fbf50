from typing import Any

import pytest
from startflow.v1 import start_flow_service_pb2 as pb

from gateway.errors import InvalidRequest, Reason
from gateway.model import Resolution, Verdict
from gateway.wire import read_resolution

DISPATCH = "0123456789abcdefghijklmnop-12"
UUID = "09d23a05-47fe-11e4-bfe9-b8f6b119e9ab"


def asked(*, external_id: str | None = None, **fields: Any) -> pb.ResolveFlowStartRequest:
    """Builds a request; an external id makes it one that was sent."""
    if external_id is not None:
        fields["was_sent"] = pb.WasSent(external_id=external_id)
    return pb.ResolveFlowStartRequest(id="01jz", **fields)


# fmt: off
GOOD: list[tuple[dict[str, Any], Resolution]] = [
    ({"external_id": UUID},                                  Resolution(verdict=Verdict.WAS_SENT, external_id=UUID)),
    ({"external_id": "!1~", "dispatch_id": DISPATCH},
     Resolution(verdict=Verdict.WAS_SENT, external_id="!1~", dispatch_id=DISPATCH)),
    ({"external_id": "F" * 64},
     Resolution(verdict=Verdict.WAS_SENT, external_id="F" * 64)),
    ({"was_not_sent": pb.WasNotSent()},                      Resolution(verdict=Verdict.WAS_NOT_SENT)),
    ({"give_up": pb.GiveUp(), "dispatch_id": DISPATCH},
     Resolution(verdict=Verdict.GIVE_UP, dispatch_id=DISPATCH)),
]

NONE_OF_THESE = [" ", "a b", "a\n", "\nab", "\0a", "ü1", "x" * 65, "..", ".", "///", "\u00a01"]

BAD: list[tuple[dict[str, Any], list[str]]] = [
    ({},                                                      ["resolution"]),
    ({"dispatch_id": "x"},                                    ["dispatch_id", "resolution"]),
    ({"dispatch_id": "x", "external_id": ""},                 ["dispatch_id", "was_sent.external_id"]),
    ({"external_id": ""},                                     ["was_sent.external_id"]),
    *(({"external_id": text},                                 ["was_sent.external_id"]) for text in NONE_OF_THESE),
    *(({"dispatch_id": text, "give_up": pb.GiveUp()},         ["dispatch_id"])
      for text in ("a", "A-1", "a-", "-1", "a-1\n", "a-b", "a-1-2", "tel:+1206", "a" * 65 + "-1", "a-" + "1" * 10)),
]
# fmt: on


@pytest.mark.parametrize(("fields", "expected"), GOOD)
def test_an_operators_word_is_read(fields: dict[str, Any], expected: Resolution) -> None:
    """In our own words."""
    assert expected == read_resolution(asked(**fields))


@pytest.mark.parametrize(("fields", "expected"), BAD)
def test_a_bad_word_is_refused(fields: dict[str, Any], expected: list[str]) -> None:
    """With every bad field, and nothing of what was sent."""
    with pytest.raises(InvalidRequest) as refused:
        read_resolution(asked(**fields))
    error = refused.value

    assert Reason.VALIDATION_FAILED is error.reason
    assert expected == [violation.field for violation in error.violations]
    said = error.message + "".join(violation.description for violation in error.violations)
    sent = [fields.get("external_id", ""), fields.get("dispatch_id", "")]
    assert not [text for text in sent if len(text) > 3 and text in said]


def test_every_way_to_resolve_can_be_read() -> None:
    """What the proto offers is what there is."""
    for field in pb.ResolveFlowStartRequest.DESCRIPTOR.oneofs_by_name["resolution"].fields:
        request = asked()
        getattr(request, field.name).SetInParent()
        if field.name == "was_sent":
            request.was_sent.external_id = "x"
        assert Verdict[field.name.upper()] is read_resolution(request).verdict
