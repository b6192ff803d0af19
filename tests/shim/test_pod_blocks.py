"""A port that stands for consecutive numbers: what is asked, what is written, and what is said when it cannot be."""

from __future__ import annotations

import json
from typing import Any

import jsonpatch
import msgspec
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from shimkit import FakeAllocator, Json, answering, body, container, decide, granted, patched, pod, port, review, run

from allocator.core.place.policies import groups_of, with_unset_defaults
from allocator.wire import parse_allocate
from shim.admission import AdmissionAnswer, admit, warning_text
from shim.outcomes import Unreachable
from shim.review import Denied, ToAllocate, parse_review
from shim.sizes import patch_bytes
from shim.skim import SMALL
from testing.costing import milliseconds

MEDIA = port("media", 10000, "UDP")


def relay(*ports: Json, block: str = "4", **more: Any) -> Json:
    """A Pod whose port `media` stands for some numbers, under `Dynamic`: they begin at 20000."""
    notes = {"policy": "Dynamic", "block-media": block, **more.pop("annotations", {})}
    return pod(container("app", *(ports or (MEDIA,))), annotations=notes, **more)


def asked(what: Json) -> list[tuple[str, int, int]]:
    """Name, count and alignment of the ports that a Pod asks for."""
    found = parse_review(body(what))
    assert isinstance(found, ToAllocate), found
    return [(each.name, each.count, each.alignment) for each in found.request.ports]


def denial(what: Json) -> list[str]:
    found = parse_review(body(what))
    assert isinstance(found, Denied), found
    return [str(each) for each in found.mistakes]


def entries(first: int, count: int, inside: int = 0, protocol: str = "UDP") -> list[Json]:
    """The entries of a block's other numbers. `inside`: its first containerPort, where that is another number."""
    return [
        {"containerPort": (inside or first) + at, "hostPort": first + at, "protocol": protocol}
        for at in range(1, count)
    ]


# -- what is asked


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        pytest.param(relay(block="100"), [("media", 100, 1)], id="a size"),
        pytest.param(relay(block=" 100  even "), [("media", 100, 2)], id="an even one"),
        pytest.param(relay(block="1024"), [("media", 1024, 1)], id="the largest"),
        pytest.param(relay(MEDIA, port("http")), [("media", 4, 1), ("http", 0, 0)], id="beside one number"),
        pytest.param(
            relay(MEDIA, port("tcp", 10000), port("http")),
            [("media", 4, 1), ("tcp", 4, 1), ("http", 0, 0)],
            id="a port group has one size",
        ),
        pytest.param(
            relay(MEDIA, port("tcp", 10000), annotations={"block-tcp": "4"}),
            [("media", 4, 1), ("tcp", 4, 1)],
            id="and may say it twice",
        ),
        pytest.param(
            relay(port("a", 5000, "UDP"), port("media", 5000, hostPort=6000), port("c", 5000, "SCTP", hostPort=7000)),
            [("a", 4, 1), ("media", 4, 1), ("c", 0, 0)],
            id="a port without a number is in the group of the first number",
        ),
        pytest.param(
            relay(port("a", 5000, "UDP"), port("b", 5000, hostPort=6000), port("media", 5000, "SCTP", hostPort=7000)),
            [("a", 0, 0), ("b", 0, 0), ("media", 4, 1)],
            id="and in none of another number",
        ),
        pytest.param(
            relay(port("media", 5000, "UDP"), port("b", 5000, hostPort=6000), port("c", 5000, hostPort=7000)),
            [("media", 4, 1), ("b", 4, 1), ("c", 0, 0)],
            id="two numbers of one containerPort are two sockets",
        ),
        pytest.param(
            pod(container("a", port("", 10000, "UDP")), annotations={"block-10000": "8"}),
            [("", 8, 1)],
            id="an unnamed port by its number",
        ),
        pytest.param(
            pod(container("a", MEDIA), container("b", MEDIA), annotations={"block-b-media": "8"}),
            [("media", 0, 0), ("media", 8, 1)],
            id="a name of two containers",
        ),
        pytest.param(
            relay(port("media", 53, hostIP="10.0.0.1"), port("other", 53, hostIP="10.0.0.2")),
            [("media", 4, 1), ("other", 4, 1)],
            id="two addresses are two sockets",
        ),
        pytest.param(
            pod(
                container("app"),
                initContainers=[container("relay", MEDIA, restartPolicy="Always")],
                annotations={"block-media": "4"},
            ),
            [("media", 4, 1)],
            id="a restartable init container",
        ),
    ],
)
def test_a_block_is_asked_for_as_one_port(what: Json, expected: list[tuple[str, int, int]]) -> None:
    assert asked(what) == expected


