"""What the cluster tells in masses is told in steps, in its order, and no step is larger for what Pods weigh."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from allocator.cluster.kubernetes import MOST_GONE, PODS, _Pods
from allocator.cluster.projection import SeenPod
from allocator.slices import LONG_SECONDS, REST_SECONDS, at_once, in_turns, slices
from cluster.apiserver import ApiServer, Fail
from cluster.conftest import Follow

from .observing import Recorder, pod


def sketches(count: int, ports: int) -> list[SeenPod]:
    numbers = [f"a:{1 + number}" for number in range(ports)]
    return [PODS.reader.one(json.dumps(pod(f"p{at}", *numbers)).encode()) for at in range(count)]


@pytest.mark.parametrize(("count", "ports", "most"), [(1000, 1, 128), (40, 100, 3), (3, 500, 1)])
def test_a_page_of_pods_is_told_in_steps_that_weigh_alike(count: int, ports: int, most: int) -> None:
    recorder = Recorder()
    told = [len(recorder.pods) for _ in _Pods(recorder, recorder.proven).listed(sketches(count, ports))]

    assert (told[-1], max(after - before for before, after in zip([0, *told], told, strict=False))) == (count, most)


def test_what_a_list_lacks_is_gone_in_steps_and_proven_after_the_last() -> None:
    uids = [f"u{number}" for number in range(1000)]
    recorder = Recorder(*uids)
    sink = _Pods(recorder, recorder.proven)
    sink.began()

    proofs = [len(recorder.proofs) for _ in sink.complete(5.0)]

    assert (sorted(recorder.gone), recorder.proofs, set(proofs)) == (sorted(uids), [5.0], {0})
    assert max(gone for _, gone in recorder.calls) == MOST_GONE


def test_a_cluster_without_pods_has_been_listed_too() -> None:
    recorder = Recorder()
    sink = _Pods(recorder, recorder.proven)
    sink.began()

    list(sink.complete(5.0))

    assert (recorder.lists_pods, recorder.proofs) == ([True], [5.0])


@pytest.mark.parametrize(("rests", "slept"), [(True, [0, REST_SECONDS]), (False, [0, 0])], ids=["asked", "not asked"])
async def test_the_loop_rests_after_a_long_step_where_others_may_ask(
    rests: bool, slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, seen = [0.0], list[float]()

    async def sleep(seconds: float) -> None:
        seen.append(seconds)

    def steps() -> Iterator[None]:
        for took in (0.0, 2 * LONG_SECONDS):
            clock[0] += took
            yield

    loop = SimpleNamespace(time=lambda: clock[0])
    monkeypatch.setattr("allocator.slices.asyncio", SimpleNamespace(sleep=sleep, get_running_loop=lambda: loop))
    await in_turns(steps(), rests=rests)

    assert seen == slept


async def test_the_loop_rests_in_every_list_but_the_first(
    server: ApiServer, follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[bool]()

    async def noting(steps: Iterator[None], *, rests: bool = True) -> None:
        seen.append(rests)
        at_once(steps)

    monkeypatch.setattr("allocator.cluster.watching.in_turns", noting)
    observer = Recorder()
    cluster = follow(observer)
    await cluster.synced()
    assert (bool(seen), any(seen)) == (True, False)

    server.script("watch pods", Fail(410, "too old resource version"))
    server.script("watch nodes", Fail(410, "too old resource version"))
    await observer.until(lambda: cluster.relists() >= 2)

    assert any(seen)


def test_nothing_is_lost_between_slices() -> None:
    assert [item for some in slices(range(1000), lambda item: item % 7) for item in some] == list(range(1000))
