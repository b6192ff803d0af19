"""The cluster's DNS, as far as Services go: A records for NAME.NAMESPACE.svc[.cluster.local], headless ones among them;
of headless ones SRV records, too, for _PORT._PROTOCOL.NAME.NAMESPACE.svc, as Kubernetes' specification of DNS has them.

    dns.py ADDRESS KUBECTL KUBECONFIG

A real CoreDNS would be one more image to build. This asks the API server once a second which Services there are.
Standard library only.
"""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import threading
import time
from typing import Any

DOMAIN = "cluster.local"
A, SRV, IN = 1, 33, 1
NO_ERROR, NO_SUCH_NAME = 0, 3
ANSWER, AUTHORITATIVE = 0x8000, 0x0400
TTL = 5


class Names:
    """Addresses by name, all of them lower case without a dot at the end."""

    def __init__(self, kubectl: str, kubeconfig: str) -> None:
        self._command = [kubectl, f"--kubeconfig={kubeconfig}", "get", "services,endpointslices", "-A", "-o", "json"]
        self._known: dict[str, list[str]] = {}
        self._targets: dict[str, list[tuple[int, str]]] = {}

    def follow(self) -> None:
        while True:
            done = subprocess.run(self._command, capture_output=True, check=False)
            if done.returncode == 0:
                objects = json.loads(done.stdout)["items"]
                self._known, self._targets = addresses(objects), targets(objects)
            time.sleep(1)

    def find(self, name: str) -> list[str] | None:
        return self._known.get(name.lower().removesuffix(f".{DOMAIN}"))

    def targets(self, name: str) -> list[tuple[int, str]]:
        """The numbers and the names behind a port."""
        return self._targets.get(name.lower().removesuffix(f".{DOMAIN}"), [])


def addresses(objects: list[dict[str, Any]]) -> dict[str, list[str]]:
    """The address of each Service; of a headless one those of its endpoints that are ready."""
    found: dict[str, list[str]] = {}
    for each in (each for each in objects if each["kind"] == "Service"):
        address = each["spec"].get("clusterIP", "None")
        found[f"{each['metadata']['name']}.{each['metadata']['namespace']}.svc"] = (
            [] if address == "None" else [address]
        )
    headless = {name for name, known in found.items() if not known}
    for each in (each for each in objects if each["kind"] == "EndpointSlice"):
        labels = each["metadata"].get("labels") or {}
        name = f"{labels.get('kubernetes.io/service-name')}.{each['metadata']['namespace']}.svc"
        for endpoint in (each.get("endpoints") or ()) if name in headless else ():
            if (endpoint.get("conditions") or {}).get("ready", True):
                found[name] += endpoint["addresses"]
                found |= {f"{_dashed(address)}.{name}": [address] for address in endpoint["addresses"]}
    return found


def targets(objects: list[dict[str, Any]]) -> dict[str, list[tuple[int, str]]]:
    """The numbers and the names behind each named port of a headless Service, as its slices say."""
    headless = {
        (each["metadata"]["namespace"], each["metadata"]["name"])
        for each in objects
        if each["kind"] == "Service" and each["spec"].get("clusterIP", "None") == "None"
    }
    found: dict[str, list[tuple[int, str]]] = {}
    for each in (each for each in objects if each["kind"] == "EndpointSlice"):
        service = (each["metadata"].get("labels") or {}).get("kubernetes.io/service-name", "")
        if (each["metadata"]["namespace"], service) not in headless:
            continue
        name = f"{service}.{each['metadata']['namespace']}.svc"
        ready = [one for one in each.get("endpoints") or () if (one.get("conditions") or {}).get("ready", True)]
        for port in each.get("ports") or ():
            found.setdefault(f"_{port.get('name')}._{port['protocol'].lower()}.{name}", []).extend(
                (port["port"], f"{_dashed(address)}.{name}.{DOMAIN}") for one in ready for address in one["addresses"]
            )
    return found


def _dashed(address: str) -> str:
    return address.replace(".", "-")


def answer(query: bytes, names: Names) -> bytes:
    """To one question; the name stands once, right behind the header."""
    ident, flags = struct.unpack("!HH", query[:4])
    labels, end = [], 12
    while (length := query[end]) != 0:
        labels.append(query[end + 1 : end + 1 + length].decode("ascii"))
        end += 1 + length
    kind, _ = struct.unpack("!HH", query[end + 1 : end + 5])
    name = ".".join(labels)
    found, behind = names.find(name), names.targets(name)
    records = [_record(A, socket.inet_aton(address)) for address in (found or ()) if kind == A]
    records += [_record(SRV, struct.pack("!HHH", 0, 50, port) + _encoded(to)) for port, to in behind if kind == SRV]
    code = NO_SUCH_NAME if found is None and not behind else NO_ERROR
    header = struct.pack("!HHHHHH", ident, ANSWER | AUTHORITATIVE | flags & 0x0100 | code, 1, len(records), 0, 0)
    return header + query[12 : end + 5] + b"".join(records)


def _record(kind: int, data: bytes) -> bytes:
    return struct.pack("!HHHIH", 0xC00C, kind, IN, TTL, len(data)) + data


def _encoded(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode("ascii") for label in name.split(".")) + b"\0"


def main(address: str, kubectl: str, kubeconfig: str) -> None:
    names = Names(kubectl, kubeconfig)
    threading.Thread(target=names.follow, daemon=True).start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as port:
        port.bind((address, 53))
        while True:
            query, client = port.recvfrom(512)
            try:
                port.sendto(answer(query, names), client)
            except (IndexError, UnicodeDecodeError, struct.error):
                continue  # no question of this world


if __name__ == "__main__":
    main(*sys.argv[1:])
