"""The command line: `python -m shim serve` and `python -m shim render`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

import uvloop

from hostport import logs
from hostport.credentials import Credentials
from hostport.flags import (
    ALSO_TRUST,
    CERTIFICATE_DELAY,
    Flag,
    add_flags,
    address,
    duration,
    log_level,
    one_of,
    optional_file,
)
from hostport.gathered_logs import GatheringHandler
from hostport.supervision import LoopError
from shim.annotations import NETWORKS
from shim.render import RenderOptions, render
from shim.runtime import ShimOptions, serve
from shim.tls import VERSIONS


def _parse_count(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= 1_000_000:
        raise ValueError(f"{text!r} is not a number in 1..1000000")
    return int(text)


def _truth(text: str) -> bool:
    if text not in {"true", "false"}:
        raise ValueError(f"{text!r} is neither true nor false")
    return text == "true"


NETWORK_FLAG = Flag(
    "default-network", "Host", "network of Pods without hostport.io/network: Host or Pod", one_of(*NETWORKS)
)
STEER_FLAG = Flag(
    "steer", "true", "keep Pods off nodes where a lease or a process has their number, by affinity", _truth
)

ALLOCATOR_FLAGS = (
    Flag("allocator", "127.0.0.1:50051", "where the allocator listens", address),
    Flag(
        "allocator-ca",
        "",
        "trust the allocator's certificate by this CA file; plain text without TLS files",
        optional_file,
    ),
    Flag("allocator-cert", "", "certificate file to show to the allocator", optional_file),
    Flag("allocator-key", "", "its key file", optional_file),
    ALSO_TRUST,
)

SERVE_FLAGS = (
    Flag("listen", "127.0.0.1:8443", "where the API server finds /mutate; port 0 takes a free one", address),
    Flag("http", "127.0.0.1:8082", "where /healthz, /readyz and /metrics are, in plain HTTP", address),
    Flag("tls-cert", "", "certificate file of /mutate, reread when it changes", optional_file),
    Flag("tls-key", "", "its key file", optional_file),
    Flag("tls-min-version", "1.3", "lowest TLS version that is spoken: 1.2 or 1.3", one_of(*VERSIONS)),
    Flag("insecure", False, "allow plain HTTP on an address that is not loopback"),
    *ALLOCATOR_FLAGS,
    Flag(
        "allocator-replicas",
        "",
        "HOST:PORT of every allocator: calls go to the one that serves, by the certificate of --allocator",
    ),
    CERTIFICATE_DELAY,
    NETWORK_FLAG,
    STEER_FLAG,
    Flag("max-concurrent", "1000", "requests under way, beyond which more are turned away with 503", _parse_count),
    Flag(
        "reuse-port",
        False,
        "share the address of --listen with other shims that say so: the kernel spreads connections",
    ),
    Flag("shutdown-delay", "0s", "how long to be unready before accepting no more", duration),
    Flag("log-level", "info", "debug, info, warning or error", log_level),
)


def build_parser() -> argparse.ArgumentParser:
    """The commands and their flags. A flag that is not given has the value of its environment variable, if any."""
    parser = argparse.ArgumentParser(prog="python -m shim", description="Gives host ports to Pods that ask for them.")
    commands = parser.add_subparsers(dest="command", required=True)
    add_flags(commands.add_parser("serve", help="serve the webhook"), SERVE_FLAGS, os.environ)
    rendering = commands.add_parser("render", help="show what the webhook would make of manifests; reserves nothing")
    rendering.add_argument("-f", "--file", required=True, action="append", help="YAML or JSON file, - for stdin")
    rendering.add_argument(
        "-o", "--output", choices=("yaml", "json", "diff"), default="yaml", help="what to print [yaml]"
    )
    rendering.add_argument("-n", "--namespace", default="default", help="of objects that do not say [default]")
    rendering.add_argument(
        "--pod-template", action="append", default=[], help="path of a Pod template in a kind that is not known"
    )
    rendering.add_argument("--strict", action="store_true", help="warnings end in exit status 1 too")
    rendering.add_argument("--offline", action="store_true", help="ask nobody: an empty cluster of one node")
    add_flags(rendering, (NETWORK_FLAG, STEER_FLAG, *ALLOCATOR_FLAGS), os.environ)
    return parser


def serve_options(parser: argparse.ArgumentParser, flags: argparse.Namespace) -> ShimOptions:
    """Leaves by `parser.error` where flags do not go together."""
    _check_pair(parser, flags, "tls_cert", "tls_key")
    if flags.tls_cert is None and not (flags.listen.is_loopback or flags.insecure):
        parser.error("without --tls-cert only a loopback address may be served; --insecure allows others")
    return ShimOptions(
        listen=flags.listen,
        http=flags.http,
        allocator=flags.allocator,
        allocator_replicas=flags.allocator_replicas,
        tls_cert=flags.tls_cert,
        tls_key=flags.tls_key,
        tls_min_version=VERSIONS[flags.tls_min_version],
        credentials=credentials(parser, flags),
        certificate_delay=flags.certificate_delay,
        max_concurrent=flags.max_concurrent,
        own_network=NETWORKS[flags.default_network],
        steers=flags.steer,
        reuse_port=flags.reuse_port,
        shutdown_delay=flags.shutdown_delay,
    )


def render_options(parser: argparse.ArgumentParser, flags: argparse.Namespace) -> RenderOptions:
    """What `render` is told. Leaves by `parser.error` where flags do not go together."""
    return RenderOptions(
        files=flags.file,
        output=flags.output,
        own_network=NETWORKS[flags.default_network],
        steers=flags.steer,
        namespace=flags.namespace,
        templates=flags.pod_template,
        is_strict=flags.strict,
        allocator=None if flags.offline else flags.allocator,
        credentials=credentials(parser, flags),
    )


def credentials(parser: argparse.ArgumentParser, flags: argparse.Namespace) -> Credentials:
    """What is shown to the allocator, and whom to trust. Leaves by `parser.error` where flags do not go together."""
    _check_pair(parser, flags, "allocator_cert", "allocator_key")
    if flags.also_trust and flags.allocator_ca is None:
        parser.error("--also-trust names more authorities than --allocator-ca: set that as well")
    return Credentials(ca=flags.allocator_ca, also=flags.also_trust, cert=flags.allocator_cert, key=flags.allocator_key)


def _check_pair(parser: argparse.ArgumentParser, flags: argparse.Namespace, one: str, other: str) -> None:
    if bool(getattr(flags, one)) != bool(getattr(flags, other)):
        parser.error(f"--{one} and --{other} go together".replace("_", "-"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program with these arguments, by default those of the process. Returns its exit code."""
    parser = build_parser()
    flags = parser.parse_args(arguments)
    if flags.command == "render":
        return render(render_options(parser, flags), sys.stdout, sys.stderr)
    options = serve_options(parser, flags)
    logs.set_up(flags.log_level, GatheringHandler(sys.stderr))
    try:
        uvloop.run(serve(options))
    except LoopError as error:
        logging.getLogger("shim").critical("cannot go on: %s", error, exc_info=error.__cause__)
        return 1
    except OSError as error:
        logging.getLogger("shim").error("cannot start: %s", error)  # noqa: TRY400 - the user's mistake, no trace
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
