"""A live cluster: what is told, and what may go wrong between us and the API server, in both of its encodings."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from itertools import count

import pytest

from allocator.core.candidates import Node, NodeName
from allocator.core.claims import ClusterChange
from cluster.conftest import ENCODINGS, TUNING, Follow
from testing.apiserver import ApiServer, Cut, Fail, Fault, Halved, Hang, Lines, Plain, error_event
from testing.observing import Recorder, namespace, node, pod
from testing.waiting import until

pytestmark = pytest.mark.parametrize("server", ENCODINGS, indirect=True)


async def synced(server: ApiServer, follow: Follow, *pods: object, observer: Recorder | None = None) -> Recorder:
    """An observer that has been told two nodes and these Pods."""
    observer = observer or Recorder()
    server.put("nodes", node("n1"))
    server.put("nodes", node("n2"))
    for one in pods:
        server.put("pods", one)  # type: ignore[arg-type]
    await asyncio.wait_for(follow(observer).synced(), 5)
    return observer


# -- what is told


async def test_everything_is_told_before_the_start_is_over(server: ApiServer, follow: Follow) -> None:
    server.put("namespaces", namespace("strict", "restricted"))
    observer = await synced(server, follow, *(pod(f"p{n}", f"web:80={8000 + n}", at="n1") for n in range(8)))

    assert sorted(observer.pods) == [f"p{n}" for n in range(8)]
    assert sorted(observer.nodes) == ["n1", "n2"]
    await observer.until(lambda: observer.levels == {"strict": "restricted"})


async def test_a_list_comes_in_pages(server: ApiServer, follow: Follow) -> None:
    await synced(server, follow, *(pod(f"p{n}", "web:80=8000") for n in range(8)))

    assert server.count("list pods") == 3


async def test_the_next_page_is_asked_for_while_one_comes_in_and_no_further_one(
    server: ApiServer, follow: Follow
) -> None:
    go = asyncio.Event()
    server.script("list pods", Halved(go))
    server.put("nodes", node("n1"))
    for number in range(8):
        server.put("pods", pod(f"p{number}", "web:80=8000"))
    observer = Recorder()
    follow(observer)
    await observer.until(lambda: server.count("list pods") == 2)
    await asyncio.sleep(0.1)

    assert (server.count("list pods"), observer.pods) == (2, {})
    go.set()
    await observer.has_pods(*(f"p{number}" for number in range(8)))
    assert server.count("list pods") == 3


async def test_a_page_that_breaks_off_is_asked_for_again(server: ApiServer, follow: Follow) -> None:
    server.script("list pods", Plain(), Fail(500))
    observer = await synced(server, follow, *(pod(f"p{n}", "web:80=8000") for n in range(8)))

    pages = [request.partition(":")[2] for request in server.requests if request.startswith("list pods")]
    assert (pages, len(observer.pods)) == (["", "3", "3", "6"], 8)


async def test_a_list_of_another_kind_between_two_pages_changes_nothing(server: ApiServer, follow: Follow) -> None:
    go = asyncio.Event()
    server.script("list namespaces", Fail(500))
    server.script("list pods", Plain(), Halved(go))  # so that the last page is asked for when the others are told
    names = [f"p{number}" for number in range(11)]
    following = asyncio.create_task(synced(server, follow, *(pod(name, "web:80=8000") for name in names)))
    await until(lambda: (server.count("list pods"), server.count("list namespaces")) == (3, 2))
    go.set()
    observer = await following

    lists = [request.split()[1] for request in server.requests if request.startswith("list ")]
    assert sorted(lists[:-1]) == ["namespaces", "namespaces", "nodes", "pods", "pods", "pods", "services"]
    assert lists[-1] == "pods"
    assert sorted(observer.pods) == sorted(names)


async def test_a_list_that_takes_long_tells_how_far_it_is(
    server: ApiServer, follow: Follow, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("allocator.cluster.pager.PROGRESS_SECONDS", 0.0)
    caplog.set_level(logging.INFO)
    server.put("nodes", node("n1"))
    for number in range(8):
        server.put("pods", pod(f"p{number}", "web:80=8000"))
    cluster = follow(Recorder())
    await asyncio.wait_for(cluster.synced(), 5)

    said = [record.message for record in caplog.records if record.message.startswith("listed")]
    assert said == ["listed 3 of about 8 pods", "listed 6 of about 8 pods"]
    assert cluster.progress() == "listed 1 of about 1 nodes, listed 8 of about 8 pods"


async def test_pods_that_hold_nothing_are_not_told(server: ApiServer, follow: Follow) -> None:
    observer = await synced(
        server,
        follow,
        pod("plain"),
        pod("finished", "web:80=8000", phase="Succeeded"),
        pod("ours", carries="abc"),
        pod("theirs", "web:80=8000"),
    )

    assert sorted(observer.pods) == ["ours", "theirs"]


async def test_a_pod_is_told_when_it_appears_changes_and_goes(server: ApiServer, follow: Follow) -> None:
    observer = await synced(server, follow)
    server.put("pods", pod("p", "web:80=8000"))
    await observer.has_pods("p")
    server.put("pods", pod("p", "web:80=8000", at="n1"))
    await observer.until(lambda: observer.node_of("p") == "n1")
    server.delete("pods", "p", "demo")
    await observer.has_pods()


async def test_nodes_are_told_only_when_something_that_matters_changes(server: ApiServer, follow: Follow) -> None:
    observer = await synced(server, follow)
    told: list[Node] = []
    observer.observe = lambda change: told.extend(change.nodes)  # type: ignore[method-assign]
    for labels in ({}, {}, {"disk": "ssd"}):
        server.put("nodes", node("n1", **labels))
    await observer.until(lambda: told)

    assert told == [Node(name=NodeName("n1"), labels={"disk": "ssd"})]


async def test_nodes_go(server: ApiServer, follow: Follow) -> None:
    observer = await synced(server, follow)
    server.delete("nodes", "n1")
    await observer.until(lambda: list(observer.nodes) == ["n2"])


async def test_levels_of_namespaces_are_followed(server: ApiServer, follow: Follow) -> None:
    observer = await synced(server, follow)
    server.put("namespaces", namespace("a", "baseline"))
    server.put("namespaces", namespace("b", "restricted"))
    await observer.until(lambda: observer.levels == {"a": "baseline", "b": "restricted"})
    server.put("namespaces", namespace("a", "privileged"))
    server.delete("namespaces", "b")
    await observer.until(lambda: observer.levels == {})


async def test_events_that_arrive_together_are_told_together(server: ApiServer, follow: Follow) -> None:
    observer = await synced(server, follow)
    observer.calls.clear()
    for number in range(100):
        server.put("pods", pod(f"p{number}", "web:80=8000"))
    await observer.until(lambda: len(observer.pods) == 100)

    assert len(observer.calls) < 50


async def test_a_pod_that_appears_and_goes_at_once_has_been_there(server: ApiServer, follow: Follow) -> None:
    observer = await synced(server, follow)
    server.put("pods", pod("p", carries="abc"))
    server.delete("pods", "p", "demo")
    await observer.until(lambda: observer.gone == ["p"])

    assert sum(pods for pods, _ in observer.calls) == 1


async def test_a_pod_is_recreated_under_its_name(server: ApiServer, follow: Follow) -> None:
    observer = await synced(server, follow, pod("db-0", "web:80=8000", uid="old", at="n1"))
    server.delete("pods", "db-0", "demo")
    server.put("pods", pod("db-0", "web:80=8000", uid="new"))
    await observer.has_pods("new")


async def test_repeated_events_do_not_raise_the_dead(server: ApiServer, follow: Follow) -> None:
    observer = await synced(server, follow)
    server.put("pods", pod("p", "web:80=8000"))
    server.delete("pods", "p", "demo")
    server.repeat_history("pods")
    server.put("pods", pod("last", "web:80=8000"))
    await observer.has_pods("last")

    assert observer.gone == ["p"]


async def test_what_went_while_nobody_looked_is_gone_after_the_list(server: ApiServer, follow: Follow) -> None:
    observer = await synced(server, follow, pod("kept", "web:80=8000"), observer=Recorder("kept", "lost"))

    assert sorted(observer.pods) == ["kept"]
    assert observer.gone == ["lost"]


async def test_a_known_pod_that_holds_nothing_any_more_is_told_so(server: ApiServer, follow: Follow) -> None:
    observer = await synced(server, follow, pod("p"), observer=Recorder("p"))

    assert observer.pods["p"] is not None


async def test_fields_that_we_do_not_know_do_no_harm(server: ApiServer, follow: Follow) -> None:
    odd = pod("p", "web:80=8000", novelty=[{"deep": {"er": None}}], hostUsers=False)
    observer = await synced(server, follow, {**odd, "futureKind": 7})

    assert list(observer.pods) == ["p"]


# -- faults: whatever happens, in the end we know what there is

FAULTS: dict[str, tuple[str, tuple[Fault, ...]]] = {
    "an error 500": ("list pods", (Fail(500), Fail(503))),
    "a garbled list": ("list nodes", (Fail(200),)),
    "429 with Retry-After": ("list pods", (Fail(429, retry_after=0.01),)),
    "410 between two pages": ("list pods", (Plain(), Fail(410))),
    "an error between two pages": ("list pods", (Plain(), Fail(504), Fail(504))),
    "a watch that is refused": ("watch pods", (Fail(500), Fail(500))),
    "a watch that is limited": ("watch pods", (Fail(429, retry_after=0.01),)),
    "410 at the watch": ("watch pods", (Fail(410),)),
    "410 as an event": ("watch pods", (error_event(410),)),
    "500 as an event": ("watch pods", (error_event(500),)),
    "a version from the future": ("watch pods", (Fail(504, "Too large resource version: 9, current: 1"),)),
    "a watch that ends at once": ("watch pods", (Lines(()), Lines(()))),
    "a line that is no JSON": ("watch pods", (Lines((b'{"type": "ADDED", "object": {',)),)),
    "a line that is no event": ("watch pods", (Lines((b'{"kind": "Status"}',)),)),
    "a connection cut at once": ("watch pods", (Cut(),)),
    "a connection cut in a line": ("watch pods", (Cut(after=1),)),
    "a watch that falls silent": ("watch pods", (Hang(after=1),)),
    "nodes that are refused": ("watch nodes", (Fail(403),)),
}


@pytest.mark.parametrize(("request_name", "faults"), FAULTS.values(), ids=FAULTS.keys())
async def test_after_any_fault_all_is_known(
    server: ApiServer, follow: Follow, request_name: str, faults: tuple[Fault, ...]
) -> None:
    server.script(request_name, *faults)
    observer = await synced(server, follow, *(pod(f"p{n}", "web:80=8000") for n in range(5)))
    server.delete("pods", "p0", "demo")
    server.put("pods", pod("p9", "web:80=8000"))
    server.put("nodes", node("n3"))
    await observer.has_pods("p1", "p2", "p3", "p4", "p9")
    await observer.until(lambda: sorted(observer.nodes) == ["n1", "n2", "n3"])


async def test_a_watch_goes_on_where_it_ended_without_a_list(server: ApiServer, follow: Follow) -> None:
    server.script("watch pods", Cut(after=1), Cut(after=1), Hang(after=1))
    observer = await synced(server, follow)
    for number in range(6):
        server.put("pods", pod(f"p{number}", "web:80=8000"))
    await observer.until(lambda: len(observer.pods) == 6)

    assert server.count("list pods") == 1
    assert server.count("watch pods") >= 4  # a proof that is late, on a busy machine, begins one more


async def test_a_bookmark_moves_the_place_where_a_watch_goes_on(server: ApiServer, follow: Follow) -> None:
    server.script("watch pods", Hang(after=1))
    server.script("prove pods", *[Fail(500)] * 1000)
    observer = await synced(server, follow)
    await observer.until(lambda: server.count("watch pods") == 1)
    server.version = 500
    server.bookmark()
    server.forget()
    server.put("pods", pod("p", "web:80=8000"))
    await observer.has_pods("p")

    assert [r for r in server.requests if "pods" in r and "prove" not in r] == [
        "list pods",
        "watch pods 102",
        "watch pods 500",
    ]


async def test_forgotten_history_means_a_list_that_removes_what_is_gone(server: ApiServer, follow: Follow) -> None:
    observer = Recorder()
    server.put("nodes", node("n1"))
    for name in ("stays", "goes"):
        server.put("pods", pod(name, "web:80=8000"))
    server.script("watch pods", error_event(410))
    cluster = follow(observer)
    await observer.has_pods("goes", "stays")
    server.vanish("pods", "goes", "demo")
    server.forget()
    await observer.has_pods("stays")
    await observer.until(lambda: cluster.relists() >= 1)


async def test_a_server_that_forgets_at_once_each_time_is_not_asked_in_a_hurry(
    server: ApiServer, follow: Follow
) -> None:
    server.script("watch pods", *[error_event(410)] * 1000)
    await synced(server, follow)
    await asyncio.sleep(0.2)

    assert server.count("list pods") <= 3  # after 0.05 and 0.1 seconds, then 0.2


async def test_a_page_that_fails_is_asked_for_again_not_the_whole_list(server: ApiServer, follow: Follow) -> None:
    for number in range(8):
        server.put("pods", pod(f"p{number}", "web:80=8000"))
    server.script("list pods", *[Fail(429, retry_after=0)] * 2)
    await synced(server, follow)

    assert server.count("list pods") == 3 + 2


async def test_credentials_are_renewed_when_they_are_refused(server: ApiServer, follow: Follow) -> None:
    server.wants_token = "old"
    observer = await synced(server, follow)
    server.wants_token = "new"
    server.script("watch pods", Lines(()))
    server.put("pods", pod("p", "web:80=8000"))
    await observer.has_pods("p")
    await observer.until(lambda: "Bearer new" in server.tokens_seen)


async def test_a_missing_permission_is_named(
    server: ApiServer, follow: Follow, caplog: pytest.LogCaptureFixture
) -> None:
    server.script("list pods", *[Fail(403, 'cannot list "pods"')] * 3)
    with caplog.at_level(logging.INFO):
        await synced(server, follow)

    assert [r.getMessage() for r in caplog.records if "pods" in r.getMessage()] == [
        'pods cannot be followed, trying again: RBAC lacks the verb list on pods of all namespaces (cannot list "pods")',
        "pods are followed again",
    ]


async def test_namespaces_that_cannot_be_listed_stop_nobody(server: ApiServer, follow: Follow) -> None:
    server.script("list namespaces", *[Fail(403)] * 100)
    await synced(server, follow)


async def test_no_pod_is_told_before_all_nodes_are(server: ApiServer, follow: Follow) -> None:
    server.script("list nodes", Fail(500), Fail(500))
    observer = Recorder()
    seen: list[int] = []
    observe = observer.observe

    def noting(change: ClusterChange) -> None:
        if list(change.pods):
            seen.append(len(observer.nodes))
        observe(change)

    observer.observe = noting  # type: ignore[method-assign]
    await synced(server, follow, pod("p", "web:80=8000"), observer=observer)

    assert seen == [2]


# -- proofs


async def test_a_complete_list_proves_the_time_at_which_it_began(server: ApiServer, follow: Follow) -> None:
    clock = count(1000)
    observer = Recorder()
    server.put("nodes", node("n1"))
    server.script("prove pods", *[Fail(500)] * 1000)
    await asyncio.wait_for(follow(observer, now=lambda: float(next(clock))).synced(), 5)

    assert len(observer.proofs) == 1


async def test_in_a_quiet_cluster_a_probe_proves_that_nothing_happened(server: ApiServer, follow: Follow) -> None:
    observer = await synced(server, follow)
    for _ in range(3):
        server.write_elsewhere()
        wanted = len(observer.proofs) + 2
        while len(observer.proofs) < wanted:
            await asyncio.sleep(0.005)

    assert any(request.startswith("prove pods 10") for request in server.requests)


async def test_where_events_come_no_probe_is_needed(server: ApiServer, follow: Follow) -> None:
    observer = await synced(server, follow)
    await observer.until(lambda: len(observer.proofs) > 2)

    assert [request for request in server.requests if request.startswith("prove pods ")] == []


async def test_nothing_is_proven_while_the_watch_lacks_a_pod(server: ApiServer, follow: Follow) -> None:
    observer = Recorder()
    server.put("nodes", node("n1"))
    server.script("watch pods", Hang(), Hang())
    clock = [1000.0]
    tuning = replace(TUNING, stall_seconds=30.0)
    cluster = follow(observer, tuning=tuning, now=lambda: clock[0])
    await asyncio.wait_for(cluster.synced(), 5)
    server.put("pods", pod("p", carries="abc"))
    clock[0] = 2000.0
    server.write_elsewhere()
    while 2000.0 not in observer.proofs:
        assert cluster.lag() == 1000.0
        assert "p" not in observer.pods
        await asyncio.sleep(0.005)
        if server.count("watch pods") > 2:
            break
    await observer.until(lambda: 2000.0 in observer.proofs)

    assert "p" in observer.pods
    assert cluster.lag() == 0.0


async def test_a_watch_that_misses_what_a_probe_shows_is_begun_anew(
    server: ApiServer, follow: Follow, caplog: pytest.LogCaptureFixture
) -> None:
    observer = Recorder()
    server.put("nodes", node("n1"))
    server.script("watch pods", Hang())
    await asyncio.wait_for(follow(observer, tuning=replace(TUNING, stall_seconds=30.0)).synced(), 5)
    server.put("pods", pod("p", "web:80=8000"))
    await observer.has_pods("p")

    assert "the watch of pods has not told" in caplog.text


async def test_nothing_is_proven_while_the_api_server_is_away(server: ApiServer, follow: Follow) -> None:
    observer = await synced(server, follow)
    await server.go_away()
    await asyncio.sleep(0.05)
    proofs = len(observer.proofs)
    await asyncio.sleep(0.1)

    assert len(observer.proofs) == proofs
    await server.start()
