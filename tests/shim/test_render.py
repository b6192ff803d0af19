from __future__ import annotations

import asyncio
import io
import json
import textwrap
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
import yaml
from hypothesis import given
from shimkit import FakeAllocator, Json, decide, patched
from standin import StandIn, refusing, serving
from test_patch import PODS

from hostport.credentials import Credentials
from hostport.flags import Address
from shim.render import RenderOptions, applied, render

EXAMPLE = """
    apiVersion: apps/v1
    kind: StatefulSet
    metadata: {name: db, namespace: demo}
    spec:
      replicas: 2
      template:
        metadata:
          annotations:
            hostport.io/enabled: "true"
            hostport.io/policy: Index
            hostport.io/min-port: "10000"
        spec:
          containers:
          - name: node
            args: ["--port=$(HOSTPORT_PRIMARY)"]
            ports: [{name: primary, containerPort: 8080}, {name: metrics, containerPort: 9090}]
    ---
    apiVersion: v1
    kind: Service
    metadata: {name: db}
"""
OFFLINE = RenderOptions(files=(), output="yaml", allocator=None, credentials=Credentials())


def rendered(tmp_path: Path, manifest: str, options: RenderOptions = OFFLINE) -> tuple[int, list[Json], str]:
    """(exit status, Pods, standard error)."""
    path = tmp_path / "m.yaml"
    path.write_text(textwrap.dedent(manifest))
    out, err = io.StringIO(), io.StringIO()
    code = render(replace(options, files=[str(path)]), out, err)
    if options.output == "json":
        return code, json.loads(out.getvalue())["items"], err.getvalue()
    return code, list(yaml.safe_load_all(out.getvalue())), err.getvalue()


def numbers(pods: list[Json]) -> dict[str, list[int]]:
    return {
        each["metadata"]["name"]: [port["hostPort"] for port in each["spec"]["containers"][0]["ports"]] for each in pods
    }


@pytest.mark.parametrize("output", ["yaml", "json"])
def test_the_readmes_example_offline(tmp_path: Path, output: str) -> None:
    code, pods, err = rendered(tmp_path, EXAMPLE, replace(OFFLINE, output=output))

    assert (code, err) == (0, "")
    assert numbers(pods) == {"db-0": [10000, 10100], "db-1": [10001, 10101]}
    assert "hostport.io/allocation-id" not in pods[0]["metadata"]["annotations"]


def test_a_denied_pod_is_told_and_the_others_are_printed(tmp_path: Path) -> None:
    code, pods, err = rendered(
        tmp_path, EXAMPLE.replace('"10000"', '"10000"\n            hostport.io/max-port: "10100"')
    )

    assert code == 1
    assert numbers(pods) == {"db-0": [10000, 10100]}
    assert err.startswith("denied demo/db-1: NUMBER_BEYOND_RANGE: annotation hostport.io/max-port: ")
    assert err.count("\n") == 1


def test_pods_meet_each_other_offline(tmp_path: Path) -> None:
    static = """
        kind: Deployment
        metadata: {name: d}
        spec:
          replicas: 2
          template:
            metadata: {annotations: {hostport.io/enabled: "true", hostport.io/policy: Passthrough}}
            spec: {containers: [{name: a, ports: [{containerPort: 8080}]}]}
    """

    code, pods, err = rendered(tmp_path, static)

    assert (code, len(pods)) == (1, 1)
    assert "denied default/d-*: PORT_CONFLICT" in err


