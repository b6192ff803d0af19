"""The errors of the contract as exceptions: the class says whose turn it is, `reason` says which word of the contract.

| class | whose turn |
|---|---|
| `InvalidRequestError` | the caller's: correct the request, do not repeat it |
| `RefusedError` | the world's: another number, another node, or later |
| `NotFoundError` | nobody's: it ended or never was |
| `NotAllowedError` | an administrator's: credentials or rights |
| `UnavailableError` | time's: the call may be repeated with the same request_id |
| `LeaseLostError` | the holder's: the ports may be given to others from now on |
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from hostport.contract import DOMAIN


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong: the reason, the field of the request if there is one, and a sentence."""

    reason: str
    field: str
    message: str


class HostportError(Exception):
    """The allocator said no, or nothing. `reason` is a word of docs/contract.md; empty: the error is not its own."""

    def __init__(self, message: str, *, reason: str = "", mistakes: tuple[Mistake, ...] = ()) -> None:
        super().__init__(message)
        self.reason = reason
        self.mistakes = mistakes


class InvalidRequestError(HostportError):
    """The request is wrong in itself."""


class RefusedError(HostportError):
    """The request is right, and cannot be granted as things stand."""


class NotFoundError(HostportError):
    """There is no such allocation or node."""


class NotAllowedError(HostportError):
    """The caller is unknown, or may not do this."""


class UnavailableError(HostportError):
    """There was no answer, or the allocator cannot answer now. Nothing is known of the outcome."""


class LeaseLostError(HostportError):
    """The lease ended while it was in use: its ports may be given to others."""


CLASSES: dict[grpc.StatusCode, type[HostportError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequestError,
    grpc.StatusCode.FAILED_PRECONDITION: RefusedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: RefusedError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.UNAUTHENTICATED: NotAllowedError,
    grpc.StatusCode.PERMISSION_DENIED: NotAllowedError,
}
"""By the code of the status; every other code means that nothing is known."""


_BOILERPLATE = re.compile(r"^failed to connect to all addresses; last error: (UNKNOWN|UNAVAILABLE): ")


def error_of(error: grpc.RpcError) -> HostportError:
    """The exception for a failed call."""
    call = cast("grpc.Call", error)
    details = list(_details(call))
    info = next((each for each in details if isinstance(each, error_details_pb2.ErrorInfo)), None)
    code, text = call.code(), _BOILERPLATE.sub("", call.details() or call.code().name)
    if info is None:
        kind = UnavailableError if code is grpc.StatusCode.RESOURCE_EXHAUSTED else CLASSES.get(code, UnavailableError)
        return kind(text if kind is not UnavailableError else f"no answer from the allocator: {text}")
    mistakes = tuple(
        Mistake(each.reason or info.reason, each.field, each.description)
        for request in details
        if isinstance(request, error_details_pb2.BadRequest)
        for each in request.field_violations
    )
    return CLASSES.get(code, UnavailableError)(text, reason=info.reason, mistakes=mistakes)


def _details(call: grpc.Call) -> Iterator[error_details_pb2.ErrorInfo | error_details_pb2.BadRequest]:
    for packed in _status(call).details:
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest):
            detail = kind()
            if packed.Is(kind.DESCRIPTOR) and packed.Unpack(detail) and getattr(detail, "domain", DOMAIN) == DOMAIN:
                yield detail


def _status(call: grpc.Call) -> Any:
    """The rich status; an empty one where there is none that can be believed."""
    try:
        return rpc_status.from_call(call) or status_pb2.Status()
    except ValueError:
        return status_pb2.Status()
