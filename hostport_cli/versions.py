"""Which programs of the product run, and whether their versions go together. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hostport.v1 import allocator_pb2 as pb
from hostport_cli import wording

SHIM = "hostport-shim"


@dataclass(frozen=True, slots=True)
class RunningProgram:
    """One that runs somewhere."""

    component: str
    version: str
    where: str


def programs_of(status: pb.GetStatusResponse, now: float) -> Iterator[RunningProgram]:
    """The allocator, and each shim that called it; `now` is an epoch second."""
    since = wording.since(status.start_time, now)
    yield RunningProgram("allocator", status.version, f"cluster {status.cluster}, up {since}")
    for caller in status.callers:
        if caller.program == SHIM:
            called = wording.since(caller.call_time, now)
            yield RunningProgram("shim", caller.version, f"{caller.address}, called {called} ago")


def skews(programs: Sequence[RunningProgram]) -> list[str]:
    """A sentence for each component that is too far from the allocator, or from us where there is none."""
    base = next((each for each in programs if each.component == "allocator"), programs[0])
    seen = dict.fromkeys((each.component, each.version) for each in programs if are_apart(each.version, base.version))
    return [
        f"the {component} is {version}, the {base.component} {base.version}: only neighbouring minor versions fit"
        for component, version in seen
    ]


def are_apart(one: str, other: str) -> bool:
    """Whether two versions do not go together; what is no version is not judged."""
    numbers = [re.match(r"(\d+)\.(\d+)", each) for each in (one, other)]
    if not (numbers[0] and numbers[1]):
        return False
    (major, minor), (other_major, other_minor) = ((int(n[1]), int(n[2])) for n in numbers if n)
    return major != other_major or abs(minor - other_minor) > 1
