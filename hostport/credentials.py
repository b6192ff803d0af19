"""What a caller shows to the allocator, and by what it knows it: PEM files, and a token if there is one."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from hostport.files import no_password


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """PEM files and a token. None at all: plain text. Without `ca` the system's roots are trusted.

    `token_file` is read for each call: the kubelet renews projected tokens under way. It goes before `token`.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    token: str = field(default="", repr=False)
    token_file: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """What a connection is made of; a token is not."""
        return tuple(path for path in (self.ca, self.cert, self.key) if path)

    def load(self) -> grpc.ChannelCredentials | None:
        """Raises OSError (ssl.SSLError is one) when a file cannot be read, or is not what it should be."""
        has_token = bool(self.token or self.token_file)
        if not self.files and not has_token:
            return None
        self._try()
        ca, key, cert = (path.read_bytes() if path else None for path in (self.ca, self.key, self.cert))
        tls = grpc.ssl_channel_credentials(root_certificates=ca, private_key=key, certificate_chain=cert)
        if not has_token:
            return tls
        return grpc.composite_channel_credentials(tls, grpc.metadata_call_credentials(_Bearer(self._read_token)))

    def _read_token(self) -> str:
        return self.token_file.read_text(encoding="ascii").strip() if self.token_file else self.token

    def _try(self) -> None:
        """gRPC would accept anything and never connect."""
        context = ssl.create_default_context(cafile=self.ca)
        if self.cert and self.key:
            context.load_cert_chain(self.cert, self.key, password=no_password)
        if self.token_file:
            self._read_token()


class _Bearer(grpc.AuthMetadataPlugin):
    """Called by gRPC before each call, in a thread of its own."""

    def __init__(self, read: Callable[[], str]) -> None:
        self._read = read

    def __call__(self, context: Any, callback: Callable[[Any, Exception | None], None]) -> None:
        try:
            callback((("authorization", f"Bearer {self._read()}"),), None)
        except (OSError, ValueError) as error:
            callback((), error)
