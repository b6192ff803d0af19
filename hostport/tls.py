"""TLS 1.3 or nothing, between the shim, the allocator and its callers.

gRPC's Python API has no setting for the lowest version. TLS 1.2 needs a cipher suite that both sides have, and the
suites of TLS 1.3 are another list: so we offer a single old suite, which needs a shared secret that nobody has.

gRPC reads the variable once, as it is imported. Hence both programs call this in their package, before all else.
"""

from __future__ import annotations

import os

UNUSABLE_SUITE = "ECDHE-PSK-AES128-CBC-SHA"


def require_tls13() -> None:
    """Makes this process refuse TLS 1.2 and older in gRPC, as server and as client."""
    os.environ["GRPC_SSL_CIPHER_SUITES"] = UNUSABLE_SUITE
