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

from hostport.contract import Notice, Reason
from hostport.v1.allocator_pb2 import (
    POLICY_DYNAMIC,
    POLICY_INDEX,
    POLICY_PASSTHROUGH,
    POLICY_STATIC,
    WHEN_FULL_DENY,
    WHEN_FULL_PENDING,
    WHEN_FULL_UNSPECIFIED,
    Policy,
    WhenFull,
)
from shim.outcomes import LONGEST_QUOTE, Mistake, Remark, clipped, mistake, quoted, remark

PREFIX = "hostport.io/"
ENABLED = PREFIX + "enabled"
POLICY = PREFIX + "policy"
MIN_PORT = PREFIX + "min-port"
MAX_PORT = PREFIX + "max-port"
STRIDE = PREFIX + "stride"
DNS_POLICY = PREFIX + "dns-policy"
INJECT_ENV = PREFIX + "inject-env"
WHEN_FULL = PREFIX + "when-full"
NETWORK = PREFIX + "network"
REWRITE = PREFIX + "rewrite"
PUBLISH = PREFIX + "publish-"
"""Followed by the name of a port."""

# Ours, written into the Pod.
ALLOCATED = PREFIX + "allocated-"
ALLOCATIONS = PREFIX + "allocations"
ALLOCATION_ID = PREFIX + "allocation-id"
WARNINGS = PREFIX + "warnings"
REWRITTEN = PREFIX + "rewritten"

WRITTEN = (ENABLED, POLICY, MIN_PORT, MAX_PORT, STRIDE, DNS_POLICY, INJECT_ENV, WHEN_FULL, NETWORK, REWRITE)
"""What users write, less `PUBLISH`."""

FOUND = (ALLOCATIONS, ALLOCATION_ID, WARNINGS, REWRITTEN)
"""What they find, less `ALLOCATED`."""

LOWEST, HIGHEST = 1, 65535
DEFAULT_MIN, DEFAULT_MAX, DEFAULT_STRIDE = 7000, 8000, 100
DEFAULT_WIDTH = 1000
"""max-port - min-port where only min-port is given."""

POLICIES: Mapping[str, Policy.ValueType] = {
    "Index": POLICY_INDEX,
    "Dynamic": POLICY_DYNAMIC,
    "Passthrough": POLICY_PASSTHROUGH,
    "Static": POLICY_STATIC,
}
RANGED = frozenset({POLICY_INDEX, POLICY_DYNAMIC})
"""The policies that min-port and max-port bound."""

NETWORKS = {"Host": False, "Pod": True}
"""The values of `hostport.io/network`: whether the Pod keeps a network of its own."""

_Value = TypeVar("_Value")


