"""A watcher of allocations in a process of its own: tells when its snapshot was complete, and each thousandth change.

Lines: `synced EVENTS`, then `changes EVENTS` after every so many, and `ended REASON` where the watch breaks off.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import grpc

from bench.turns import reason_of
from hostport.v1 import allocator_pb2 as pb
from hostport.v1 import allocator_pb2_grpc as pb_grpc

EACH = 100
W = pb.WatchAllocationsResponse


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.watcher", description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--single", action="store_true", help="one event in a message, as for an older client")
    options = parser.parse_args(arguments)
    seen, is_synced = 0, False
    with grpc.insecure_channel(options.address) as channel:
        stub = pb_grpc.AllocatorServiceStub(channel)
        try:
            for first in stub.WatchAllocations(pb.WatchAllocationsRequest(batches=not options.single)):
                for event in (first, *first.further):
                    if event.type == W.TYPE_SYNCED:
                        tell("synced", seen)
                        seen, is_synced = 0, True
                        continue
                    seen += 1
                    if is_synced and seen % EACH == 0:
                        tell("changes", seen)
        except grpc.RpcError as error:
            print(f"ended {reason_of(error)}", flush=True)
    return 0


def tell(word: str, count: int) -> None:
    print(f"{word} {count}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
