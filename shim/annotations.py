"""The annotations that a user writes: what they may say, and what is said when they do not.

Every annotation is read even after a mistake, so that people correct a Pod once. Unknown `hostport.io/` annotations are
ignored, since a later version may know them, and people are told.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import msgspec

from hostport.contract import Mistake, Notice, PodWarning, Reason, defaults
from hostport.contract import policies as contract
from hostport.contract.annotations import PREFIX, Annotation, Writer
from hostport.contract.limits import HIGHEST_PORT, LONGEST_COOL_DOWN, LOWEST_PORT, MOST_NUMBERS
from hostport.contract.policies import DEFAULT_POLICY
from hostport.contract.words import listed
from hostport.flags import duration
from hostport.v1.allocator_pb2 import (
    WHEN_FULL_DENY,
    WHEN_FULL_PENDING,
    WHEN_FULL_UNSPECIFIED,
    Policy,
    WhenFull,
)
from shim.outcomes import LONGEST_QUOTE, clipped, quoted

# Of the table, as text: a member is looked up more slowly.
ENABLED = Annotation.ENABLED.text
POLICY = Annotation.POLICY.text
MIN_PORT = Annotation.MIN_PORT.text
MAX_PORT = Annotation.MAX_PORT.text
STRIDE = Annotation.STRIDE.text
DNS_POLICY = Annotation.DNS_POLICY.text
INJECT_ENV = Annotation.INJECT_ENV.text
WHEN_FULL = Annotation.WHEN_FULL.text
NETWORK = Annotation.NETWORK.text
REWRITE = Annotation.REWRITE.text
COOL_DOWN = Annotation.COOL_DOWN.text
PUBLISH = Annotation.PUBLISH.text
BLOCK = Annotation.BLOCK.text

# Ours, written into the Pod.
ALLOCATED = Annotation.ALLOCATED.text
ALLOCATIONS = Annotation.ALLOCATIONS.text
ALLOCATION_ID = Annotation.ALLOCATION_ID.text
WARNINGS = Annotation.WARNINGS.text
REWRITTEN = Annotation.REWRITTEN.text

WRITTEN = tuple(row.text for row in Annotation if row.writer is Writer.USER and not row.is_prefix)
"""What users write, less `PUBLISH` and `BLOCK`."""

_NAMES, _HEADS = (
    [name.removeprefix(PREFIX) for name in WRITTEN],
    [BLOCK.removeprefix(PREFIX), PUBLISH.removeprefix(PREFIX)],
)

FOUND = tuple(row.text for row in Annotation if row.writer is Writer.SHIM and not row.is_prefix)
"""What they find, less `ALLOCATED`."""

_WHOLE = frozenset((*WRITTEN, *FOUND))
"""What is known by its whole name."""

POLICIES: Mapping[str, Policy.ValueType] = {
    name: Policy.Value(terms.proto_name) for name, terms in contract.POLICIES.items()
}
RANGED = frozenset(POLICIES[name] for name in contract.RANGED)
"""The policies that min-port and max-port bound."""
INDEXED = frozenset(POLICIES[name] for name in contract.INDEXED)
"""Those that need an index and a stride."""
SEARCHED = frozenset(POLICIES[name] for name in contract.SEARCHED)
"""Those that give any number that is free."""

_RANGED, _INDEXED, _SEARCHED = map(listed, (contract.RANGED, contract.INDEXED, contract.SEARCHED))

SMALLEST_BLOCK = 2

NETWORKS = {"Host": False, "Pod": True}
"""The values of `hostport.io/network`: whether the Pod keeps a network of its own."""

_KEEP = {"Keep": True}
_SWITCH = {"true": True, "false": False}
_WHEN_FULL: dict[str, WhenFull.ValueType] = {"Deny": WHEN_FULL_DENY, "Pending": WHEN_FULL_PENDING}

_Value = TypeVar("_Value")


class PodSettings(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the annotations say. The defaults are those of a Pod that says nothing.

    `numbers` are min-port, max-port and stride, None when one of them is wrong; `policy` is None when it is unknown.
    `cool_down` is in seconds, None when the Pod does not say.
    """

    policy: Policy.ValueType | None = POLICIES[DEFAULT_POLICY]
    numbers: tuple[int, int, int] | None = (*defaults.port_range(0, 0), defaults.STRIDE)
    when_full: WhenFull.ValueType = WHEN_FULL_UNSPECIFIED
    keep_dns: bool = False
    inject_env: bool = True
    own_network: bool = False
    rewrites: bool = False
    cool_down: float | None = None

    @property
    def range(self) -> tuple[int, int] | None:
        """What bounds the numbers; None under a policy that has no range."""
        return self.numbers[:2] if self.numbers and self.policy in RANGED else None