PORTS = st.lists(
    st.builds(
        lambda name, number, protocol, outside: port(name, number, protocol, **outside),
        st.sampled_from("abcdefgh"),
        st.sampled_from([5000, 5001]),
        st.sampled_from(["TCP", "UDP", "SCTP"]),
        st.sampled_from([{}, {}, *({"hostPort": number} for number in (5000, 5001, 6000, 7000))]),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda each: each["name"],
)


@given(PORTS, st.sampled_from(["Index", "Dynamic", "Static", "Passthrough"]), st.booleans())
@example([port("a", 5000, hostPort=5000), port("b", 5000, "UDP", hostPort=6000)], "Dynamic", True)
def test_a_block_is_that_of_the_port_group_that_the_allocator_makes(
    ports: list[Json], policy: str, host_network: bool
) -> None:
    name = ports[-1]["name"]
    what = pod(container("app", *ports), annotations={"policy": policy, f"block-{name}": "4"}, hostNetwork=host_network)

    found = parse_review(body(what))

    assume(isinstance(found, ToAllocate))  # two names of one socket are denied
    assert isinstance(found, ToAllocate)
    ask = with_unset_defaults(parse_allocate(found.request))
    (group,) = (members for members, _ in groups_of(ask) if len(ports) - 1 in members)
    assert [at for at, each in enumerate(ask.ports) if each.count == 4] == group


# -- what is wrong

HOW = 'write how many numbers, "100", or "100 even" where the first is to be even'


@pytest.mark.parametrize(
    ("value", "why"),
    [
        pytest.param("1", '"1" is not in 2..1024: a port without this annotation has one', id="one"),
        pytest.param("0", '"0" is not in 2..1024', id="none"),
        pytest.param("1025", '"1025" is not in 2..1024', id="too many"),
        pytest.param("9" * 40, f'"{"9" * 40}" is not in 2..1024', id="far too many"),
        pytest.param("100%", f'"100%" is no size of a block: {HOW}', id="a share"),
        pytest.param("even", '"even" does not say how many: write "100 even"', id="even alone"),
        pytest.param("100 odd", f'"100 odd" is no size of a block: {HOW}', id="odd"),
        pytest.param("100 Even", f'"100 Even" is no size of a block: {HOW}', id="in capitals"),
        pytest.param("", f'"" is no size of a block: {HOW}', id="nothing"),
        pytest.param("-4", f'"-4" is no size of a block: {HOW}', id="below zero"),
    ],
)
def test_what_is_no_size_is_denied_with_the_remedy(value: str, why: str) -> None:
    assert denial(relay(block=value)) == [f"BLOCK_INVALID: annotation hostport.io/block-media: {why}"]


INIT = "which ends before the Pod's programs start, and whose ports are left alone: remove the annotation"


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        pytest.param(
            pod(container("app", MEDIA), annotations={"block-medai": "4"}),
            'BLOCK_INVALID: annotation hostport.io/block-medai: the Pod has no port "medai"; did you mean "media"?',
            id="a misspelt name",
        ),
        pytest.param(
            pod(container("app", MEDIA), annotations={"block-rtp": "4"}),
            'BLOCK_INVALID: annotation hostport.io/block-rtp: the Pod has no port "rtp". Name one of: media',
            id="no such port",
        ),
        pytest.param(
            pod(container("a", MEDIA), container("b", MEDIA), annotations={"block-media": "8"}),
            'BLOCK_INVALID: annotation hostport.io/block-media: several ports are called "media". Name the container'
            " too: hostport.io/block-a-media",
            id="a name of two containers",
        ),
        pytest.param(
            relay(MEDIA, port("same", 10000, "UDP")),
            'BLOCK_INVALID: annotation hostport.io/block-media: ports "media" and "same" of container app are one'
            " socket, 10000/UDP: remove one of the two names",
            id="one socket under two names",
        ),
        pytest.param(
            relay(MEDIA, port("tcp", 10000), annotations={"block-tcp": "4 even"}),
            "BLOCK_SIZES_DIFFER: annotation hostport.io/block-tcp: annotation hostport.io/block-media says another"
            " size, and the two ports share their number: write one of them",
            id="two sizes of one group",
        ),
        pytest.param(
            relay(block="1024", annotations={"block-a": "2"}),
            'BLOCK_INVALID: annotation hostport.io/block-a: the Pod has no port "a". Name one of: media',
            id="an empty place",
        ),
        pytest.param(
            relay(MEDIA, port("tcp", 10000), block="600"),
            "TOO_MANY_NUMBERS: its ports stand for 1,200 numbers in all, more than 1,024: ask for smaller blocks, or"
            " split the Pod",
            id="too many numbers in all",
        ),
        pytest.param(
            pod(
                container("app", port()),
                initContainers=[container("setup", MEDIA)],
                annotations={"block-media": "4"},
            ),
            f'BLOCK_INVALID: annotation hostport.io/block-media: "media" is a port of init container setup, {INIT}',
            id="an ordinary init container",
        ),
        pytest.param(
            relay(port("media", 65000), block="1000", annotations={"network": "Pod"}),
            "BLOCK_INVALID: spec.containers[0].ports[0].containerPort: a block of 1000 from 65000 ends at 65999, above"
            " 65535: begin lower",
            id="no room inside",
        ),
        pytest.param(
            relay(port("media", 5000, "UDP", hostPort=7000), port("tcp", 5001, hostPort=7000)),
            'BLOCK_INVALID: spec.containers[0].ports[1].hostPort: 7000 is the first number of port "media" as well, and only'
            " one of the two is a block. Write another number, or make both a block",
            id="another port with its first number",
        ),
        pytest.param(
            relay(port("media", 7000, "UDP"), port("tcp", 5001, hostPort=7000), annotations={"policy": "Passthrough"}),
            'BLOCK_INVALID: spec.containers[0].ports[1].hostPort: 7000 is the first number of port "media" as well, and only'
            " one of the two is a block. Write another number, or make both a block",
            id="another port with a first number that passes through",
        ),
        pytest.param(
            pod(container("app", MEDIA), annotations={f"block-p{at}": "2" for at in range(129)}),
            "TOO_COMPLEX: metadata.annotations: 129 hostport.io/block annotations are more than 128. Ask for fewer and"
            " larger blocks",
            id="too many annotations",
        ),
    ],
)
def test_a_block_that_cannot_be_is_denied_with_the_remedy(what: Json, expected: str) -> None:
    assert denial(what) == [expected]


