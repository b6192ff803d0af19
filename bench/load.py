"""The load generator's process: `python -m bench.load …` prints what it counted as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from bench.grpc_load import GrpcLoad
from bench.https_load import HttpsLoad
from bench.tally import Load, Template


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--body", type=Path, required=True, help="file with the request, TOKEN for its number")
    parser.add_argument("--concurrency", type=int, required=True)
    parser.add_argument("--warm-up", type=float, default=0.5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--ca", type=Path, help="speak HTTPS and trust this CA; gRPC without")
    parser.add_argument("--client", type=Path, nargs=2, metavar=("CERT", "KEY"), help="a client certificate to show")
    parser.add_argument("--created", action="store_true", help="expect HTTP 201 and not an admission")
    parser.add_argument("--requests", type=int, default=0, help="end after so many, however long that takes")
    parser.add_argument("--first", type=int, default=1, help="the number of the first request")
    parser.add_argument("--answer", type=Path, help="where to write the body of the first HTTPS answer")
    options = parser.parse_args()
    template = Template(options.body.read_bytes(), options.first)
    load = Load(options.warm_up, options.seconds, options.requests)
    if options.ca:
        https = HttpsLoad(options.address, options.path, options.ca, template, options.concurrency)
        https.client = tuple(options.client) if options.client else None
        if options.created:
            https.expects = b"HTTP/1.1 201", b""
        https.run(load)
        if options.answer:
            options.answer.write_bytes(https.last_answer.partition(b"\r\n\r\n")[2])
    else:
        GrpcLoad(options.address, options.path, template, options.concurrency).run(load)
    print(json.dumps(load.report()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