def test_warnings_are_told(tmp_path: Path) -> None:
    code, _, err = rendered(tmp_path, EXAMPLE.replace("10000", "40000"))

    assert code == 0
    assert err.count("warning demo/db-0: EPHEMERAL_RANGE: ") == 1


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        pytest.param("a: [", "while parsing", id="no YAML"),
        pytest.param("- 5", "a document must be an object, not a list", id="no object"),
        pytest.param(
            "kind: Deployment\nmetadata: {name: web}\nspec: {replicas: x}",
            ".yaml: Deployment web: spec.replicas must be an integer",
            id="a wrong type",
        ),
        pytest.param(
            "kind: Pod\nmetadata: {name: p, annotations: {hostport.io/enabled: true}}",
            'default/p: metadata.annotations["hostport.io/enabled"] must be a string, not true: write it in quotes\n',
            id="an annotation without quotes",
        ),
        pytest.param(
            'kind: Pod\nmetadata: {name: p, annotations: {hostport.io/enabled: "true", hostport.io/min-port: 10000}}',
            'default/p: metadata.annotations["hostport.io/min-port"] must be a string, not 10000: write it in quotes\n',
            id="a number without quotes",
        ),
    ],
)
def test_a_bad_manifest_is_told(tmp_path: Path, manifest: str, message: str) -> None:
    code, _, err = rendered(tmp_path, manifest)

    assert code == 1
    assert message in err


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    manifest, err = tmp_path / "pod.yaml", io.StringIO()
    manifest.write_bytes(b"kind: Pod # caf\xe9\n")

    code = render(replace(OFFLINE, files=[str(manifest)]), io.StringIO(), err)

    assert (code, err.getvalue().startswith(f"{manifest}: unacceptable character #x00e9")) == (1, True)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_manifest_may_begin_with_the_mark_of_its_encoding(tmp_path: Path, encoding: str) -> None:
    """PowerShell writes what `kubectl get -o yaml >` gives so."""
    manifest, out = tmp_path / "pod.yaml", io.StringIO()
    manifest.write_text(textwrap.dedent(EXAMPLE), encoding=encoding)

    assert render(replace(OFFLINE, files=[str(manifest)]), out, io.StringIO()) == 0
    assert len(list(yaml.safe_load_all(out.getvalue()))) == 2


def test_a_lone_sign_of_equality_is_text(tmp_path: Path) -> None:
    """Definitions of Prometheus' operator list operators, without quotes; YAML 1.1 has a type for that one."""
    assert rendered(tmp_path, 'kind: CustomResourceDefinition\nspec: {operators: [=, "!="]}') == (0, [], "")


def test_a_missing_file_is_told() -> None:
    err = io.StringIO()

    assert render(replace(OFFLINE, files=["/no/such/file"]), io.StringIO(), err) == 1
    assert "No such file" in err.getvalue()


# -- asking a running allocator


async def asking(tmp_path: Path, servicer: StandIn) -> tuple[int, list[Json], str]:
    """In another thread: `render` runs a loop of its own, as on the command line."""
    async with serving(servicer) as address:
        return await asyncio.to_thread(rendered, tmp_path, EXAMPLE, replace(OFFLINE, allocator=address))


async def test_a_running_allocator_is_asked_for_a_preview(tmp_path: Path) -> None:
    servicer = StandIn()

    code, pods, _ = await asking(tmp_path, servicer)

    assert (code, numbers(pods)) == (0, {"db-0": [10000, 10100], "db-1": [10001, 10101]})
    assert [request.dry_run for request in servicer.asked] == [True, True]


async def test_its_denials_are_told(tmp_path: Path) -> None:
    refusal = refusing(grpc.StatusCode.FAILED_PRECONDITION, "PORT_CONFLICT", message="taken")

    code, pods, err = await asking(tmp_path, StandIn(refusal))

    assert (code, pods) == (1, [])
    waits = 'hostport.io/when-full: "Pending" lets the Pod wait and start when there is room'
    assert err == f"denied demo/db-0: PORT_CONFLICT: taken. {waits}\ndenied demo/db-1: PORT_CONFLICT: taken. {waits}\n"


def test_an_absent_allocator_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shim.render.PATIENCE", 0.05)

    code, _, err = rendered(tmp_path, EXAMPLE, replace(OFFLINE, allocator=Address("127.0.0.1", 1)))

    assert code == 1
    assert "demo/db-0: ALLOCATOR_UNREACHABLE: " in err


# -- patches are applied as the API server applies them


@given(PODS)
def test_our_way_to_apply_a_patch_is_the_oracles(before: Json) -> None:
    answer = decide(before, FakeAllocator())

    assert applied(before, answer.ops) == patched(before, answer)
