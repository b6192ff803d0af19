"""The command line of `python -m allocator serve`, as data."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from allocator.core.admission import DEFAULT_SHARES, HANDFUL, RESERVATION_SECONDS
from allocator.core.asks import WhenFull
from allocator.core.index.cooling import Reuse
from allocator.core.reserved import ReservedNumbers, parse_reserved
from allocator.journal.contract import CommitMeters, Journal
from allocator.journal.kinds import FORMS, journal_kind
from allocator.page.access import Audience, parse_names
from hostport.contract.defaults import COOL_DOWN_SECONDS
from hostport.contract.limits import LONGEST_COOL_DOWN
from hostport.contract.reserved import DEFAULT_RESERVED, PRESETS
from hostport.flags import ALSO_TRUST, CERTIFICATE_DELAY, Address, Flag, address, duration, log_level, one_of


class ConfigError(Exception):
    """The operator's fault: flags that do not go together. The message says which."""


def cluster(text: str) -> str:
    """`kubernetes`, `file:PATH` or `none`.

    Raises:
        ValueError: it is none of them.

    """
    if text not in {"kubernetes", "none"} and text.removeprefix("file:") in {text, ""}:
        raise ValueError(f"{text!r} is neither kubernetes nor file:PATH nor none")
    return text


def _account(text: str) -> str:
    """A ServiceAccount, as NAMESPACE/NAME, or nothing.

    Raises:
        ValueError: it is none.

    """
    if text and not re.fullmatch(r"[a-z0-9-]{1,63}/[a-z0-9.-]{1,253}", text):
        raise ValueError(f"{text!r} is not NAMESPACE/NAME of a ServiceAccount")
    return text


def _optional(text: str) -> Address | None:
    return address(text) if text else None


def names(text: str) -> tuple[str, ...]:
    """DNS names and addresses, separated by commas.

    Raises:
        ValueError: one of them is neither.

    """
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    wrong = [each for each in found if not re.fullmatch(r"[A-Za-z0-9.:*-]+", each)]
    if wrong:
        raise ValueError(f"{wrong[0]!r} is neither a DNS name nor an address")
    return found


def count(text: str) -> int:
    """A number of things, 0 among them.

    Raises:
        ValueError: it is none.

    """
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError(f"{text!r} is not a whole number from 0 to 999999999")
    return int(text)


def when_full(text: str) -> WhenFull:
    return WhenFull(one_of(*(value.value for value in WhenFull))(text))


def cool_down(text: str) -> float:
    """Seconds, from 0 to an hour.

    Raises:
        ValueError: it is none, or longer.

    """
    seconds = duration(text)
    if seconds > LONGEST_COOL_DOWN:
        raise ValueError(f"{text!r} is longer than an hour, for which it is remembered what was given up")
    return seconds


def reuse(text: str) -> Reuse:
    return Reuse(one_of(*(value.value for value in Reuse))(text))


def audience(text: str) -> Audience:
    return Audience(one_of(*(value.value for value in Audience))(text))


