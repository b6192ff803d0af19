"""HTTP/2 by hand, over TLS, for what no well-behaved client does: a connection that reads nothing, and bytes that are no message."""

from __future__ import annotations

import asyncio
import ssl
import struct

import trustme

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, DATA, SETTINGS = 1, 0, 4
INITIAL_WINDOW_SIZE = 4
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def opening(window: int = 65535) -> bytes:
    """What a client says first. With a window of 0 the server may send no data at all."""
    return PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, window))


def call(stream: int, method: str, message: bytes, *, authorization: str = "") -> bytes:
    """A call with its one message. Streams of a client have odd numbers."""
    fields = {
        ":method": "POST",
        ":scheme": "https",
        ":path": f"/hostport.v1.AllocatorService/{method}",
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    if authorization:
        fields["authorization"] = authorization
    block = b"".join(b"\0" + _literal(key) + _literal(value) for key, value in fields.items())
    return frame(HEADERS, END_HEADERS, stream, block) + frame(
        DATA, END_STREAM, stream, b"\0" + struct.pack(">I", len(message)) + message
    )


def _literal(text: str) -> bytes:
    """A string of a header field, uncompressed and short."""
    return bytes((len(text),)) + text.encode()


async def connect(
    port: int, authority: trustme.CA, issued: trustme.LeafCert | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if issued is not None:
        issued.configure_cert(context)
    context.set_alpn_protocols(["h2"])
    return await asyncio.open_connection("127.0.0.1", port, ssl=context)
