"""The loopback device of a network namespace."""

from __future__ import annotations

import fcntl
import socket
import struct

SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1


def bring_loopback_up() -> None:
    """What `ip link set lo up` asks of the kernel: not every machine has that program. Raises OSError."""
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP))
