"""A certificate and its key, as a TLS context takes them: the terminal is never asked for their password."""

from __future__ import annotations

import os
import ssl
import tempfile


def no_password() -> str:
    """For keys that want a password: without it OpenSSL would ask the terminal."""
    return ""


def load_pair(context: ssl.SSLContext, chain: bytes, key: bytes) -> None:
    """Makes a context show a certificate from memory: the very bytes that were read, and not what a file has by now.

    Raises:
        OSError: they are no certificate and key (ssl.SSLError), or not each other's.

    """
    in_memory = hasattr(os, "memfd_create")  # where there is none, such as on macOS, only its owner can read the file
    with os.fdopen(os.memfd_create("pair"), "w+b") if in_memory else tempfile.NamedTemporaryFile() as file:
        file.write(key + b"\n" + chain)
        file.flush()
        context.load_cert_chain(f"/dev/fd/{file.fileno()}" if in_memory else file.name, password=no_password)
