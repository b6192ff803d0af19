"""What can come of asking: the values that the shim's modules hand to each other.

Two channels, never mixed. What is wrong with the Pod, or with the state of the world for it, is an *answer* to the
API server (`Refused`). What is wrong with us is a *failed call* (`Unreachable`): the webhook's failurePolicy decides.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from hostport.contract import Notice, Reason
from hostport.v1.allocator_pb2 import AllocateRequest, AllocateResponse

LONGEST_WARNING = 200
"""Characters. The API server cuts warnings at 256, and asks for 120 or less where that will do."""

LONGEST_QUOTE = 64


class About(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Whom a review is about, for the log. `name` ends in `*` where it is yet to be generated."""

    request_id: str
    namespace: str = ""
    name: str = ""
    policy: str = ""
    is_dry_run: bool = False


class Mistake(msgspec.Struct, frozen=True, gc=False):
    """One thing that stands in the Pod's way: the contract's word, the field that the user wrote, and what to do.

    The reason is text because a newer allocator may know reasons that this shim does not.
    """

    reason: str
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.field}: {self.message}" if self.field else f"{self.reason}: {self.message}"


class Remark(msgspec.Struct, frozen=True, gc=False):
    """A warning for an admitted Pod."""

    reason: str
    message: str

    def __str__(self) -> str:
        return clipped(f"{self.reason}: {self.message}", LONGEST_WARNING)


class Refused(msgspec.Struct, frozen=True):
    """The Pod is denied. `code` is the admission answer's status code, 422 or 403."""

    code: int
    mistakes: tuple[Mistake, ...]


class Unreachable(msgspec.Struct, frozen=True):
    """No decision was had: nothing is known of the Pod's ports. `about` is whom the log names."""

    reason: str
    message: str
    about: About | None = None


Allocate = Callable[[AllocateRequest], Awaitable[AllocateResponse | Refused | Unreachable]]
"""How to ask the allocator, over the wire or in process. Never raises for what an allocator may answer."""


def mistake(reason: Reason, field: str, message: str) -> Mistake:
    return Mistake(reason.name, field, message)


def remark(notice: Notice, message: str) -> Remark:
    return Remark(notice.name, message)


def one_per_kind(remarks: list[Remark]) -> tuple[Remark, ...]:
    """The first of each kind, in order."""
    first: dict[str, Remark] = {}
    for each in remarks:
        first.setdefault(each.reason, each)
    return tuple(first.values())


def clipped(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def quoted(value: object) -> str:
    """A user's value as it stands in a message: in quotes if it was text, on one line, not too long."""
    text = clipped(str(value), LONGEST_QUOTE).encode("unicode_escape").decode("ascii")
    return f'"{text}"' if isinstance(value, str) else text
