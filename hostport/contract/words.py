"""What the words of the contract are made of: the gRPC codes, members of closed lists, and numbers in a row.

Rule: one word for one thing. A member's name is the `ErrorInfo.reason` on the wire, the `status.reason` of the
admission answer, and the label in logs and metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, StrEnum

DOMAIN = "hostport.io"
"""`ErrorInfo.domain` of every error."""


UNANSWERED = 503
"""HTTP status of a request that has no admission answer."""


class Code(Enum):
    """The canonical gRPC codes that we use, with their numbers.

    In the shim's admission answer 422 and 403 stand in `response.status.code` of an answer with HTTP status 200 and
    `allowed: false`; 503 is the HTTP status itself, so that the webhook's `failurePolicy` decides. 409 is avoided:
    `kubectl apply --server-side` then talks of field managers.
    """

    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16

    @property
    def admission_status(self) -> int:
        """HTTP status that an admission answer gives for this code: 422, 403 or 503."""
        if self is Code.INVALID_ARGUMENT:
            return 422
        return 403 if self in {Code.FAILED_PRECONDITION, Code.RESOURCE_EXHAUSTED} else UNANSWERED


REFUSAL_STATUSES = {code.value: code.admission_status for code in Code if code.admission_status != UNANSWERED}
"""The codes that refuse, by number, each with the status of the admission answer."""


class Word(StrEnum):
    """A member is the text of its name, so that it compares with what came over the wire."""

    @staticmethod
    def _generate_next_value_(name: str, start: int, count: int, last_values: list[str]) -> str:  # noqa: ARG004
        return name


def listed(names: Sequence[str]) -> str:
    """One name or more as people write them: `A`, `A and B`, `A, B and C`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def format_run(first: int, count: int) -> str:
    """Consecutive numbers as people write them: `7000`, `20000-20099`."""
    return f"{first}-{first + count - 1}" if count > 1 else str(first)
