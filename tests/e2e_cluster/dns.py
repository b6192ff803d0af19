"""The cluster's DNS, as far as Services go: A records for NAME.NAMESPACE.svc[.cluster.local], headless ones among them.

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
A, IN = 1, 1
NO_ERROR, NO_SUCH_NAME = 0, 3
ANSWER, AUTHORITATIVE = 0x8000, 0x0400
TTL = 5


class Names:
    """Addresses by name, all of them lower case without a dot at the end."""

    def __init__(self, kubectl: str, kubeconfig: str) -> None:
        self._command = [kubectl, f"--kubeconfig={kubeconfig}", "get", "services,endpointslices", "-A", "-o", "json"]
        self._known: dict[str, list[str]] = {}

    def follow(self) -> None:
        while True:
            done = subprocess.run(self._command, capture_output=True, check=False)
            if done.returncode == 0:
                self._known = addresses(json.loads(done.stdout)["items"])
            time.sleep(1)

    def find(self, name: str) -> list[str] | None:
        return self._known.get(name.lower().removesuffix(f".{DOMAIN}"))


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
    return found


def answer(query: bytes, names: Names) -> bytes:
    """To one question; the name stands once, right behind the header."""
    ident, flags = struct.unpack("!HH", query[:4])
    labels, end = [], 12
    while (length := query[end]) != 0:
        labels.append(query[end + 1 : end + 1 + length].decode("ascii"))
        end += 1 + length
    kind, _ = struct.unpack("!HH", query[end + 1 : end + 5])
    found = names.find(".".join(labels))
    records = [
        struct.pack("!HHHIH", 0xC00C, A, IN, TTL, 4) + socket.inet_aton(address)
        for address in (found or ())
        if kind == A
    ]
    code = NO_SUCH_NAME if found is None else NO_ERROR
    header = struct.pack("!HHHHHH", ident, ANSWER | AUTHORITATIVE | flags & 0x0100 | code, 1, len(records), 0, 0)
    return header + query[12 : end + 5] + b"".join(records)


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
