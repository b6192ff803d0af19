"""Lease host ports from the allocator: `Client` for programs with threads, `AsyncClient` for asyncio.

Needs gRPC and nothing else of this project's: no Kubernetes, no command line.
"""

from hostport.client.aio import AsyncClient, AsyncLease
from hostport.client.errors import (
    HostportError,
    InvalidRequestError,
    LeaseLostError,
    NotAllowedError,
    NotFoundError,
    RefusedError,
    UnavailableError,
)
from hostport.client.lease_request import LeasedPort, Port
from hostport.client.sync import Client, Lease
from hostport.contract import Mistake
from hostport.credentials import Credentials

__all__ = [
    "AsyncClient",
    "AsyncLease",
    "Client",
    "Credentials",
    "HostportError",
    "InvalidRequestError",
    "Lease",
    "LeaseLostError",
    "LeasedPort",
    "Mistake",
    "NotAllowedError",
    "NotFoundError",
    "Port",
    "RefusedError",
    "UnavailableError",
]