def parse_settings(
    annotations: Mapping[str, str], *, own_network: bool = False
) -> tuple[PodSettings, tuple[Mistake, ...]]:
    """`own_network`: whether a Pod that does not say keeps a network of its own."""
    mistakes = _enabled_mistakes(annotations.get(ENABLED, ""))
    policy = _one_of(annotations, POLICY, POLICIES, POLICIES[DEFAULT_POLICY], mistakes, Reason.UNKNOWN_POLICY)
    numbers = _range_and_stride(annotations, mistakes)
    keep_dns = _one_of(annotations, DNS_POLICY, _KEEP, False, mistakes)
    inject_env = _one_of(annotations, INJECT_ENV, _SWITCH, True, mistakes)
    rewrites = _one_of(annotations, REWRITE, _SWITCH, False, mistakes)
    network = _one_of(annotations, NETWORK, NETWORKS, own_network, mistakes)
    when_full = _one_of(annotations, WHEN_FULL, _WHEN_FULL, WHEN_FULL_UNSPECIFIED, mistakes)
    settings = PodSettings(
        policy=policy,
        numbers=numbers,
        when_full=when_full or WHEN_FULL_UNSPECIFIED,
        keep_dns=bool(keep_dns),
        inject_env=inject_env is not False,
        own_network=bool(network),
        rewrites=bool(rewrites),
        cool_down=_cool_down(annotations[COOL_DOWN], mistakes) if COOL_DOWN in annotations else None,
    )
    return settings, tuple(mistakes)


def doubts(annotations: Mapping[str, str], settings: PodSettings) -> Iterator[PodWarning]:
    """What stands under our prefix and does nothing: a name that we do not know, a setting that nobody reads."""
    unknown = [name for name in annotations if name.startswith(PREFIX) and not _is_known(name)]
    if unknown:
        near = _meant(_dashed(unknown[0]))
        guess = f"; did you mean {near}?" if near else ""
        more = f" ({len(unknown) - 1} more like it)" if len(unknown) > 1 else ""
        message = f"annotation {clipped(unknown[0], LONGEST_QUOTE)} is unknown and does nothing{guess}{more}"
        yield PodWarning(Notice.UNKNOWN_ANNOTATION, message)
    unused = [f"{name} ({why})" for name, why in _unused(settings) if name in annotations]
    if unused:
        yield PodWarning(Notice.UNUSED_SETTING, f"{', '.join(unused)} has no effect: remove it")


def in_vain(annotations: Mapping[str, str]) -> str:
    """What is wrong where ours stand and none says whether the Pod asks for ports; empty where nothing is."""
    if ENABLED in annotations:
        return ""
    ours = [
        name for name in annotations if name.startswith(PREFIX) and not (name in FOUND or name.startswith(ALLOCATED))
    ]
    for name in ours:
        if not _is_known(name) and _meant(_dashed(name)) == ENABLED:
            return f"annotation {clipped(name, LONGEST_QUOTE)} is unknown and does nothing; did you mean {ENABLED}?"
    return f'annotation {clipped(ours[0], LONGEST_QUOTE)} does nothing without {ENABLED}: "true"' if ours else ""


def _is_known(name: str) -> bool:
    return name in _WHOLE or name.startswith((BLOCK, PUBLISH, ALLOCATED))


def _meant(name: str) -> str:
    """The annotation that a misspelt one is nearest to; empty where there is none.

    The prefix is compared with nothing: it would make all of them alike.
    """
    head, _, port = name.removeprefix(PREFIX).partition("-")
    near = difflib.get_close_matches(f"{head}-", _HEADS, n=1, cutoff=0.8)
    if near:
        return PREFIX + near[0] + (port or "<port>")
    near = difflib.get_close_matches(name.removeprefix(PREFIX), _NAMES, n=1)
    return PREFIX + near[0] if near else ""


def _dashed(name: str) -> str:
    """A name in camel case or with underscores as we would write it."""
    return re.sub(r"(?<=[a-z])([A-Z])", r"-\1", clipped(name, LONGEST_QUOTE)).lower().replace("_", "-")


def _unused(settings: PodSettings) -> Iterator[tuple[str, str]]:
    policy = settings.policy
    if policy is not None and policy not in RANGED:
        yield from ((name, f"only {_RANGED} have a range") for name in (MIN_PORT, MAX_PORT))
    if policy is not None and policy not in INDEXED:
        yield STRIDE, f"only {_INDEXED} has one"
    if policy is not None and policy not in SEARCHED:
        yield COOL_DOWN, f"only {_SEARCHED} looks for a number"
    if settings.own_network:
        yield from ((name, "nothing moves in a network of its own") for name in (DNS_POLICY, REWRITE))


