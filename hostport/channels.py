"""What every gRPC channel to an allocator has, whoever opens it.

Rule: no channel goes through an HTTP proxy. The allocator is in the cluster, and a proxy that the environment names for
other programs would be asked for an address that it cannot reach.
"""

from __future__ import annotations

from hostport.version import VERSION

ChannelOption = tuple[str, str | int]


def channel_options(program: str, *, ping: int, patience: int) -> tuple[ChannelOption, ...]:
    """The options of a channel.

    program: what the allocator's log calls the caller. ping: seconds of silence after which the connection is tried.
    patience: seconds that an answer to that may take; a machine that dies says no goodbye.
    """
    return (
        ("grpc.primary_user_agent", f"{program}/{VERSION}"),
        ("grpc.enable_http_proxy", 0),
        ("grpc.keepalive_time_ms", ping * 1000),
        ("grpc.keepalive_timeout_ms", patience * 1000),
    )
