"""Whether somebody listens on the numbers that are given, by what the agents of nodes reported."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest

from allocator.core.candidates import NodeName
from allocator.core.claims import Claim
from allocator.core.ports import PortKey, Protocol
from allocator.core.watch.listening import READY_SECONDS, NoListener, SilentPod, is_listening
from testing.kit import Desk, ask, lease, node, pod, report

ALL = 1_000_000


class Reported:
    """What the agents of some nodes reported: `8080/TCP`, `53/UDP@127.0.0.1`."""

    def __init__(self, desk: Desk, **open_on: str) -> None:
        self._desk = desk
        self._found: dict[str, dict[tuple[str, int], set[str]]] = {}
        self._at: dict[str, float] = {}
        self.report(**open_on)
        desk.ledger.listening.sockets = self

    def report(self, **open_on: str) -> None:
        """A report of each of these nodes, now."""
        for name, sockets in open_on.items():
            found = self._found[name] = {}
            self._at[name] = self._desk.now
            for socket in sockets.split():
                slot, _, address = socket.partition("@")
                number, _, protocol = slot.partition("/")
                found.setdefault((protocol or "TCP", int(number)), set()).add(address)

    def reporting(self) -> Collection[NodeName]:
        return [NodeName(name) for name in self._found]

    def addresses(self, node: NodeName, protocol: Protocol, number: int) -> Collection[str] | None:
        return self._found[node].get((protocol.value, number), ()) if node in self._found else None

    def reported_at(self, node: NodeName) -> float | None:
        return self._at.get(node)

    def may_be_of_a_client(self, node: NodeName, key: PortKey) -> bool:
        return key.protocol is Protocol.UDP and key.number >= 32768


def bind(desk: Desk, *ports: str, name: str = "web", at: str = "n1", ready: float | None = 0.0, **more: Any) -> Claim:
    """A Pod that was admitted and runs on a node, Ready for so many seconds; None: it is not Ready."""
    claim = desk.grant(ask(name, *ports, policy="Static"))
    show(desk, claim, at=at, ready=ready, **more)
    return desk.ledger.claims.get(claim.id) or claim


def show(desk: Desk, claim: Claim, *, at: str = "n1", ready: float | None = 0.0, **more: Any) -> None:
    """The Pod of a claim as the cluster has it."""
    shown = pod(claim.owner.name, at=at, carried_id=claim.id, ready_at=None if ready is None else desk.now - ready)
    desk.observe(pods=[replaced(shown, ports=claim.ports, **more)])


def replaced(shown: Any, **changes: Any) -> Any:
    from msgspec.structs import replace

    return replace(shown, **changes)


def told(desk: Desk) -> list[SilentPod]:
    return desk.ledger.listening.look(desk.now, ALL)


def reasons(found: Iterable[SilentPod]) -> list[tuple[str, list[tuple[int, NoListener]]]]:
    return [(each.claim.owner.name, [(one.port.host_port, one.why) for one in each.ports]) for each in found]


# -- one port


LISTENING = {
    "open on every address": ("web:80=7000", "7000", {}, True),
    "open on the node's address": ("web:80=7000", "7000@10.0.0.1", {}, True),
    "closed": ("web:80=7000", "7001", {}, False),
    "open on loopback alone": ("web:80=7000", "7000@127.0.0.1 7000@::1", {}, False),
    "open on loopback and beyond": ("web:80=7000", "7000@127.0.0.1 7000@10.0.0.1", {}, True),
    "open on the loopback that was asked for": ("web:80=7000@127.0.0.1", "7000@127.0.0.1", {}, True),
    "open on the address as it is spelled otherwise": ("web:80=7000@2001:DB8::1", "7000@2001:db8::1", {}, True),
    "open on the IPv4 address that was asked for in IPv6": ("web:80=7000@::ffff:10.0.0.1", "7000@10.0.0.1", {}, True),
    "open on another address than was asked for": ("web:80=7000@10.0.0.1", "7000@10.0.0.2", {}, False),
    "open on every address where one was asked for": ("web:80=7000@10.0.0.1", "7000", {}, True),
    "open under another protocol": ("web:80/UDP=7000", "7000/TCP", {}, False),
    "a block, open at one of its numbers": ("web:80=7000*100", "7042", {}, True),
    "a block, open behind its last number": ("web:80=7000*100", "7100", {}, False),
    "SCTP, of which a kernel may not tell": ("web:80/SCTP=7000", "7000/TCP", {}, None),
    "SCTP, open": ("web:80/SCTP=7000", "7000/SCTP", {}, True),
    "a network of its own": ("web:80=7000", "7000", {"own_network": True}, None),
    "on no node yet": ("web:80=7000", "7000", {"at": None}, None),
    "on a node without a report": ("web:80=7000", "7000", {"at": "n2"}, None),
}


@pytest.mark.parametrize(("port", "sockets", "more", "expected"), LISTENING.values(), ids=LISTENING)
def test_a_port_is_listened_on_where_a_socket_takes_what_is_sent_to_it(
    port: str, sockets: str, more: dict[str, Any], expected: bool | None
) -> None:
    desk = Desk("n1", "n2")
    reported = Reported(desk, n1=sockets)
    claim = bind(desk, port, **more)

    assert is_listening(claim, claim.ports[0].key, reported) is expected


def test_a_leased_number_is_listened_on_like_any_other_and_a_pod_that_never_asked_is_not_judged() -> None:
    desk = Desk("n1")
    reported = Reported(desk, n1="7000 7001")
    leased = desk.grant(lease("relay", "web:80=7000", policy="Static"))
    desk.observe(pods=[pod("stranger", "web:80=7001", at="n1")])
    stranger = next(claim for claim in desk.ledger.claims if claim.unmanaged)

    assert [is_listening(claim, claim.ports[0].key, reported) for claim in (leased, stranger)] == [True, None]


# -- Pods that are told


def test_a_pod_is_told_once_a_minute_after_it_became_ready_and_by_a_report_that_was_asked_for() -> None:
    desk = Desk("n1")
    reported = Reported(desk, n1="")
    bind(desk, "web:80=7000", ready=0.0)
    seen = []

    for seconds in (READY_SECONDS - 1, READY_SECONDS, READY_SECONDS + 1, READY_SECONDS + 2, READY_SECONDS + 9):
        desk.now = 1000.0 + seconds
        if seconds == READY_SECONDS + 2:
            reported.report(n1="")
        seen.append((reasons(told(desk)), desk.ledger.listening.take_wanted(), desk.ledger.listening.silent))

    assert seen == [
        ([], [], 0),
        ([], ["n1"], 0),
        ([], ["n1"], 0),
        ([("web", [(7000, NoListener.NOTHING)])], [], 1),
        ([], [], 1),
    ]


def silent(desk: Desk, reported: Reported, **sockets: str) -> list[SilentPod]:
    """Who is told of, with these reports, when everybody is Ready for long."""
    desk.now += 2 * READY_SECONDS
    assert told(desk) == []
    desk.now += 1
    reported.report(**sockets)
    return told(desk)


CAUSES = {
    "on its container port": ("8080", [(7000, NoListener.CONTAINER_PORT)]),
    "on loopback": ("7000@127.0.0.1 8080", [(7000, NoListener.OTHER_ADDRESS)]),
    "under another protocol": ("7000/UDP", [(7000, NoListener.OTHER_PROTOCOL)]),
    "under SCTP": ("7000/SCTP", [(7000, NoListener.OTHER_PROTOCOL)]),
    "nowhere": ("22", [(7000, NoListener.NOTHING)]),
    "listens": ("7000", []),
}


@pytest.mark.parametrize(("sockets", "expected"), CAUSES.values(), ids=CAUSES)
def test_what_is_open_on_the_node_says_why_nobody_listens(sockets: str, expected: list[tuple[int, NoListener]]) -> None:
    desk = Desk("n1")
    reported = Reported(desk, n1=sockets)
    bind(desk, "web:8080=7000")

    assert reasons(silent(desk, reported, n1=sockets)) == ([("web", expected)] if expected else [])


def test_a_container_port_that_another_claim_has_explains_nothing() -> None:
    desk = Desk("n1")
    reported = Reported(desk, n1="8080")
    bind(desk, "web:8080=7000")
    bind(desk, "web:80=8080", name="other")

    assert reasons(silent(desk, reported, n1="8080")) == [("web", [(7000, NoListener.NOTHING)])]


def test_only_the_ports_on_which_nobody_listens_are_told() -> None:
    desk = Desk("n1")
    reported = Reported(desk, n1="7000")
    bind(desk, "web:80=7000", "metrics:90=7001", "dns:53/UDP=7002")

    (found,) = silent(desk, reported, n1="7000")

    assert [each.port.host_port for each in found.ports] == [7001, 7002]


SINCE = {
    "seen before it was Ready": (None, 0.5),
    "Ready for long when it is first seen, as after a restart of the allocator": (3600.0, READY_SECONDS + 1),
}


@pytest.mark.parametrize(("before", "expected"), SINCE.values(), ids=SINCE)
def test_silence_counts_from_when_the_pod_became_ready_where_that_was_seen(
    before: float | None, expected: float
) -> None:
    desk = Desk("n1")
    reported = Reported(desk, n1="")
    claim = bind(desk, "web:80=7000", ready=before)
    show(desk, claim, ready=3600.0)

    assert after(desk, reported, 3600, "") == [(expected, 1)]


NOT_TOLD = {
    "not ready": {"ready": None},
    "in a network of its own": {"own_network": True},
    "on no node": {"at": None},
    "on its way out": {"is_terminating": True},
    "on a node that nobody reports": {"at": "n2"},
}


@pytest.mark.parametrize("more", NOT_TOLD.values(), ids=NOT_TOLD)
def test_who_need_not_listen_is_not_told(more: dict[str, Any]) -> None:
    desk = Desk("n1", "n2")
    reported = Reported(desk, n1="")
    bind(desk, "web:80=7000", **more)

    assert (silent(desk, reported, n1=""), desk.ledger.listening.silent) == ([], 0)


def test_a_pod_that_ends_is_no_longer_counted() -> None:
    desk = Desk("n1")
    reported = Reported(desk, n1="")
    claim = bind(desk, "web:80=7000")
    assert len(silent(desk, reported, n1="")) == desk.ledger.listening.silent == 1

    show(desk, claim, ready=READY_SECONDS, is_terminating=True)
    assert (told(desk), desk.ledger.listening.silent) == ([], 0)


def test_a_pod_is_not_counted_while_nobody_knows_whether_it_listens() -> None:
    desk = Desk("n1", "n2")
    claim = bind(desk, "web:80=7000", ready=None)
    show(desk, claim, ready=READY_SECONDS)
    desk.observe(reports=(report("n1"), report("n2")))
    watch, counts = desk.ledger.listening, list[tuple[int, int]]()
    changes: list[dict[str, Any]] = [
        {"reports": (report("n1"),)},
        {"gone_nodes": ["n1"]},
        {"nodes": [node("n1")]},
        {"reports": (report("n1"),)},
    ]
    told(desk)
    for change in changes:
        desk.now += 1
        desk.observe(**change)
        counts.append((len(told(desk)), watch.silent))

    assert counts == [(1, 1), (0, 0), (0, 0), (0, 1)]


def test_a_udp_number_that_a_client_might_have_is_doubted_until_the_agent_would_tell_of_it() -> None:
    desk = Desk("n1")
    bind(desk, "game:7000/UDP=40000", ready=60.0)
    reported = Reported(desk, n1="")
    seen = []
    for seconds in (0.0, READY_SECONDS + 74.0, 1.0, 1.0):
        desk.now += seconds
        reported.report(n1="")
        seen.append((reasons(told(desk)), desk.ledger.listening.take_wanted()))

    assert seen == [([], []), ([], []), ([], ["n1"]), ([("web", [(40000, NoListener.NOTHING)])], [])]


def after(desk: Desk, reported: Reported, seconds: float, sockets: str, every: float = 0.5) -> list[tuple[float, int]]:
    """When a Pod is told of in so many seconds, from now, with a report before each look; and how many are counted."""
    began, found = desk.now, list[tuple[float, int]]()
    while desk.now < began + seconds:
        desk.now += every
        reported.report(n1=sockets)
        found += [(desk.now - began, desk.ledger.listening.silent) for _ in told(desk)]
    return found


REOPENING = {
    "new, from when it last listened": (0.0, READY_SECONDS + 0.5),
    "Ready for an hour, from the look that found it silent": (3600.0, READY_SECONDS + 1),
}


@pytest.mark.parametrize(("ready", "expected"), REOPENING.values(), ids=REOPENING)
def test_a_pod_that_opens_its_socket_anew_is_told_of_only_when_it_was_silent_for_a_minute(
    ready: float, expected: float
) -> None:
    desk = Desk("n1")
    reported = Reported(desk, n1="7000")
    claim = bind(desk, "web:80=7000", ready=ready)
    assert after(desk, reported, READY_SECONDS - 20, "7000") == []
    show(desk, claim, ready=ready + READY_SECONDS - 20)  # seen anew, as it is now and then
    for _ in range(3):
        assert after(desk, reported, READY_SECONDS - 1, "") == []
        assert after(desk, reported, 2, "7000") == []

    assert after(desk, reported, 10 * READY_SECONDS, "") == [(expected, 1)]


def test_who_listens_after_all_is_no_longer_counted_and_is_told_again_of_a_new_silence() -> None:
    desk = Desk("n1")
    reported = Reported(desk, n1="")
    bind(desk, "web:80=7000", ready=READY_SECONDS)
    watch, counts = desk.ledger.listening, list[tuple[int, int]]()
    for seconds, sockets in ((3600, ""), (1, "7000"), (READY_SECONDS, ""), (3600, "")):
        counts.append((len(after(desk, reported, seconds, sockets)), watch.silent))

    assert counts == [(1, 1), (0, 0), (0, 0), (1, 1)]


def test_a_pod_that_was_unready_and_has_not_listened_is_not_told_of_again() -> None:
    desk = Desk("n1")
    reported = Reported(desk, n1="")
    claim = bind(desk, "web:80=7000")
    watch, counts = desk.ledger.listening, [len(after(desk, reported, 3600, ""))]
    for ready in (None, 0.0):
        show(desk, claim, ready=ready)
        counts += [len(after(desk, reported, READY_SECONDS - 1, "")), watch.silent]

    assert (counts, after(desk, reported, 2, ""), watch.silent) == ([1, 0, 0, 0, 0], [], 1)


def test_a_pod_that_stops_being_ready_has_a_minute_again() -> None:
    desk = Desk("n1")
    reported = Reported(desk, n1="")
    claim = bind(desk, "web:80=7000", ready=2 * READY_SECONDS)
    show(desk, claim, ready=None)
    desk.now += READY_SECONDS
    show(desk, claim, ready=0.0)
    assert silent(desk, reported, n1="")[0].claim.id == claim.id


def test_nothing_is_kept_of_pods_that_are_ready_for_long_and_of_those_that_are_gone() -> None:
    desk = Desk("n1")
    Reported(desk, n1="")
    watch = desk.ledger.listening
    old = bind(desk, "web:80=7000", ready=READY_SECONDS)
    bind(desk, "web:80=7001", name="new", ready=None)
    assert list(watch.early) != [old.id]
    told(desk)
    desk.observe(gone_pods=[claim.pod_uid for claim in desk.ledger.claims if claim.pod_uid])

    assert (watch.early, watch.silent, told(desk)) == ({}, 0, [])


def test_nothing_is_kept_of_a_pod_that_listens_when_it_is_seen_again_after_its_first_minute() -> None:
    desk = Desk("n1")
    reported = Reported(desk, n1="7000")
    claim = bind(desk, "web:80=7000", ready=None)
    show(desk, claim, ready=0.0)
    assert after(desk, reported, READY_SECONDS + 1, "7000") == []
    show(desk, claim, ready=READY_SECONDS + 1)

    assert desk.ledger.listening.early == {}


def test_one_look_is_bounded_and_the_next_goes_on_where_it_ended() -> None:
    desk = Desk("n1", "n2", "n3")
    reported = Reported(desk, n1="", n2="", n3="")
    for at in ("n1", "n2", "n3"):
        bind(desk, "web:80=7000", name=f"on-{at}", at=at, ready=READY_SECONDS)
    watch, wanted = desk.ledger.listening, []
    for _ in range(3):
        watch.look(desk.now, 1)
    desk.now += READY_SECONDS

    for _ in range(3):
        watch.look(desk.now, 1)
        wanted.append(watch.take_wanted())
    desk.now += 1
    reported.report(n1="", n2="", n3="")

    assert wanted == [["n1"], ["n1", "n2"], ["n1", "n2", "n3"]], "those in doubt are looked at again besides"
    assert [name for name, _ in reasons(watch.look(desk.now, 1))] == ["on-n1", "on-n2", "on-n3"]
    assert (watch.look(desk.now, ALL), watch.silent) == ([], 3)