@pytest.mark.parametrize(
    "annotations",
    [
        pytest.param({"network": "Pod"}, id="where containerPorts stay"),
        pytest.param({"block-x": "4"}, id="where both are blocks"),
    ],
)
def test_two_ports_may_have_one_first_number(annotations: Json) -> None:
    ports = (port("media", 5000, hostPort=7000), port("x", 5001, "UDP", hostPort=7000))

    assert [name for name, _, _ in asked(relay(*ports, annotations=annotations))] == ["media", "x"]


@pytest.mark.parametrize(
    ("name", "guess"),
    [
        pytest.param("blok-media", "hostport.io/block-media", id="a letter lacks"),
        pytest.param("blocks-media", "hostport.io/block-media", id="one too many"),
        pytest.param("block", "hostport.io/block-<port>", id="no port"),
        pytest.param("pubish-web", "hostport.io/publish-web", id="the other one"),
    ],
)
def test_a_misspelt_annotation_is_told_with_the_right_one(name: str, guess: str) -> None:
    answer = decide(pod(container("app", MEDIA), annotations={name: "4"}), FakeAllocator())

    assert [warning_text(each) for each in answer.warnings if each.reason == "UNKNOWN_ANNOTATION"] == [
        f"UNKNOWN_ANNOTATION: annotation hostport.io/{name} is unknown and does nothing; did you mean {guess}?"
    ]


