"""How commands end. Scripts rely on these numbers: they are documented in docs/cli.md, and stay."""

from __future__ import annotations

import re
from enum import IntEnum

from hostport.client.errors import (
    HostportError,
    InvalidRequestError,
    NotAllowedError,
    NotFoundError,
    RefusedError,
    UnavailableError,
)


class Exit(IntEnum):
    """The exit status; the comments are those of docs/cli.md."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    REFUSED = 4
    UNREACHABLE = 5
    NOT_ALLOWED = 6
    INTERRUPTED = 130

    @property
    def meaning(self) -> str:
        return MEANINGS[self]


MEANINGS = {
    Exit.OK: "done",
    Exit.FAILED: "the answer is no: a check failed, a Pod was denied, a lease was lost",
    Exit.USAGE: "wrong usage",
    Exit.NOT_FOUND: "there is no such allocation, node or Pod",
    Exit.REFUSED: "the allocator refused the request; the reason is a word of the contract",
    Exit.UNREACHABLE: "the allocator or the API server did not answer",
    Exit.NOT_ALLOWED: "the allocator or the API server does not allow it",
    Exit.INTERRUPTED: "interrupted by Ctrl-C",
}


class CliError(Exception):
    """One line for the user, with the remedy, and how the program ends."""

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.code = code


def exit_of(error: HostportError) -> Exit:
    """The exit status for an error of the allocator."""
    match error:
        case NotFoundError():
            return Exit.NOT_FOUND
        case InvalidRequestError() | RefusedError():
            return Exit.REFUSED
        case NotAllowedError():
            return Exit.NOT_ALLOWED
        case UnavailableError():
            return Exit.UNREACHABLE
    return Exit.FAILED


TLS_FAILED = re.compile(r"[Hh]andshake failed|Verification Check failed|CERTIFICATE_VERIFY_FAILED")
TURNED_AWAY = re.compile(r"Socket closed|Connection reset|Failed parsing HTTP/2")
"""What gRPC says where something is at the address and speaks otherwise: TLS, HTTP/1.1."""
TLS_QUESTION = "does its TLS fit --ca, --cert and --server-name?"
QUESTIONS = ((TLS_FAILED, TLS_QUESTION), (TURNED_AWAY, f"is it its gRPC port, and {TLS_QUESTION}"))

REMEDIES = {
    Exit.UNREACHABLE: "`hostport check` tells what is broken",
    Exit.NOT_ALLOWED: "see --cert, --token-file and --service-account",
}


def words(error: HostportError) -> str:
    """The reason, what happened, and what to do."""
    reason = f"{error.reason}: " if error.reason else ""
    remedy = REMEDIES.get(exit_of(error)) if not error.reason or exit_of(error) is Exit.NOT_ALLOWED else None
    if remedy and isinstance(error, UnavailableError):
        question = next((each for sign, each in QUESTIONS if sign.search(str(error))), "is it running?")
        remedy = f"{question} {remedy}"
    return f"{reason}{error}" + (f" ({remedy})" if remedy else "")
