"""The status of a call that failed, as gRPC hands it over: apart, since not every program carries gRPC's library."""

from __future__ import annotations

from typing import cast

import grpc
from google.rpc import status_pb2
from grpc_status import rpc_status

STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}
"""What gRPC's library has for each number of a code."""


def status_of(error: grpc.RpcError) -> status_pb2.Status:
    """The status of a call that failed; an empty one where there is none that can be believed."""
    try:
        return rpc_status.from_call(cast("grpc.Call", error)) or status_pb2.Status()
    except ValueError:
        return status_pb2.Status()