@pytest.mark.parametrize("name", ["foo", "externalIP", "stock-media", "network-policy-exempt-ports"])
def test_nothing_is_guessed_for_a_name_like_none_of_ours(name: str) -> None:
    answer = decide(pod(container("app", MEDIA), annotations={name: "4"}), FakeAllocator())

    assert [warning_text(each) for each in answer.warnings if each.reason == "UNKNOWN_ANNOTATION"] == [
        f"UNKNOWN_ANNOTATION: annotation hostport.io/{name} is unknown and does nothing"
    ]


# -- what is written


def test_the_other_numbers_stand_behind_the_ports_of_the_container() -> None:
    before = relay(MEDIA, port("http"))

    after = patched(before, decide(before, FakeAllocator()))

    assert after["spec"]["containers"][0]["ports"] == [
        port("media", 20000, "UDP", hostPort=20000),
        port("http", 20004, hostPort=20004),
        *entries(20000, 4),
    ]


def test_in_a_network_of_its_own_the_program_keeps_all_of_its_numbers() -> None:
    before = relay(annotations={"network": "Pod"})

    after = patched(before, decide(before, FakeAllocator()))

    assert after["spec"]["containers"][0]["ports"] == [
        port("media", 10000, "UDP", hostPort=20000),
        *entries(20000, 4, inside=10000),
    ]


def test_both_protocols_of_a_port_group_have_the_numbers() -> None:
    before = relay(MEDIA, port("tcp", 10000, hostIP="10.0.0.1"), block="2")

    after = patched(before, decide(before, FakeAllocator()))

    assert after["spec"]["containers"][0]["ports"][2:] == [
        *entries(20000, 2),
        {"containerPort": 20001, "hostPort": 20001, "protocol": "TCP", "hostIP": "10.0.0.1"},
    ]


def test_a_program_is_told_the_first_the_last_and_how_many() -> None:
    before = relay(block="100")

    after = patched(before, decide(before, FakeAllocator()))

    env = {each["name"]: each.get("value") for each in after["spec"]["containers"][0]["env"]}
    assert env == {
        "HOSTPORT_HOST_IP": None,
        "HOSTPORT_MEDIA": "20000",
        "HOSTPORT_MEDIA_MIN": "20000",
        "HOSTPORT_MEDIA_MAX": "20099",
        "HOSTPORT_MEDIA_COUNT": "100",
    }


def test_people_are_told_the_first_and_the_last_and_the_table_has_one_entry() -> None:
    before = relay(block="100")

    answer = decide(before, FakeAllocator())

    notes = patched(before, answer)["metadata"]["annotations"]
    row = {"container": "app", "name": "media", "protocol": "UDP", "containerPort": 10000, "hostPort": 20000}
    assert notes["hostport.io/allocated-media"] == "20000-20099"
    assert json.loads(notes["hostport.io/allocations"]) == [row | {"count": 100}]
    assert answer.numbers == ("20000-20099",)


def test_texts_probes_and_targets_follow_the_first_number() -> None:
    before = pod(
        container(
            "app",
            port("media", 10000),
            args=["--port=10000"],
            livenessProbe={"tcpSocket": {"port": 10000}},
        ),
        annotations={"policy": "Dynamic", "block-media": "4", "rewrite": "true", "publish-media": "env:RTP_PORT"},
    )

    app = patched(before, decide(before, FakeAllocator()))["spec"]["containers"][0]

    assert (app["args"], app["livenessProbe"]) == (["--port=20000"], {"tcpSocket": {"port": 20000}})
    assert {"name": "RTP_PORT", "value": "20000"} in app["env"]


