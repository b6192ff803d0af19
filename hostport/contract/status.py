"""Mistakes as the details of a gRPC status, and back: `google.rpc.ErrorInfo` of the first, `BadRequest` of all of them.

Rules:

* Written and read here alone. What another service or a proxy has written is not ours: it has no reason.
* A word of a later version is kept as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote

from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from hostport.contract.limits import LARGEST_TRAILERS
from hostport.contract.mistakes import Mistake
from hostport.contract.reasons import Reason
from hostport.contract.words import DOMAIN

D = TypeVar("D", bound=Message)


def to_status(mistakes: Sequence[Mistake]) -> status_pb2.Status:
    """The status that refuses for these mistakes; takes at least one. Its code is that of the first one's reason.

    As many as fit: gRPC refuses trailers above 8 KiB, by chance at first. The message is in them twice, once escaped.
    """
    status = _to_status(mistakes)
    while status.ByteSize() + len(quote(status.message)) > LARGEST_TRAILERS and len(mistakes) > 1:
        mistakes = mistakes[: len(mistakes) // 2]
        status = _to_status(mistakes)
    return status


def _to_status(mistakes: Sequence[Mistake]) -> status_pb2.Status:
    first = mistakes[0]
    message = "; ".join(mistake.message for mistake in mistakes)
    status = status_pb2.Status(code=Reason[first.reason].code.value, message=message)
    status.details.add().Pack(
        error_details_pb2.ErrorInfo(reason=first.reason, domain=DOMAIN, metadata={"field": first.field})
    )
    status.details.add().Pack(
        error_details_pb2.BadRequest(
            field_violations=[
                error_details_pb2.BadRequest.FieldViolation(field=m.field, description=m.message, reason=m.reason)
                for m in mistakes
            ]
        )
    )
    return status


@dataclass(frozen=True, slots=True)
class Told:
    """What an allocator said in a status: the reason that counts, and the mistakes that it named, maybe none."""

    reason: str
    mistakes: tuple[Mistake, ...]


def read_status(status: status_pb2.Status) -> Told | None:
    """What an allocator said in this status; None where it is no allocator's."""
    # What has another domain is another service's, whatever it says.
    info = next((each for each in _details(status, error_details_pb2.ErrorInfo) if each.domain == DOMAIN), None)
    if info is None:
        return None
    mistakes = (
        Mistake(each.reason or info.reason, each.field, each.description)
        for request in _details(status, error_details_pb2.BadRequest)
        for each in request.field_violations
    )
    return Told(info.reason, tuple(mistakes))


def _details(status: status_pb2.Status, kind: type[D]) -> Iterator[D]:
    for packed in status.details:
        detail = kind()
        if packed.Is(kind.DESCRIPTOR) and packed.Unpack(detail):
            yield detail
