"""The worlds of `machine`, in both encodings of the API server, and proof that they find what they are there to find.

`MODEL_EXAMPLES=20000 pytest tests/model -k world` searches longer; every run without `CI` looks at other examples.
`MODEL_PROVE=1 pytest tests/model -k fault` plants the faults one by one, as CI does: five minutes.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from .faults import ANY_PODS, DISPLACED, ONE_NUMBER, ONE_PORT, STEERED
from .machine import AnyPods, Common, Displaced, OneNumber, OnePort, Steered

EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "75"))

LONG = settings(max_examples=EXAMPLES, stateful_step_count=50, suppress_health_check=list(HealthCheck))
# The same examples every time, and the first that fails is enough. What is hardest to find takes 900 on average.
PROVING = settings(
    LONG,
    max_examples=10_000,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    report_multiple_bugs=False,
    print_blob=False,
)


class AnyPodsInProtobuf(AnyPods):
    is_binary = True


class OnePortInProtobuf(OnePort):
    is_binary = True


PLANTED = (
    (ANY_PODS, AnyPods),
    (STEERED, Steered),
    (ONE_PORT, OnePort),
    (ONE_NUMBER, OneNumber),
    (DISPLACED, Displaced),
)
"""Faults, and a world that finds them. What needs a few rules in a certain order is found in a world that has few."""


@pytest.mark.parametrize("world", [AnyPods, Steered, OnePort, AnyPodsInProtobuf, OnePortInProtobuf])
def test_a_world_holds_its_promises(world: type[Common]) -> None:
    run_state_machine_as_test(world, settings=LONG)


@pytest.mark.skipif("MODEL_PROVE" not in os.environ, reason="takes minutes: MODEL_PROVE=1")
@pytest.mark.parametrize(
    ("fault", "world"),
    [(fault, world) for faults, world in PLANTED for fault in faults],
    ids=lambda value: value.__name__,
)
def test_a_planted_fault_is_found(
    fault: Callable[[pytest.MonkeyPatch], None], world: type[Common], monkeypatch: pytest.MonkeyPatch
) -> None:
    fault(monkeypatch)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(world, settings=PROVING)