@pytest.mark.parametrize(
    ("annotations", "number", "expected"),
    [
        pytest.param({"network": "Pod"}, 20000, ["MANY_PORTS"], id="many rules of the node"),
        pytest.param({}, 20000, [], id="none on the node's network"),
        pytest.param({}, 32700, ["EPHEMERAL_RANGE", "NODE_PORT_RANGE"], id="the last ones meet a range"),
    ],
)
def test_warnings_are_about_all_numbers_of_a_block(annotations: Json, number: int, expected: list[str]) -> None:
    before = pod(
        container("app", port("media", number, args=["$(HOSTPORT_MEDIA)"])),
        annotations={"policy": "Passthrough", "block-media": "100", **annotations},
    )

    answer = decide(before, FakeAllocator())

    assert [each.reason for each in answer.warnings if each.reason != "PORT_MOVED"] == expected


def test_an_allocator_that_knows_no_blocks_is_no_answer() -> None:
    allocate, _ = answering(granted(("app", "media/UDP", 10000, 20000)))

    answer = run(admit(body(relay(block="100")), allocate, probe=allocate))

    assert isinstance(answer, Unreachable)
    assert answer.message == (
        "the allocator's answer does not fit: spec.containers[0].ports[0] stands for 100 numbers, got 1 from 20000"
    )


# -- a Pod that comes again, or was restored

SIZES = st.sampled_from(["2", "3 even", "5", "40"])


@given(
    SIZES,
    st.lists(st.sampled_from([port("http"), port("tcp", 10000), port("", 9000, "UDP")]), unique_by=str),
    st.sampled_from(["Host", "Pod"]),
    st.booleans(),
)
def test_mutating_twice_adds_nothing_and_the_ports_stand_in_order(
    block: str,
    beside: list[Json],
    network: str,
    is_dry_run: bool,
) -> None:
    before = relay(MEDIA, *beside, block=block, annotations={"network": network})
    allocator = FakeAllocator()

    once = patched(before, decide(review(before, dryRun=is_dry_run), allocator))
    again = decide(review(once, dryRun=is_dry_run), allocator)

    assert again.ops == ()
    ports = once["spec"]["containers"][0]["ports"][1 + len(beside) :]
    assert ports == sorted(ports, key=lambda each: (each["protocol"] == "TCP", each["hostPort"]))
    assert len(ports) == (int(block.removesuffix(" even")) - 1) * (1 + (port("tcp", 10000) in beside))


def test_two_host_ports_of_one_container_port_are_still_two_when_the_pod_comes_again() -> None:
    row = {"container": "app", "protocol": "UDP", "containerPort": 53}
    table = [row | {"name": "web", "hostPort": 7000}, row | {"name": "dns", "hostPort": 9000, "count": 4}]
    ports = (port("web", 53, "UDP", hostPort=7000), port("dns", 53, "UDP", hostPort=9000), *entries(9000, 4, inside=53))
    notes = {"network": "Pod", "policy": "Dynamic", "block-dns": "4", "allocations": json.dumps(table)}

    assert asked(pod(container("app", *ports), annotations=notes)) == [("web", 0, 0), ("dns", 4, 1)]


def test_the_numbers_of_a_pod_that_comes_again_are_not_asked_for_as_ports() -> None:
    before = relay(block="100")

    once = patched(before, decide(before, FakeAllocator()))

    assert asked(once) == [("media", 100, 1)]


def test_a_port_that_another_webhook_adds_is_asked_for_beside_the_block() -> None:
    before = relay(block="4")
    allocator = FakeAllocator()
    once = patched(before, decide(before, allocator))
    once["spec"]["containers"][0]["ports"].insert(1, port("mesh", 15090, hostPort=15090))

    answer = decide(once, allocator)

    assert answer.numbers == ("20000-20003", 15090)
    assert patched(once, answer)["spec"]["containers"][0]["ports"] == [
        port("media", 20000, "UDP", hostPort=20000),
        port("mesh", 15090, hostPort=15090),
        *entries(20000, 4),
    ]


