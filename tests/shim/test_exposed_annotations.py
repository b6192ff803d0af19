from __future__ import annotations

import msgspec
import pytest
from shimkit import Json, container, granted, pod, port

from shim.pods import parse_pod
from shim.ports import audit_annotations, audit_ops, match_ports

LONG = "container-with-a-very-long-name-that-nobody-can-remember-at-all"


def names(obj: Json, *held: tuple[str, str, int, int]) -> dict[str, str]:
    """The `allocated-` ones, without the prefix."""
    found = audit_annotations(match_ports(parse_pod(obj), granted(*held).allocation), "")
    return {key.removeprefix("hostport.io/"): value for key, value in found.items() if "allocated-" in key}


@pytest.mark.parametrize(
    ("obj", "held", "expected"),
    [
        pytest.param(pod(container("a", port("web"))), [("a", "web", 8080, 1)], {"allocated-web": "1"}, id="a name"),
        pytest.param(pod(container("a", port())), [("a", "", 8080, 1)], {"allocated-8080-TCP": "1"}, id="unnamed"),
        pytest.param(
            pod(container("a", port(number=53), port(number=53, protocol="UDP"))),
            [("a", "", 53, 1), ("a", "/UDP", 53, 1)],
            {"allocated-53-TCP": "1", "allocated-53-UDP": "1"},
            id="unnamed twins",
        ),
        pytest.param(
            pod(container("a", port("web")), container("b", port("web"), port("own", 1))),
            [("a", "web", 8080, 1), ("b", "web", 8080, 2), ("b", "own", 1, 3)],
            {"allocated-a-web": "1", "allocated-b-web": "2", "allocated-own": "3"},
            id="a name of two containers",
        ),
        pytest.param(
            pod(container("a", port()), container("b", port())),
            [("a", "", 8080, 1), ("b", "", 8080, 2)],
            {"allocated-a-8080-TCP": "1", "allocated-b-8080-TCP": "2"},
            id="a number of two containers",
        ),
        pytest.param(
            pod(container(LONG, port("metrics-port")), container(LONG[:-1] + "x", port("metrics-port"))),
            [(LONG, "metrics-port", 8080, 1), (LONG[:-1] + "x", "metrics-port", 8080, 2)],
            {
                "allocated-container-with-a-very-long-name-166a7b2f-metrics-port": "1",
                "allocated-container-with-a-very-long-name-527853c1-metrics-port": "2",
            },
            id="long container names",
        ),
    ],
)
def test_the_name_of_an_annotation(obj: Json, held: list[tuple[str, str, int, int]], expected: dict[str, str]) -> None:
    found = names(obj, *held)

    assert found == expected
    assert max(map(len, found)) <= 63


def test_the_table_can_be_read_back_both_ways() -> None:
    made = pod(container("a", port("web"), port(number=53, protocol="UDP")))

    found = audit_annotations(
        match_ports(parse_pod(made), granted(("a", "web", 8080, 1), ("a", "/UDP", 53, 2)).allocation), "i"
    )

    assert found["hostport.io/allocations"] == (
        '[{"container":"a","name":"web","protocol":"TCP","containerPort":8080,"hostPort":1},'
        '{"container":"a","name":"","protocol":"UDP","containerPort":53,"hostPort":2}]'
    )
    assert found["hostport.io/allocation-id"] == "i"


def test_what_comes_in_proves_nothing() -> None:
    made = pod(
        container("a", port("web")),
        annotations={
            "allocated-web": "9",
            "allocated-gone": "9",
            "allocation-id": "foreign",
            "allocations": "[]",
            "allocating": "the user's",
        },
    )
    parsed = parse_pod(made)

    ops = msgspec.to_builtins(
        list(audit_ops(parsed, match_ports(parsed, granted(("a", "web", 8080, 1)).allocation), ""))
    )

    assert [(op["op"], op["path"].removeprefix("/metadata/annotations/hostport.io~1")) for op in ops] == [
        ("remove", "allocated-gone"),
        ("remove", "allocation-id"),
        ("add", "allocated-web"),
        ("add", "allocations"),
    ]
