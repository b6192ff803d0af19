"""Reserved numbers: what `--reserved-ports` may say, and for whom each number is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from allocator.core.ports import format_numbers, parse_numbers, set_of
from allocator.core.reserved import ReservedNumbers, parse_reserved
from hostport.contract.reserved import DEFAULT_RESERVED, PRESETS
from testing.kit import Desk, ask, lease


@pytest.mark.parametrize(
    ("text", "numbers", "owners"),
    [
        pytest.param("", "", {}, id="nothing"),
        pytest.param("7000,7010-7012", "7000,7010-7012", {}, id="numbers and ranges, for nobody who is known"),
        pytest.param("10250, 22", "22,10250", {22: "sshd", 10250: "kubelet"}, id="numbers that are known everywhere"),
        pytest.param("9901", "9901", {}, id="a number that only a platform has which is not named"),
        pytest.param(
            "k3s",
            "2379-2382,5001,6443-6444,8472,10010,51820-51821",
            {6443: "K3s", 8472: "VXLAN of flannel", 2381: "etcd of K3s", 51821: "WireGuard of flannel"},
            id="a preset",
        ),
        pytest.param("cilium,k3s", None, {8472: "VXLAN of Cilium", 6443: "K3s"}, id="the first preset that has it"),
        pytest.param("k3s,cilium", None, {8472: "VXLAN of flannel", 4240: "cilium-health"}, id="in the other order"),
        pytest.param("k3s,7000", None, {10010: "containerd of K3s"}, id="a preset and a number"),
    ],
)
def test_numbers_ranges_and_presets_are_read_with_their_owners(
    text: str, numbers: str | None, owners: dict[int, str]
) -> None:
    reserved = parse_reserved(text)

    assert numbers is None or format_numbers(reserved.numbers) == numbers
    assert {number: reserved.owners.get(number) for number in owners} == owners
    assert set_of(reserved.owners) & ~reserved.numbers == 0
    assert owners or not reserved.owners


def test_the_default_is_what_it_was_and_names_everybody() -> None:
    reserved = parse_reserved(DEFAULT_RESERVED)

    assert reserved.numbers == parse_numbers("22,2379-2381,6443,7472,7946,9100,10248-10259")
    assert set_of(reserved.owners) == reserved.numbers


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "kubernets",
            "'kubernets' is neither a port in 1..65535 nor a range such as 10248-10259 nor one of kubernetes,",
        ),
        (
            "22-21",
            "'22-21' is neither a port in 1..65535 nor a range such as 10248-10259 nor one of kubernetes, cilium",
        ),
        ("Cilium", "'Cilium' is neither"),
    ],
)
def test_what_is_none_of_them_is_refused_with_the_words_that_there_are(text: str, said: str) -> None:
    with pytest.raises(ValueError, match="neither") as error:
        parse_reserved(text)
    assert str(error.value).startswith(said)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_no_number_twice_and_no_node_ports(name: str) -> None:
    taken = 0
    for each in PRESETS[name]:
        numbers = set_of(range(each.first, each.last + 1))
        assert 1 <= each.first <= each.last <= 65535, each
        assert not numbers & set_of(range(30000, 32768)), each
        assert not (taken & numbers), each
        taken |= numbers


SOME = parse_reserved("kubernetes,7000")


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ("10250", "10250 is reserved for kubelet"),
        ("7000", "7000 is reserved in this cluster"),
        ("2379-2381", "2379-2381 are reserved for etcd"),
        ("10248-10250", "10248,10250 are reserved for kubelet, 10249 is reserved for kube-proxy"),
        ("6999", ""),
    ],
)
def test_it_is_said_for_whom_numbers_are_reserved(numbers: str, said: str) -> None:
    assert SOME.words(parse_numbers(numbers)) == said


def test_runs_of_one_owner_are_told_as_one() -> None:
    reserved = ReservedNumbers.of({2379: "etcd", 2380: "etcd", 2381: "other", 7: "", 9: "", 10: ""})

    assert [(first, count, owner) for first, count, _, owner in reserved.runs()] == [
        (7, 1, ""),
        (9, 2, ""),
        (2379, 2, "etcd"),
        (2381, 1, "other"),
    ]
    assert [(first, protocol.value) for first, _, protocol, _ in parse_reserved("k3s").runs() if first == 8472] == [
        (8472, "UDP")
    ]


def test_a_refusal_names_for_whom_a_number_is_reserved() -> None:
    desk = Desk("n1", reserved=SOME.numbers, reserved_for=SOME.owners)

    assert desk.refusal(ask("a", "x:1", policy="Index", low=10250, high=10300, index=0)) == {
        "PORT_RESERVED": "port x (1/TCP) of container c: range.min 10250 + index 0 + stride 100 x 0 = 10250 is reserved"
        " for kubelet. Move range.min"
    }
    assert desk.refusal(lease("relay", "x:1=6443", policy="Static")) == {
        "PORT_RESERVED": "port x (1/TCP) of container c: 6443 is reserved for kube-apiserver, and cannot be leased. Choose"
        " another number"
    }
    assert desk.refusal(ask("a", "x:1", low=2379, high=2380)) == {
        "RANGE_RESERVED": "every number of range 2379-2380 is reserved in this cluster (2379-2380). Choose another range"
    }
    desk.grant(ask("b", "x:10250", policy="Passthrough"))
    assert [warning.message for warning in desk.warnings] == ["10250 is reserved for kubelet"]


def test_the_chart_takes_every_preset() -> None:
    chart = Path(__file__).resolve().parents[2] / "deploy" / "chart" / "hostport-operator"
    schema = json.loads((chart / "values.schema.json").read_text(encoding="utf-8"))
    pattern = schema["properties"]["reservedPorts"]["pattern"]

    assert re.fullmatch(pattern, ",".join(PRESETS) + "," + DEFAULT_RESERVED)
