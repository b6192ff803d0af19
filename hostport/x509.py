"""When a certificate ends: all that the shim wants to know of one, and no reason to carry a library for it.

A certificate is a DER structure (RFC 5280, section 4.1). Of its signed part the validity is the element after version
(which may be absent), serial number, signature algorithm and issuer; it has two times.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_VERSION, _UTC_TIME = 0xA0, 0x17


def certificates(pem: str) -> list[str]:
    """The certificates of a PEM text, each with a line break at its end; what stands between them is left out."""
    return [f"{each}\n" for each in _PEM.findall(pem)]


def not_after(pem: str) -> float:
    """When the first certificate of a PEM text ends, in seconds since the epoch.

    Raises:
        ValueError: there is no certificate in it.

    """
    found = _PEM.search(pem)
    if found is None:
        raise ValueError("no certificate")
    try:
        certificate = _first_element(ssl.PEM_cert_to_DER_cert(found[0]))
        signed = [each for each in _elements(_first_element(certificate)) if each[0] != _VERSION]
        validity = signed[3][1]
        _, (tag, ends) = _elements(validity)
    except (IndexError, StopIteration) as error:
        raise ValueError("no certificate") from error
    text = ends.decode("ascii")
    return (
        datetime.strptime(_century(text) if tag == _UTC_TIME else text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
    )


def _century(text: str) -> str:
    """Two digits of a year stand for 1950 to 2049."""
    return ("19" if text >= "50" else "20") + text


def _first_element(der: bytes) -> bytes:
    return next(_elements(der))[1]


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of each element."""
    at = 0
    while at < len(der):
        tag, length, at = der[at], der[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            length, at = int.from_bytes(der[at : at + size], "big"), at + size
        yield tag, der[at : at + length]
        at += length