@given(st.sets(st.integers(1, 6), min_size=1))
def test_numbers_that_another_webhook_took_away_are_declared_again(taken: set[int]) -> None:
    before = relay(block="6")
    allocator = FakeAllocator()
    once = patched(before, decide(before, allocator))
    ports = once["spec"]["containers"][0]["ports"]
    once["spec"]["containers"][0]["ports"] = [each for each in ports if each["hostPort"] - 20000 not in taken]

    twice = patched(once, decide(once, allocator))

    assert sorted(twice["spec"]["containers"][0]["ports"], key=lambda each: each["hostPort"]) == ports


def restored(former: Json, block: str | None, network: str = "Host") -> Json:
    """A Pod of a former life as it is created anew, with another size of its block, or without."""
    notes = {key: value for key, value in former["metadata"]["annotations"].items() if "block-" not in key}
    notes |= {"hostport.io/block-media": block} if block else {}
    spec = former["spec"] if network == "Pod" else former["spec"] | {"hostNetwork": True}
    return former | {"metadata": former["metadata"] | {"annotations": notes}, "spec": spec}


@given(
    st.sampled_from(["2", "5", "9"]),
    st.sampled_from([None, "2", "5", "9"]),
    st.sampled_from(["Host", "Pod"]),
    st.sampled_from([20000, 20003, 30000]),
)
def test_a_restored_pod_has_its_new_numbers_and_none_of_the_old_ones(
    before: str, after: str | None, network: str, number: int
) -> None:
    """Wherever the new numbers begin: at the old ones, among them, elsewhere."""
    made = relay(MEDIA, port("http"), block=before, annotations={"network": network})
    former = patched(made, decide(made, FakeAllocator()))
    former["spec"]["containers"][0]["ports"].append(port("late", 7777, hostPort=7777))
    again = restored(former, after, network)
    count = int(after or 1)
    response = granted(("app", "media/UDP", 10000, number), ("app", "http", 8080, 40000), ("app", "late", 7777, 40001))
    response.allocation.ports[0].count = count

    found = patched(again, decide(again, answering(response)[0]))

    ports = found["spec"]["containers"][0]["ports"]
    inside = number if network == "Host" else 10000
    mine = [each for each in ports if not each.get("name")]
    assert sorted(mine, key=lambda each: each["hostPort"]) == entries(number, count, inside)
    assert [each["hostPort"] for each in ports if each.get("name")] == [number, 40000, 40001]
    assert found["metadata"]["annotations"]["hostport.io/allocated-media"] == (
        str(number) if count == 1 else f"{number}-{number + count - 1}"
    )


@given(st.integers(2, 40), st.lists(st.integers(20001, 20045), max_size=12, unique=True), st.sampled_from([1, 2, 40]))
def test_whatever_a_table_says_no_port_stands_that_was_not_asked_for(count: int, numbers: list[int], size: int) -> None:
    """A table proves nothing: a user's own ports may stand where it says that a block was."""
    row = {"container": "app", "name": "media", "protocol": "UDP", "containerPort": 9, "hostPort": 20000}
    made = pod(
        container(
            "app", port("media", 20000, "UDP", hostPort=20000), *(port("", n, "UDP", hostPort=n) for n in numbers)
        ),
        hostNetwork=True,
        annotations={
            "policy": "Static",
            "allocations": json.dumps([row | {"count": count}]),
            **({"block-media": str(size)} if size > 1 else {}),
        },
    )

    answer = decide(made, FakeAllocator())

    held = {n for each in answer.numbers for n in whole(each)}
    assert {each["hostPort"] for each in patched(made, answer)["spec"]["containers"][0]["ports"]} == held


def whole(shown: int | str) -> range:
    first, _, last = str(shown).partition("-")
    return range(int(first), int(last or first) + 1)


