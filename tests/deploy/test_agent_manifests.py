"""What `OVERLAY=agent` and `agent-reserve` put on every node: no privilege, no right, no port, one token for one reader."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

OVERLAYS = Path(__file__).resolve().parents[2] / "deploy" / "overlays"
Object = dict[str, Any]


@cache
def objects(overlay: str) -> dict[str, Object]:
    text = (OVERLAYS / overlay / "manifests.yaml").read_text(encoding="utf-8")
    return {f"{each['kind']} {each['metadata']['name']}": each for each in yaml.safe_load_all(text)}


def pod_of(overlay: str) -> Object:
    found: Object = objects(overlay)["DaemonSet hostport-agent"]["spec"]["template"]["spec"]
    return found


def arguments(overlay: str, program: str) -> list[str]:
    kind = "DaemonSet" if program == "hostport-agent" else "Deployment"
    (container,) = objects(overlay)[f"{kind} {program}"]["spec"]["template"]["spec"]["containers"]
    found: list[str] = container["args"]
    return found


def test_there_are_no_agents_unless_they_are_asked_for() -> None:
    assert [name for name in objects("standby") if name.endswith("hostport-agent")] == []
    assert [each for each in arguments("standby", "hostport-allocator") if "agent" in each] == []
    assert objects("standby")["Namespace hostport-system"]["metadata"]["labels"][
        "pod-security.kubernetes.io/enforce"
    ] == "restricted"  # fmt: skip


@pytest.mark.parametrize("overlay", ["agent", "agent-reserve"])
def test_an_agent_is_on_every_node_and_the_namespace_lets_it(overlay: str) -> None:
    pod = pod_of(overlay)

    assert (pod["hostNetwork"], pod["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")
    assert (pod["tolerations"], pod["nodeSelector"]) == ([{"operator": "Exists"}], {"kubernetes.io/os": "linux"})
    assert objects(overlay)["Namespace hostport-system"]["metadata"]["labels"] == {
        "pod-security.kubernetes.io/enforce": "privileged",
        "pod-security.kubernetes.io/warn": "restricted",
        "pod-security.kubernetes.io/audit": "restricted",
    }


@pytest.mark.parametrize("overlay", ["agent", "agent-reserve"])
def test_an_agent_has_no_capability_no_right_and_no_port(overlay: str) -> None:
    (container,) = pod_of(overlay)["containers"]
    bindings = [each for each in objects(overlay).values() if each["kind"].endswith("RoleBinding")]
    subjects = [subject["name"] for each in bindings for subject in each.get("subjects", ())]

    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "ports" not in container
    assert "hostport-agent" not in subjects
    assert pod_of(overlay)["automountServiceAccountToken"] is False


@pytest.mark.parametrize(
    ("overlay", "user", "writable"),
    [
        ("agent", 65532, {"/run/hostport-agent"}),
        ("agent-reserve", 0, {"/run/hostport-agent", "/host/ip_local_reserved_ports", "/var/lib/hostport-agent"}),
    ],
)
def test_what_an_agent_may_write_is_named_file_by_file(overlay: str, user: int, writable: set[str]) -> None:
    pod = pod_of(overlay)
    (container,) = pod["containers"]
    on_the_node = {each["name"]: each["hostPath"]["path"] for each in pod["volumes"] if "hostPath" in each}

    assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsNonRoot"]) == (user, user != 0)
    assert {each["mountPath"] for each in container["volumeMounts"] if not each.get("readOnly")} == writable
    assert on_the_node == (
        {"list": "/proc/sys/net/ipv4/ip_local_reserved_ports", "state": "/run/hostport-agent"} if user == 0 else {}
    )


def test_the_allocator_knows_the_agents_by_their_account_and_lets_their_nodes_in() -> None:
    (token,) = [each["projected"] for each in pod_of("agent")["volumes"] if each["name"] == "token"]
    ingress = objects("agent")["NetworkPolicy hostport-allocator"]["spec"]["ingress"]

    assert "--agent-account=hostport-system/hostport-agent" in arguments("agent", "hostport-allocator")
    assert [each["serviceAccountToken"] for each in token["sources"]] == [
        {"path": "token", "expirationSeconds": 3600, "audience": "hostport.io"}
    ]
    assert {"ports": [{"port": "grpc-tokens"}]} in ingress
    assert "--allocator-replicas=hostport-allocator-replicas.hostport-system.svc:50052" in arguments(
        "agent", "hostport-agent"
    )


@pytest.mark.parametrize("overlay", ["agent", "agent-reserve"])
def test_the_flags_are_those_of_the_program(overlay: str) -> None:
    from agent.__main__ import agent_options, build_parser

    parser = build_parser()
    options = agent_options(parser, parser.parse_args(arguments(overlay, "hostport-agent")))

    assert (options.alive, options.interval) == (Path("/run/hostport-agent/alive"), 10.0)
    assert (options.reserved is not None) is (overlay == "agent-reserve")
