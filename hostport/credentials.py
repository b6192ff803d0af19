"""What a caller shows to the allocator, and by what it knows it: PEM files, and a token if there is one."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from hostport.files import read_all
from hostport.key_pairs import load_pair
from hostport.rollover import KeyPair, RollOver
from hostport.x509 import certificates


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """PEM files and a token. None at all: plain text. Without `ca` the system's roots are trusted.

    `token_file` is read for each call: the kubelet renews projected tokens under way. It goes before `token`, which is
    a text, or a function that is called for each call. `also` names further authorities; a file that is absent names
    none. With `roll_over` former ones stay trusted, and a new certificate waits until it can be known.

    Raises:
        ValueError: there is a certificate without its key, or a key without its certificate.

    """

    ca: Path | None = None
    also: tuple[Path, ...] = ()
    cert: Path | None = None
    key: Path | None = None
    token: str | Callable[[], str] = field(default="", repr=False)
    token_file: Path | None = None
    roll_over: RollOver | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if bool(self.cert) != bool(self.key):
            raise ValueError("cert and key go together: one of them is missing")

    @property
    def files(self) -> tuple[Path, ...]:
        """What a connection is made of; a token is not."""
        return (*(path for path in (self.ca, self.cert, self.key) if path), *self.also)

    def load(self) -> grpc.ChannelCredentials | None:
        """Raises OSError, which names the file, when one cannot be read or is not what it should be."""
        has_token = bool(self.token or self.token_file)
        if not self.files and not has_token:
            return None
        ca, pair = self._read()
        key, chain = (pair.key, pair.chain) if pair else (None, None)
        tls = grpc.ssl_channel_credentials(root_certificates=ca, private_key=key, certificate_chain=chain)
        if not has_token:
            return tls
        return grpc.composite_channel_credentials(tls, grpc.metadata_call_credentials(_Bearer(self._read_token)))

    def context(self) -> ssl.SSLContext:
        """The same for Python's own TLS; as it was loaded last, where that is remembered. Raises as `load` does."""
        if self.roll_over:
            return _context(self.roll_over.trusted if self.ca else None, self.roll_over.shown)
        return _context(*self._read())

    def is_due(self) -> bool:
        """Whether to load again, though no file has changed."""
        return self.roll_over is not None and self.roll_over.is_due()

    def _read(self) -> tuple[bytes | None, KeyPair | None]:
        """What is trusted, None for the system's roots, and what is shown. Tried, as gRPC would accept anything."""
        ca = read_all(self.ca, self.also) if self.ca else None  # first: OpenSSL does not name a file that is absent
        if self.ca:
            with _named(f"{self.ca} holds no CA in PEM"):
                ssl.create_default_context(cafile=self.ca)
            with _named(f"{', '.join(map(str, self.also))}: one is not PEM"):
                _context(ca, None)
        if self.token_file:
            self._read_token()
        pair = KeyPair(self.cert.read_bytes(), self.key.read_bytes()) if self.cert and self.key else None
        if pair:
            with _named(f"{self.cert} and {self.key} are no certificate and its key in PEM"):
                load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), pair.chain, pair.key)
        if self.roll_over:
            ca = self.roll_over.trust(ca) if ca else None
            pair = self.roll_over.show(pair) if pair else None
        return ca, pair

    def _read_token(self) -> str:
        if self.token_file:
            words = self.token_file.read_bytes().split()
            if len(words) != 1 or not words[0].isascii():
                raise OSError(f"{self.token_file} holds no token: it has to be one word in ASCII")
            return words[0].decode("ascii")
        return self.token() if callable(self.token) else self.token


NO_CREDENTIALS = Credentials()
"""Plain text."""


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Says which file is not what it should be: OpenSSL does not."""
    try:
        yield
    except ssl.SSLError as error:
        raise OSError(f"{what}: {error}") from error


def _context(ca: bytes | None, pair: KeyPair | None) -> ssl.SSLContext:
    trusted = "".join(certificates(ca.decode("ascii", "replace"))) if ca else None
    context = ssl.create_default_context(cadata=trusted)
    if pair:
        load_pair(context, pair.chain, pair.key)
    return context


class _Bearer(grpc.AuthMetadataPlugin):
    """Called by gRPC before each call, in a thread of its own."""

    def __init__(self, read: Callable[[], str]) -> None:
        self._read = read

    def __call__(self, context: Any, callback: Callable[[Any, Exception | None], None]) -> None:
        try:
            callback((("authorization", f"Bearer {self._read()}"),), None)
        except (OSError, ValueError) as error:
            callback((), error)
