"""The shim never speaks TLS 1.2 to an allocator, or to whoever says that he is one."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

ROOT = Path(__file__).resolve().parents[2]
CONNECT = """
import sys
import shim
import grpc
ca = open(sys.argv[2], "rb").read()
with grpc.secure_channel(sys.argv[1], grpc.ssl_channel_credentials(ca)) as channel:
    channel.subscribe(lambda state: None, try_to_connect=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("version", "is_spoken"), [(ssl.TLSVersion.TLSv1_2, False), (ssl.TLSVersion.TLSv1_3, True)], ids=["1.2", "1.3"]
)
def test_only_tls_13_is_spoken_to_the_allocator(tmp_path: Path, version: ssl.TLSVersion, *, is_spoken: bool) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    context.set_alpn_protocols(["h2"])
    context.maximum_version = version
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        command = [sys.executable, "-c", CONNECT, f"127.0.0.1:{listener.getsockname()[1]}", str(tmp_path / "ca.pem")]
        client = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            connection, _ = listener.accept()
            with connection:
                if is_spoken:
                    with context.wrap_socket(connection, server_side=True) as secured:
                        assert secured.version() == "TLSv1.3"
                else:
                    with pytest.raises(ssl.SSLError, match="NO_SHARED_CIPHER"):
                        context.wrap_socket(connection, server_side=True)
        finally:
            client.kill()  # its interpreter would wait for ever, now and then, for a lock of a thread that it has ended
            client.communicate()
