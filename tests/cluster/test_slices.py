"""What the cluster tells in masses is told in steps, in its order, and no step is larger for what Pods weigh."""

from __future__ import annotations

import json

import pytest

from allocator.cluster.kubernetes import PODS
from allocator.cluster.projection import SeenPod
from allocator.cluster.sinks import PodSink
from allocator.slices import MOST_WEIGHT, slices
from testing.observing import Recorder, pod


def sketches(count: int, ports: int) -> list[SeenPod]:
    numbers = [f"a:{1 + number}" for number in range(ports)]
    return [PODS.reader.one(json.dumps(pod(f"p{at}", *numbers)).encode()) for at in range(count)]


@pytest.mark.parametrize(("count", "ports", "most"), [(1000, 1, 128), (40, 100, 3), (3, 500, 1)])
def test_a_page_of_pods_is_told_in_steps_that_weigh_alike(count: int, ports: int, most: int) -> None:
    recorder = Recorder()
    told = [len(recorder.pods) for _ in PodSink(recorder, recorder.proven).listed(sketches(count, ports))]

    assert (told[-1], max(after - before for before, after in zip([0, *told], told, strict=False))) == (count, most)


def test_what_a_list_lacks_is_gone_in_steps_and_proven_after_the_last() -> None:
    uids = [f"u{number}" for number in range(1000)]
    recorder = Recorder(*uids)
    sink = PodSink(recorder, recorder.proven)
    sink.began()

    proofs = [len(recorder.proofs) for _ in sink.complete(5.0)]

    assert (sorted(recorder.gone), recorder.proofs, set(proofs)) == (sorted(uids), [5.0], {0})
    assert max(gone for _, gone in recorder.calls) == MOST_WEIGHT


def test_a_cluster_without_pods_has_been_listed_too() -> None:
    recorder = Recorder()
    sink = PodSink(recorder, recorder.proven)
    sink.began()

    list(sink.complete(5.0))

    assert (recorder.lists_pods, recorder.proofs) == ([True], [5.0])


def test_nothing_is_lost_between_slices() -> None:
    assert [item for some in slices(range(1000), lambda item: item % 7) for item in some] == list(range(1000))
