"""What only an API server makes possible: the watch, the Lease, PortLeases, Events, reviews, built-in certificates.

Imported only for `--cluster kubernetes`, since the client of the API server takes 0.3 s and 44 MiB.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from allocator.access.guard import Guard
from allocator.access.reviews import Reviews
from allocator.app.build import Collaborators
from allocator.certificates.authority import CertificateRules
from allocator.certificates.keeper import CertificateKeeper
from allocator.certificates.objects import CertificateSettings
from allocator.certificates.serving import BuiltInCertificate
from allocator.clock import Clock
from allocator.cluster.client import ApiClient
from allocator.cluster.credentials import loader
from allocator.cluster.elector import LeaderElector
from allocator.cluster.events import EventWriter
from allocator.cluster.kubernetes import KubernetesCluster
from allocator.cluster.lease import Holder, Legacy
from allocator.cluster.signpost import Signpost
from allocator.config import Config
from allocator.engine import Engine
from allocator.journal.contract import Journal, always
from allocator.leases.reconciler import LeaseReconciler, PortLeases

DEFAULT_NAMESPACE = "default"  # of leases that name none, where no allocator has a Pod of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesParts:
    """See the module. What is None was not asked for."""

    client: ApiClient  # the one of all the others; whoever runs them closes it last
    watch: KubernetesCluster
    events: EventWriter
    elector: LeaderElector | None
    leases: PortLeases | None
    reviews: Reviews | None
    signpost: Signpost | None
    serving: BuiltInCertificate | None  # the built-in certificate, as it is served
    keeper: CertificateKeeper | None  # who makes and keeps it

    def joined(self, given: Collaborators, config: Config) -> Collaborators:
        """The collaborators of any cluster, and these."""
        elector = self.elector
        guard = Guard(
            self.reviews,
            home=config.lease_namespace,
            shim_name=config.shim_name,
            audience=config.token_audience,
            agent_account=config.agent_account,
        )
        return replace(
            given,
            info=replace(given.info, epoch=elector.identity.rpartition("/")[2] if elector else ""),
            guard=guard,
            watch=self.watch,
            event=self.events.tell,
            event_counts=self.events.counts,
            lease=elector,
            holds_lease=elector.is_valid if elector else None,
            who_serves=self._who_serves,
            leases=self.leases,
            lease_namespace=(config.lease_namespace or DEFAULT_NAMESPACE) if self.leases else "",
            own_certificate=self.keeper,
        )

    def reconciler(self, engine: Engine, journal: Journal) -> LeaseReconciler | None:
        """Who keeps PortLeases and the leases of the engine the same."""
        return self.leases.reconciler(engine.recovery, legacy=partial(self._legacy, journal)) if self.leases else None

    def _who_serves(self) -> str:
        """The Pod of another allocator that serves; empty where none is known."""
        other = self.elector.other if self.elector else None
        return (other.pod_name or other.identity) if other else ""

    def _legacy(self, journal: Journal) -> Legacy:
        """Without a Lease there is one allocator with one journal, which may have begun anew."""
        if self.elector is not None:
            return self.elector.legacy
        return Legacy.NOTHING if journal.began_anew_at else Legacy.JOURNAL


def kubernetes_parts(config: Config, journal: Journal, clock: Clock, may_answer: Callable[[], bool]) -> KubernetesParts:
    """What the flags ask of an API server. `may_answer`: whether we may write what only the one that serves writes."""
    client = ApiClient(loader(config.kubeconfig))
    instance = config.pod_name or socket.gethostname()
    events = EventWriter(client, instance=instance, may_write=may_answer)
    elector = _leader_elector(config, client) if config.lease_namespace else None
    serving = BuiltInCertificate(now=clock.wall()) if config.is_builtin else None
    leases = None
    if config.port_leases:
        holds_lease = elector.is_valid if elector else always
        leases = PortLeases(client, journal, may_write=holds_lease, clock=clock)
    signpost = None
    if elector is not None:
        home = {"namespace": config.lease_namespace, "pod_name": config.pod_name}
        signpost = Signpost(client, **home, may_write=may_answer)
    return KubernetesParts(
        client=client,
        watch=KubernetesCluster(client, ends=clock, tell=events.tell),
        events=events,
        elector=elector,
        leases=leases,
        reviews=Reviews(client, audience=config.token_audience) if config.tells_callers_apart else None,
        signpost=signpost,
        serving=serving,
        keeper=_keeper(config, client, serving, elector) if serving and elector else None,
    )


def _leader_elector(config: Config, client: ApiClient) -> LeaderElector:
    me = Holder(pod_uid=config.pod_uid, pod_name=config.pod_name, start=secrets.token_hex(8))
    return LeaderElector(client, me, namespace=config.lease_namespace)


def _keeper(
    config: Config, client: ApiClient, serving: BuiltInCertificate, elector: LeaderElector
) -> CertificateKeeper:
    settings = CertificateSettings(
        namespace=config.lease_namespace,
        webhook=config.webhook_configuration,
        shim_name=config.shim_name,
        more_names=config.certificate_names,
        rules=CertificateRules(
            authority_seconds=config.ca_lifetime,
            certificate_seconds=config.certificate_lifetime,
            propagation_seconds=config.certificate_propagation,
        ),
    )
    return CertificateKeeper(
        client,
        settings,
        serving,
        callers=Path(config.tls_client_ca).read_text if config.tls_client_ca else str,
        may_write=elector.is_valid,
    )
