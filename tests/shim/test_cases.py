"""Whole manifests of programs that nobody wrote for us: what is said of each, and what becomes of it."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_render import OFFLINE

from shim.render import render

CASES = Path(__file__).parent.parent / "testdata" / "programs"
Json = dict[str, Any]


def rendered(name: str) -> tuple[list[Json], dict[str, str]]:
    """The Pods of a case, and the first warning of each kind."""
    out, err = io.StringIO(), io.StringIO()
    code = render(replace(OFFLINE, files=[str(CASES / f"{name}.yaml")]), out, err)
    assert code == 0, err.getvalue()
    told: dict[str, str] = {}
    for word, sentence in re.findall(r"^warning \S+: (\w+): (.*)$", err.getvalue(), re.MULTILINE):
        told.setdefault(word, sentence)
    return list(yaml.safe_load_all(out.getvalue())), told


@pytest.mark.parametrize(
    ("case", "words"),
    [
        pytest.param(
            "hard-coded-numbers",
            {"OLD_NUMBER": ["app args[0]", "readinessProbe[2]", "env PORT", "wait command[2]", "prometheus.io/port"]},
            id="numbers in texts",
        ),
        pytest.param(
            "numeric-service",
            {"OLD_NUMBER": ["web args[0]", "livenessProbe[1]", "env PORT", "prometheus.io/port"]},
            id="every text with 8080",
        ),
        pytest.param(
            "author-hostnetwork-hostport", {"HOST_PORT_REPLACED": ["hostPort 80"]}, id="a hostPort is replaced"
        ),
        pytest.param("init-container-port", {"INIT_PORT": ["8080 of init container setup"]}, id="an init container's"),
        pytest.param(
            "misspelt-annotation", {"UNKNOWN_ANNOTATION": ["did you mean hostport.io/min-port"]}, id="misspelt"
        ),
        pytest.param("mapped-hostport", {"MAPPED_PORT": ["from 80 to 8080"]}, id="mapped by the network plug-in"),
        pytest.param("undeclared-probe", {"UNDECLARED_PORT": ["asks 8081"]}, id="a probe of no port"),
        pytest.param("no-ports", {"NO_PORTS": ["nothing to allocate"]}, id="no ports"),
        pytest.param("restored-unnamed-port", {}, id="restored"),
        pytest.param("contiguous-range", {}, id="a range of consecutive numbers"),
    ],
)
def test_a_case_is_told_as_people_need_it(case: str, words: dict[str, list[str]]) -> None:
    _, told = rendered(case)

    assert words.keys() <= told.keys()
    assert [each for word, parts in words.items() for each in parts if each not in told[word]] == []


def test_no_replica_gets_the_number_that_its_own_probe_names() -> None:
    pods, _ = rendered("undeclared-probe")

    assert [each["spec"]["containers"][0]["ports"][0]["hostPort"] for each in pods] == [8080, 8082]


def test_a_restored_pod_has_one_number_everywhere() -> None:
    ([pod], _) = rendered("restored-unnamed-port")

    app, notes = pod["spec"]["containers"][0], pod["metadata"]["annotations"]
    number = str(app["ports"][0]["hostPort"])
    assert number != "7002"
    assert {each["name"]: each["value"] for each in app["env"] if "value" in each} == {"HOSTPORT_8080": number}
    assert notes["hostport.io/allocated-8080-TCP"] == number


def test_who_wants_a_range_of_numbers_has_all_of_them() -> None:
    pods, told = rendered("contiguous-range")

    held = [[port["hostPort"] for port in each["spec"]["containers"][0]["ports"]] for each in pods]
    assert held == [list(range(20000 + 20 * at, 20020 + 20 * at)) for at in range(4)]
    assert told == {}


def test_two_addresses_of_one_number_are_two_sockets() -> None:
    pods, _ = rendered("two-hostip")

    assert [each["spec"]["containers"][0]["ports"][0]["hostIP"] for each in pods] == ["10.0.0.1", "10.0.0.2"]