def parse_block(value: str) -> tuple[int, int, str]:
    """How many numbers a block has, of what its first is a multiple, and what is wrong with the value if anything."""
    words = value.split()
    count = parse_number(words[0]) if words else None
    if words == ["even"]:
        return 0, 1, f"{quoted(value)} does not say how many: write {quoted('100 even')}"
    if count is None or words[1:] not in ([], ["even"]):
        how = f"write how many numbers, {quoted('100')}, or {quoted('100 even')} where the first is to be even"
        return 0, 1, f"{quoted(value)} is no size of a block: {how}"
    if not SMALLEST_BLOCK <= count <= MOST_NUMBERS:
        alone = ": a port without this annotation has one" if count == 1 else ""
        return 0, 1, f"{quoted(value)} is not in {SMALLEST_BLOCK}..{MOST_NUMBERS}{alone}"
    return count, 2 if words[1:] else 1, ""


def parse_number(value: str) -> int | None:
    """Decimal digits and nothing else, of any size; None otherwise."""
    if not (value.isascii() and value.isdigit()):
        return None
    digits = value.lstrip("0") or "0"
    return int(digits) if len(digits) <= 18 else 10**18  # as good as any: too large for whatever it counts


def not_a_number(where: str, value: str) -> Mistake:
    return Mistake(Reason.NOT_A_NUMBER, where, f"{quoted(value)} is not a number: write decimal digits in quotes")


def out_of_range(where: str, value: object) -> Mistake:
    return Mistake(Reason.NUMBER_OUT_OF_RANGE, where, f"{quoted(value)} is not in {LOWEST_PORT}..{HIGHEST_PORT}")


def _cool_down(value: str, mistakes: list[Mistake]) -> float | None:
    """Seconds; None when it is wrong."""
    try:
        seconds = duration(value)
    except ValueError:
        seconds = LONGEST_COOL_DOWN + 1
    if seconds <= LONGEST_COOL_DOWN:
        return seconds
    message = f"{quoted(value)} is no duration from 0s to 1h: write one such as 90s or 10m"
    mistakes.append(Mistake(Reason.INVALID_COOL_DOWN, f"annotation {COOL_DOWN}", message))
    return None


def _enabled_mistakes(value: str) -> list[Mistake]:
    if value == "true":
        return []
    remedy = f'{quoted(value)} is neither "true" nor "false": write one of them, in lower case and in quotes'
    return [Mistake(Reason.ENABLED_VALUE, f"annotation {ENABLED}", remedy)]


def _one_of(
    annotations: Mapping[str, str],
    name: str,
    values: Mapping[str, _Value],
    default: _Value,
    mistakes: list[Mistake],
    reason: Reason = Reason.UNKNOWN_VALUE,
) -> _Value | None:
    value = annotations.get(name)
    if value is None:
        return default
    if value not in values:
        mistakes.append(Mistake(reason, f"annotation {name}", _unknown_value(value, list(values))))
        return None
    return values[value]


def _unknown_value(value: str, values: Sequence[str]) -> str:
    by_lower = {each.lower(): each for each in values}
    near = difflib.get_close_matches(value.strip().lower()[:32], by_lower, n=1)
    known = "none of " + ", ".join(values) if len(values) > 1 else f"not {values[0]}, the only value"
    return f"{quoted(value)} is {known}" + (f'; did you mean "{by_lower[near[0]]}"?' if near else "")


def _range_and_stride(annotations: Mapping[str, str], mistakes: list[Mistake]) -> tuple[int, int, int] | None:
    """(min, max, stride) with their defaults; None when one of them is wrong."""
    before = len(mistakes)
    low = _number(annotations, MIN_PORT, mistakes)
    high = _number(annotations, MAX_PORT, mistakes)
    stride = _number(annotations, STRIDE, mistakes)
    if len(mistakes) > before:
        return None
    bottom, top = defaults.port_range(low or 0, high or 0)
    if bottom > top:
        mistakes.append(_inverted(low, bottom, top))
        return None
    return bottom, top, stride or defaults.STRIDE


def _number(annotations: Mapping[str, str], name: str, mistakes: list[Mistake]) -> int | None:
    value = annotations.get(name)
    if value is None:
        return None
    number = parse_number(value)
    if number is None:
        mistakes.append(not_a_number(f"annotation {name}", value))
    elif not LOWEST_PORT <= number <= HIGHEST_PORT:
        mistakes.append(out_of_range(f"annotation {name}", value))
    return number


def _inverted(low: int | None, bottom: int, top: int) -> Mistake:
    """Only with max-port set: min-port alone never inverts."""
    default = "" if low else f" (the default, as {MIN_PORT} is not set)"
    message = f"min-port {bottom}{default} is greater than max-port {top}: swap them, or set both"
    return Mistake(Reason.RANGE_INVERTED, f"annotation {MAX_PORT}", message)
