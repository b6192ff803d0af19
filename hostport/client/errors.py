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
from typing import cast

import grpc

from hostport.contract import Mistake
from hostport.contract.failed_calls import status_of
from hostport.contract.status import read_status


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
    """The exception for a failed call. Without a reason of ours nothing is known but what the code says."""
    call = cast("grpc.Call", error)
    told = read_status(status_of(error))
    code, text = call.code(), _BOILERPLATE.sub("", call.details() or call.code().name)
    if told is not None:
        return CLASSES.get(code, UnavailableError)(text, reason=told.reason, mistakes=told.mistakes)
    # A proxy that is full says RESOURCE_EXHAUSTED as well, and may have room the next time.
    kind = UnavailableError if code is grpc.StatusCode.RESOURCE_EXHAUSTED else CLASSES.get(code, UnavailableError)
    return kind(text if kind is not UnavailableError else f"no answer from the allocator: {text}")
