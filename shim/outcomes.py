"""What can come of a review: the values that the shim's modules hand to each other. Pure.

Rule: two channels, never mixed. What is wrong with the Pod, or with the state of the world for it, is an *answer* to
the API server (`Refusal`). What is wrong with us is a *failed call* (`Unreachable`): failurePolicy decides.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec

from hostport.contract import Mistake
from hostport.v1.allocator_pb2 import AllocateRequest, AllocateResponse

API_VERSION, KIND = "admission.k8s.io/v1", "AdmissionReview"

LONGEST_QUOTE = 64


class About(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Whom a review is about, for the log. `name` ends in `*` where it is yet to be generated."""

    request_id: str
    namespace: str = ""
    name: str = ""
    policy: str = ""
    is_dry_run: bool = False


class Refusal(msgspec.Struct, frozen=True):
    """The Pod is denied. `code` is the admission answer's status code, 422 or 403."""

    code: int
    mistakes: tuple[Mistake, ...]


class Unreachable(msgspec.Struct, frozen=True):
    """No decision was had: nothing is known of the Pod's ports. `about` is whom the log names."""

    reason: str
    message: str
    about: About | None = None


Outcome = AllocateResponse | Refusal | Unreachable
"""What comes of asking the allocator."""


class AllocateBy(Protocol):
    """How to ask the allocator with a deadline, a time of the event loop's clock."""

    def __call__(self, request: AllocateRequest, *, deadline: float) -> Awaitable[Outcome]:
        """Never raises for what an allocator may answer."""


Allocate = Callable[[AllocateRequest], Awaitable[Outcome]]
"""How to ask the allocator, over the wire or in process. Never raises for what an allocator may answer."""


def clipped(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def quoted(value: object) -> str:
    """A user's value as it stands in a message: in quotes if it was text, on one line, not too long."""
    text = clipped(str(value), LONGEST_QUOTE).encode("unicode_escape").decode("ascii")
    return f'"{text}"' if isinstance(value, str) else text


class AddOp(msgspec.Struct, tag_field="op", tag="add", frozen=True, gc=False):
    """JSON Patch's `add` (RFC 6902). It serves for "set" too: at an object's key it replaces what is there."""

    path: str
    value: Any


class RemoveOp(msgspec.Struct, tag_field="op", tag="remove", frozen=True, gc=False):
    """JSON Patch's `remove`."""

    path: str


Op = AddOp | RemoveOp