@pytest.mark.parametrize("table", ["", "x", '[{"count": 4}]', '[{"count": -1}]', json.dumps([{"count": 10**9}])])
def test_a_table_that_says_nothing_changes_nothing(table: str) -> None:
    assert asked(relay(annotations={"allocations": table})) == [("media", 4, 1)]


# -- how large it may be


def test_the_largest_block_comes_again_though_its_review_is_large() -> None:
    before = relay(block="1024")
    allocator = FakeAllocator()

    answer = decide(before, allocator)
    once = patched(before, answer)

    assert len(body(once)) > SMALL
    assert decide(once, allocator).ops == ()
    assert len(answer.body) < 160_000


@pytest.mark.parametrize("network", ["Host", "Pod"])
@pytest.mark.parametrize("comes", ["new", "restored"])
def test_a_patch_is_never_larger_than_was_foretold(network: str, comes: str) -> None:
    before = relay(
        port("media", 10000, "UDP", hostIP="2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff"),
        block="500",
        annotations={"network": network},
    )
    if comes == "restored":
        former = patched(before, decide(before, FakeAllocator()))
        before = restored(former, "400", network)
    found = parse_review(body(before))
    assert isinstance(found, ToAllocate)
    response = granted(("app", "media/UDP", 10000, 50000))
    response.allocation.ports[0].count = found.request.ports[0].count

    answer = decide(before, answering(response)[0])

    assert len(msgspec.json.encode(answer.ops)) <= patch_bytes(found.pod, inject_env=True)


def test_every_operation_changes_something() -> None:
    made = relay(block="5")
    former = patched(made, decide(made, FakeAllocator()))
    again = restored(former, "3")
    response = granted(("app", "media/UDP", 10000, 20002))
    response.allocation.ports[0].count = 3

    answer = decide(again, answering(response)[0])

    assert isinstance(answer, AdmissionAnswer)
    current = again
    for op in msgspec.to_builtins(answer.ops):
        after = jsonpatch.apply_patch(current, [op])
        assert after != current
        current = after


def many(count: int, size: int, *, misnamed: bool = False) -> Json:
    """A Pod with many blocks, or with as many annotations that name none of its ports."""
    ports = [port(f"p{at}", 1000 + at) for at in range(count)]
    notes = {f"block-{'x' * 40 if misnamed else 'p'}{at}": str(size) for at in range(count)}
    return pod(container("app", *ports), annotations={"policy": "Dynamic", **notes})


def row(at: int, count: int) -> Json:
    return {"container": "app", "name": f"p{at}", "protocol": "TCP", "containerPort": 1, "hostPort": at, "count": count}


@pytest.mark.parametrize(
    "what",
    [
        pytest.param(relay(block="1024"), id="the largest block"),
        pytest.param(many(128, 8), id="as many blocks as may be"),
        pytest.param(many(128, 8, misnamed=True), id="as many that name no port"),
        pytest.param(
            pod(
                container("app", *(port(f"p{at}", at, hostPort=at) for at in range(1, 512))),
                annotations={"policy": "Dynamic", "allocations": json.dumps([row(at, 1024) for at in range(1, 512)])},
            ),
            id="a table that says too much",
        ),
    ],
)
def test_what_one_pod_costs_is_bounded(what: Json) -> None:
    sent = body(what)
    results: list[str] = []

    def answered() -> None:
        answer = run(admit(sent, FakeAllocator(), probe=FakeAllocator()))
        assert isinstance(answer, AdmissionAnswer)
        results.append(answer.result)

    assert milliseconds(answered) < 50
    assert len(set(results)) == 1


def test_the_largest_block_that_comes_again_costs_no_more_than_a_turn() -> None:
    before = relay(block="1024")
    allocator = FakeAllocator()
    sent = body(patched(before, decide(before, allocator)))

    def answered() -> None:
        answer = run(admit(sent, allocator, probe=allocator))
        assert isinstance(answer, AdmissionAnswer)
        assert answer.ops == ()

    assert milliseconds(answered) < 50
