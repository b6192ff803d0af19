"""The cluster's DNS, as far as Services go: an A record for NAME.NAMESPACE.svc[.cluster.local].

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

DOMAIN = "cluster.local"
A, IN = 1, 1
NO_ERROR, NO_SUCH_NAME = 0, 3
ANSWER, AUTHORITATIVE = 0x8000, 0x0400
TTL = 5


class Names:
    """Addresses by name, all of them lower case without a dot at the end."""

    def __init__(self, kubectl: str, kubeconfig: str) -> None:
        self._command = [kubectl, f"--kubeconfig={kubeconfig}", "get", "services", "-A", "-o", "json"]
        self._known: dict[str, str] = {}

    def follow(self) -> None:
        while True:
            done = subprocess.run(self._command, capture_output=True, check=False)
            if done.returncode == 0:
                self._known = addresses(json.loads(done.stdout)["items"])
            time.sleep(1)

    def find(self, name: str) -> str | None:
        return self._known.get(name.lower().removesuffix(f".{DOMAIN}"))


def addresses(services: list[dict[str, dict[str, str]]]) -> dict[str, str]:
    found = {f"{each['metadata']['name']}.{each['metadata']['namespace']}.svc": each["spec"] for each in services}
    return {name: spec["clusterIP"] for name, spec in found.items() if spec.get("clusterIP", "None") != "None"}


def answer(query: bytes, names: Names) -> bytes:
    """To one question; the name stands once, right behind the header."""
    ident, flags = struct.unpack("!HH", query[:4])
    labels, end = [], 12
    while (length := query[end]) != 0:
        labels.append(query[end + 1 : end + 1 + length].decode("ascii"))
        end += 1 + length
    kind, _ = struct.unpack("!HH", query[end + 1 : end + 5])
    address = names.find(".".join(labels))
    record = b""
    if address is not None and kind == A:
        record = struct.pack("!HHHIH", 0xC00C, A, IN, TTL, 4) + socket.inet_aton(address)
    code = NO_SUCH_NAME if address is None else NO_ERROR
    header = struct.pack("!HHHHHH", ident, ANSWER | AUTHORITATIVE | flags & 0x0100 | code, 1, bool(record), 0, 0)
    return header + query[12 : end + 5] + record


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