FLAGS = (
    Flag("listen", "127.0.0.1:50051", "address of the gRPC service", address),
    Flag("http", "127.0.0.1:8081", "address of /healthz, /readyz, /metrics and the status page", address),
    Flag(
        "page",
        Audience.LOOPBACK.value,
        "who sees the status page: loopback (in a cluster: who may port-forward), all or off",
        audience,
    ),
    Flag("page-hosts", "", "names by which the page may be asked for, beside addresses and localhost", parse_names),
    Flag("cluster", "none", "where nodes and Pods come from: kubernetes, file:PATH (YAML or JSON) or none", cluster),
    Flag("kubeconfig", "", "file that says how to reach the cluster; without: in-cluster, $KUBECONFIG, ~/.kube/config"),
    Flag("lease-namespace", "", "namespace of the Lease by which one allocator serves; without it there is no Lease"),
    Flag("port-leases", False, "keep leases as PortLease objects; those without a namespace in --lease-namespace"),
    Flag("pod-name", "", "our Pod, for the Lease"),
    Flag("pod-uid", "", "its uid, for the Lease"),
    Flag("journal", "sqlite:hostport-journal.db", f"where decisions are kept: {' or '.join(FORMS)}", journal_kind),
    Flag(
        "reserved-ports",
        DEFAULT_RESERVED,
        f"numbers, ranges and presets ({', '.join(PRESETS)}) that Dynamic and Index never hand out",
        parse_reserved,
    ),
    Flag("reservation-ttl", f"{RESERVATION_SECONDS:g}s", "life of a reservation whose Pod is not seen", duration),
    Flag(
        "namespace-reservations",
        str(DEFAULT_SHARES.reservations),
        "reservations of one namespace whose Pods were not seen, at most; where it enforces Pod Security baseline or"
        f" restricted {HANDFUL.reservations}; 0: any number, there too",
        count,
    ),
    Flag(
        "namespace-reserved-ports",
        str(DEFAULT_SHARES.reserved_ports),
        f"ports of all of those, at most; where Pod Security is enforced {HANDFUL.reserved_ports}; 0: any number",
        count,
    ),
    Flag(
        "namespace-leases", str(DEFAULT_SHARES.leases), "ports that one namespace leases, at most; 0: any number", count
    ),
    Flag(
        "disclose-holders",
        "same-namespace",
        "whom a denial names as the holder of a port: those of the same-namespace, or all",
        one_of("same-namespace", "all"),
    ),
    Flag(
        "cool-down",
        f"{COOL_DOWN_SECONDS:g}s",
        "how long Dynamic leaves a number alone that somebody gave up on the node, while others are free; up to 1h",
        cool_down,
    ),
    Flag(
        "reuse",
        Reuse.LOWEST.value,
        "which number Dynamic gives of those that are free everywhere: the lowest, the oldest (unused, or given up"
        " longest ago), or a random one",
        reuse,
    ),
    Flag("when-full", "Deny", "what becomes of a Pod for which every candidate is full: Deny or Pending", when_full),
    Flag(
        "certificates",
        "files",
        "files (--tls-cert and so on), or builtin: made here, and kept in Secrets of --lease-namespace",
        one_of("files", "builtin"),
    ),
    Flag("certificate-names", "", "more names and addresses, with commas, for which built-in certificates hold", names),
    Flag("certificate-lifetime", "720h", "life of a built-in certificate; two thirds of it are used", duration),
    Flag("ca-lifetime", "8760h", "life of the built-in authority; two thirds of it are used", duration),
    Flag(
        "certificate-propagation",
        "10m",
        "how long a changed Secret or webhook configuration may take until it is used everywhere",
        duration,
    ),
    Flag("webhook-configuration", "hostport-operator", "where the built-in authority makes itself known"),
    Flag("tls-cert", "", "PEM file with the certificate chain of the gRPC service"),
    Flag("tls-key", "", "PEM file with its private key"),
    Flag("tls-client-ca", "", "PEM file with the CA that client certificates must come from, beside the built-in one"),
    ALSO_TRUST,
    CERTIFICATE_DELAY,
    Flag("shim-name", "hostport-shim", "common name of the certificates of shims, which alone allocate for Pods"),
    Flag(
        "listen-tokens",
        "",
        "address for callers with a ServiceAccount token and no certificate; empty: none",
        _optional,
    ),
    Flag(
        "listen-health",
        "",
        "address for grpc.health.v1 alone, in plain text as the kubelet's grpc probe speaks it; empty: none",
        _optional,
    ),
    Flag("token-audience", "hostport.io", "audience that those tokens must have"),
    Flag(
        "agent-account",
        "",
        "ServiceAccount of the agents of nodes, NAMESPACE/NAME, whose tokens come to --listen-tokens; empty: no agents",
        _account,
    ),
    Flag("insecure", False, "allow plain text on an address that is not loopback"),
    Flag("log-level", "info", "debug, info, warning or error", log_level),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One field for each flag, parsed."""

    listen: Address
    http: Address
    page: Audience
    page_hosts: frozenset[str]
    cluster: str
    kubeconfig: str
    journal: Callable[[CommitMeters], Journal]  # makes it
    reserved_ports: ReservedNumbers
    reservation_ttl: float
    namespace_reservations: int
    namespace_reserved_ports: int
    namespace_leases: int
    disclose_holders: str
    lease_namespace: str
    port_leases: bool
    pod_name: str
    pod_uid: str
    cool_down: float
    reuse: Reuse
    when_full: WhenFull
    certificates: str
    certificate_names: tuple[str, ...]
    certificate_lifetime: float
    ca_lifetime: float
    certificate_propagation: float
    webhook_configuration: str
    tls_cert: str
    tls_key: str
    tls_client_ca: str
    also_trust: tuple[Path, ...]
    certificate_delay: float
    shim_name: str
    listen_tokens: Address | None
    listen_health: Address | None
    token_audience: str
    agent_account: str
    insecure: bool
    log_level: str

    @property
    def tells_callers_apart(self) -> bool:
        """Whether TLS says who calls, and an API server what they may do."""
        return (self.is_builtin or bool(self.tls_cert)) and self.cluster == "kubernetes"

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Config:
        """The configuration that parsed arguments make.

        Raises:
            ConfigError: they do not go together.

        """
        config = cls(**{flag.attribute: getattr(arguments, flag.attribute) for flag in FLAGS})
        if config.lease_namespace and not (config.cluster == "kubernetes" and config.pod_name and config.pod_uid):
            raise ConfigError("--lease-namespace needs --cluster kubernetes, --pod-name and --pod-uid")
        if config.port_leases and config.cluster != "kubernetes":
            raise ConfigError("--port-leases needs --cluster kubernetes")
        config._check_builtin()
        if bool(config.tls_cert) != bool(config.tls_key):
            raise ConfigError("--tls-cert and --tls-key go together")
        if config.tls_client_ca and not (config.tls_cert or config.is_builtin):
            raise ConfigError("--tls-client-ca needs --tls-cert and --tls-key, or --certificates builtin")
        if config.also_trust and (config.is_builtin or not config.tls_client_ca):
            raise ConfigError("--also-trust needs --certificates files and --tls-client-ca, beside which it is trusted")
        if config.listen_tokens and not config.tells_callers_apart:
            raise ConfigError("--listen-tokens needs --cluster kubernetes, and --tls-cert or --certificates builtin")
        if config.agent_account and not config.listen_tokens:
            raise ConfigError("--agent-account needs --listen-tokens, where agents show their tokens")
        if config.tells_callers_apart and not (config.tls_client_ca or config.is_builtin):
            raise ConfigError("--cluster kubernetes with --tls-cert needs --tls-client-ca: shims show certificates")
        if not (config.is_builtin or config.tls_cert or config.insecure or config.listen.is_loopback):
            raise ConfigError(
                f"--listen {config.listen} is not loopback: set --certificates builtin, or --tls-cert and --tls-key,"
                " or --insecure for plain text"
            )
        return config

    @property
    def is_builtin(self) -> bool:
        """Whether the certificates are our own."""
        return self.certificates == "builtin"

    def _check_builtin(self) -> None:
        if not self.is_builtin:
            return
        if not self.lease_namespace:
            raise ConfigError("--certificates builtin needs --lease-namespace")
        if self.certificate_delay:
            raise ConfigError("--certificate-delay is for --certificates files; see --certificate-propagation")
        if self.tls_cert or self.tls_key:
            raise ConfigError("--certificates builtin and --tls-cert, --tls-key exclude each other")
        if self.certificate_lifetime < 6 * self.certificate_propagation:
            raise ConfigError("--certificate-lifetime must be six times --certificate-propagation or more")
        if self.ca_lifetime < 2 * self.certificate_lifetime:
            raise ConfigError("--ca-lifetime must be twice --certificate-lifetime or more")