class Settings(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the annotations say. `policy` is None when it is unknown, `numbers` when one of them is wrong."""

    policy: Policy.ValueType | None
    numbers: tuple[int, int, int] | None
    when_full: WhenFull.ValueType
    keep_dns: bool
    inject_env: bool
    own_network: bool = False
    rewrites: bool = False


def parse_settings(
    annotations: Mapping[str, str], *, own_network: bool = False
) -> tuple[Settings, tuple[Mistake, ...]]:
    """`own_network`: whether a Pod that does not say keeps a network of its own."""
    mistakes = _enabled_mistakes(annotations.get(ENABLED, ""))
    policy = _one_of(annotations, POLICY, POLICIES, POLICY_INDEX, mistakes, Reason.UNKNOWN_POLICY)
    numbers = _numbers(annotations, mistakes)
    keep_dns = _one_of(annotations, DNS_POLICY, {"Keep": True}, False, mistakes)
    inject_env = _one_of(annotations, INJECT_ENV, {"true": True, "false": False}, True, mistakes)
    rewrites = _one_of(annotations, REWRITE, {"true": True, "false": False}, False, mistakes)
    network = _one_of(annotations, NETWORK, NETWORKS, own_network, mistakes)
    full = {"Deny": WHEN_FULL_DENY, "Pending": WHEN_FULL_PENDING}
    settings = Settings(
        policy=policy,
        numbers=numbers,
        when_full=_one_of(annotations, WHEN_FULL, full, WHEN_FULL_UNSPECIFIED, mistakes) or WHEN_FULL_UNSPECIFIED,
        keep_dns=bool(keep_dns),
        inject_env=inject_env is not False,
        own_network=bool(network),
        rewrites=bool(rewrites),
    )
    return settings, tuple(mistakes)


def doubts(annotations: Mapping[str, str], settings: Settings) -> Iterator[Remark]:
    """What stands under our prefix and does nothing: a name that we do not know, a setting that nobody reads."""
    ours = [name for name in annotations if name.startswith(PREFIX)]
    unknown = [name for name in ours if not _is_known(name)]
    if unknown:
        near = difflib.get_close_matches(_dashed(unknown[0]), WRITTEN, n=1)
        guess = f"; did you mean {near[0]}?" if near else ""
        more = f" ({len(unknown) - 1} more like it)" if len(unknown) > 1 else ""
        message = f"annotation {clipped(unknown[0], LONGEST_QUOTE)} is unknown and does nothing{guess}{more}"
        yield remark(Notice.UNKNOWN_ANNOTATION, message)
    unused = [f"{name} ({why})" for name, why in _unused(settings) if name in annotations]
    if unused:
        yield remark(Notice.UNUSED_SETTING, f"{', '.join(unused)} has no effect: remove it")


def _is_known(name: str) -> bool:
    return name in WRITTEN or name in FOUND or name.startswith((PUBLISH, ALLOCATED))


def _dashed(name: str) -> str:
    """A name in camel case or with underscores as we would write it."""
    return re.sub(r"(?<=[a-z])([A-Z])", r"-\1", clipped(name, LONGEST_QUOTE)).lower().replace("_", "-")


def _unused(settings: Settings) -> Iterator[tuple[str, str]]:
    policy = settings.policy
    if policy is not None and policy not in RANGED:
        yield from ((name, "only Index and Dynamic have a range") for name in (MIN_PORT, MAX_PORT))
    if policy is not None and policy != POLICY_INDEX:
        yield STRIDE, "only Index has one"
    if settings.own_network:
        yield from ((name, "nothing moves in a network of its own") for name in (DNS_POLICY, REWRITE))


def parse_number(value: str) -> int | None:
    """Decimal digits and nothing else, of any size; None otherwise."""
    if not (value.isascii() and value.isdigit()):
        return None
    digits = value.lstrip("0") or "0"
    return int(digits) if len(digits) <= 18 else 10**18  # as good as any: too large for whatever it counts


def not_a_number(where: str, value: str) -> Mistake:
    return mistake(Reason.NOT_A_NUMBER, where, f"{quoted(value)} is not a number: write decimal digits in quotes")


def out_of_range(where: str, value: object) -> Mistake:
    return mistake(Reason.NUMBER_OUT_OF_RANGE, where, f"{quoted(value)} is not in {LOWEST}..{HIGHEST}")


def _enabled_mistakes(value: str) -> list[Mistake]:
    if value == "true":
        return []
    remedy = f'{quoted(value)} is neither "true" nor "false": write one of them, in lower case and in quotes'
    return [mistake(Reason.ENABLED_VALUE, f"annotation {ENABLED}", remedy)]


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
        mistakes.append(mistake(reason, f"annotation {name}", _unknown(value, list(values))))
        return None
    return values[value]


def _unknown(value: str, values: Sequence[str]) -> str:
    by_lower = {each.lower(): each for each in values}
    near = difflib.get_close_matches(value.strip().lower()[:32], by_lower, n=1)
    known = "none of " + ", ".join(values) if len(values) > 1 else f"not {values[0]}, the only value"
    return f"{quoted(value)} is {known}" + (f'; did you mean "{by_lower[near[0]]}"?' if near else "")


def _numbers(annotations: Mapping[str, str], mistakes: list[Mistake]) -> tuple[int, int, int] | None:
    """(min, max, stride) with their defaults; None when one of them is wrong."""
    before = len(mistakes)
    low, high, stride = (_number(annotations, name, mistakes) for name in (MIN_PORT, MAX_PORT, STRIDE))
    if len(mistakes) > before:
        return None
    bottom = low or DEFAULT_MIN
    top = high or (min(bottom + DEFAULT_WIDTH, HIGHEST) if low else DEFAULT_MAX)
    if bottom > top:
        mistakes.append(_inverted(low, bottom, top))
        return None
    return bottom, top, stride or DEFAULT_STRIDE


def _number(annotations: Mapping[str, str], name: str, mistakes: list[Mistake]) -> int | None:
    value = annotations.get(name)
    if value is None:
        return None
    number = parse_number(value)
    if number is None:
        mistakes.append(not_a_number(f"annotation {name}", value))
    elif not LOWEST <= number <= HIGHEST:
        mistakes.append(out_of_range(f"annotation {name}", value))
    return number


def _inverted(low: int | None, bottom: int, top: int) -> Mistake:
    """Only with max-port set: min-port alone never inverts."""
    default = "" if low else f" (the default, as {MIN_PORT} is not set)"
    message = f"min-port {bottom}{default} is greater than max-port {top}: swap them, or set both"
    return mistake(Reason.RANGE_INVERTED, f"annotation {MAX_PORT}", message)
