"""Each reason of the contract becomes an exception whose class says whose turn it is."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from hostport.client import (
    HostportError,
    InvalidRequestError,
    Mistake,
    NotAllowedError,
    NotFoundError,
    RefusedError,
    UnavailableError,
)
from hostport.client.errors import error_of
from hostport.contract import Code, Reason
from hostport.contract.status import to_status

CLASSES = {
    Code.INVALID_ARGUMENT: InvalidRequestError,
    Code.FAILED_PRECONDITION: RefusedError,
    Code.RESOURCE_EXHAUSTED: RefusedError,
    Code.NOT_FOUND: NotFoundError,
    Code.UNAUTHENTICATED: NotAllowedError,
    Code.PERMISSION_DENIED: NotAllowedError,
    Code.UNAVAILABLE: UnavailableError,
    Code.DEADLINE_EXCEEDED: UnavailableError,
    Code.ABORTED: UnavailableError,
}


class Failed(grpc.RpcError):
    """A call that failed with a status, as gRPC shows it."""

    def __init__(self, code: grpc.StatusCode, status: status_pb2.Status | None, details: str = "") -> None:
        self._code, self._status, self._details = code, status, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._status.message if self._status else self._details

    def trailing_metadata(self) -> Any:
        return rpc_status.to_status(self._status).trailing_metadata if self._status else ()


def answered(reason: Reason) -> Failed:
    """As the allocator answers."""
    code = getattr(grpc.StatusCode, reason.code.name)
    return Failed(code, to_status([Mistake(reason, "ports[0]", "a sentence")]))


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.name)
def test_a_reason_keeps_its_word(reason: Reason) -> None:
    error = error_of(answered(reason))

    assert (type(error), error.reason, str(error)) == (CLASSES[reason.code], reason.name, "a sentence")
    assert error.mistakes == (Mistake(reason.name, "ports[0]", "a sentence"),)


def elsewhere(reason: str, message: str) -> status_pb2.Status:
    """A status of a service that is not ours."""
    packed = Packed()
    packed.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="example.com"))
    return status_pb2.Status(code=5, message=message, details=[packed])


FOREIGN: dict[str, tuple[Failed, type[HostportError], str]] = {
    "nobody there": (
        Failed(
            grpc.StatusCode.UNAVAILABLE, None,
            "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Connection refused",
        ),
        UnavailableError,
        "no answer from the allocator: ipv4:127.0.0.1:1: Connection refused",
    ),
    "too late": (Failed(grpc.StatusCode.DEADLINE_EXCEEDED, None), UnavailableError,
                 "no answer from the allocator: DEADLINE_EXCEEDED"),
    "a proxy that is full": (Failed(grpc.StatusCode.RESOURCE_EXHAUSTED, None, "full"), UnavailableError,
                             "no answer from the allocator: full"),
    "an old allocator": (Failed(grpc.StatusCode.UNIMPLEMENTED, None, "no GetStatus"), UnavailableError,
                         "no answer from the allocator: no GetStatus"),
    "another service's words": (
        Failed(grpc.StatusCode.NOT_FOUND, elsewhere("LOST", "what?")),
        NotFoundError,
        "what?",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FOREIGN)
def test_what_is_not_the_allocators_has_no_reason(case: str) -> None:
    failed, kind, words = FOREIGN[case]

    error = error_of(failed)

    assert (type(error), error.reason, error.mistakes, str(error)) == (kind, "", (), words)
