"""Runs a program of ours whose gRPC goes through the proxy of network.py: python led.py MODULE ARGUMENT...

In a cluster DNS and kube-proxy lead the name of a Service to its Pod. Here the proxy does, to which our programs pay no
heed otherwise.
"""

from __future__ import annotations

import runpy
import sys
from typing import Any

from hostport import channels

made = channels.channel_options


def through_the_proxy(*names: Any, **seconds: Any) -> tuple[channels.ChannelOption, ...]:
    return tuple(option for option in made(*names, **seconds) if option[0] != "grpc.enable_http_proxy")


if __name__ == "__main__":
    channels.channel_options = through_the_proxy  # before the program imports it
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
