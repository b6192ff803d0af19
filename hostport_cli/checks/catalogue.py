"""The checks: what must hold, what it means when it does not, and what to do. docs/checks.md is made of it."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from hostport.version import DOCS

PAGE = f"{DOCS}checks.html"
INTRODUCTION = (
    "`hostport check` looks at an installation from outside, as its users and its API server see it, and names the"
    " part that is broken. `✓` holds, `‼` will not hold for long or could not be checked, `✗` does not hold. The exit"
    " status is 1 when anything does not hold; `--wait 5m` repeats it until all holds. It changes nothing, save that"
    " `--probe-hostport` makes a Pod and deletes it."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check. `holds` is the sentence that is shown; `looks_at` and `when_not` are for the page."""

    id: str
    group: str
    holds: str
    looks_at: str
    when_not: str

    @property
    def link(self) -> str:
        return f"{PAGE}#{self.id}"


CHECKS = {
    check.id: check
    for check in (
        Check(
            id="api-answers",
            group="Kubernetes",
            holds="the API server answers",
            looks_at="`/version`, through kubectl.",
            when_not=(
                "Nothing else about the cluster can be checked. Does `kubectl version` work? Name the cluster "
                "with `--context` or `--kubeconfig`."
            ),
        ),
        Check(
            id="api-version",
            group="Kubernetes",
            holds="its version is supported",
            looks_at="`/version`: 1.34 or newer.",
            when_not="Older API servers are not tested; they may refuse what `make deploy` applies.",
        ),
        Check(
            id="hostports-forwarded",
            group="Kubernetes",
            holds="the network forwards host ports",
            looks_at=(
                "Only with `--probe-hostport`: a Pod with a network of its own and host port 29999 is made in the "
                "namespace of `-n`, on a ready node, which asks its own address there; then it is deleted."
            ),
            when_not=(
                "`hostport.io/network: Pod` does not work: nobody answers at the number. The network plug-in lacks "
                "portmap (`capabilities: {portMappings: true}` in the CNI configuration), or Cilium runs without "
                "`hostPort.enabled` or kube-proxy replacement. Use `hostport.io/network: Host`."
            ),
        ),
        Check(
            id="pre-apis",
            group="Before an installation (`--pre`)",
            holds="the API server has what an installation needs",
            looks_at="The API groups of webhooks, admission policies, flow control, custom resources and Events.",
            when_not="What lacks an API cannot be applied. All of them are on by default in Kubernetes 1.34 and newer.",
        ),
        Check(
            id="pre-rights",
            group="Before an installation (`--pre`)",
            holds="you may make what an installation makes",
            looks_at=(
                "A SelfSubjectAccessReview for each kind of object in the manifests. What values of the chart add "
                "(agents, dashboard, alerts, PodMonitor, cert-manager) is not looked at, nor are the Secrets of Helm."
            ),
            when_not=(
                "`helm install` or `make deploy` would stop half-way. Install as somebody who may: the role "
                "cluster-admin is enough, and nothing of it is needed afterwards."
            ),
        ),
        Check(
            id="pre-free",
            group="Before an installation (`--pre`)",
            holds="nothing of ours is installed yet",
            looks_at="Whether there is a MutatingWebhookConfiguration `hostport-operator`.",
            when_not=(
                "Two installations would answer for the same Pods. `hostport check`, without `--pre`, looks at the one "
                "that is there."
            ),
        ),
        Check(
            id="pre-reachable",
            group="Before an installation (`--pre`)",
            holds="the API server will reach the webhook, as far as is known",
            looks_at=(
                "Which platform the nodes are of (their `providerID`), and on EKS whether the VPC CNI is there. The "
                "way itself can be tried only when a webhook is there: `hostport check` does."
            ),
            when_not=(
                "The API server of that platform may not reach port 8443 of a Pod; Pods that ask for host ports are "
                "then refused. See [Platforms](platforms.md)."
            ),
        ),
        Check(
            id="webhook-installed",
            group="Webhook",
            holds="the webhook is installed",
            looks_at=(
                "The MutatingWebhookConfiguration `hostport-operator`: a webhook for the creation of Pods is in it."
            ),
            when_not=(
                "Pods that ask for host ports are created without any. The emergency command of the README removes the "
                "webhook; `make deploy` installs it again. Pods that were created meanwhile have to be created "
                "anew."
            ),
        ),
        Check(
            id="webhook-insists",
            group="Webhook",
            holds="a Pod that asks for ports does not start without them",
            looks_at=(
                "`failurePolicy` is `Fail`, or it is `Ignore` and the ValidatingAdmissionPolicyBinding "
                "`hostport-ports-given` refuses Pods that were given none."
            ),
            when_not=(
                "While no shim answers, Pods that ask for host ports start without them. Set `failurePolicy: "
                "Fail`, or apply `deploy/base/admission-policies.yaml`."
            ),
        ),
        Check(
            id="shims-ready",
            group="Webhook",
            holds="a shim is ready",
            looks_at=(
                "The Pods with the label `app.kubernetes.io/name: hostport-shim` in the namespace of the "
                "installation. Not checked where the webhook is called by a URL."
            ),
            when_not=(
                "Pods that ask for host ports are refused (`failurePolicy: Fail`). `kubectl -n hostport-system "
                "describe pods` tells why no shim is ready."
            ),
        ),
        Check(
            id="webhook-trusted",
            group="Webhook",
            holds="the API server can trust the shim's certificate",
            looks_at=(
                "A TLS connection to the shim, with `caBundle` as the only authority and the name that the API "
                "server uses. Where a Service is called, kubectl forwards a port to it."
            ),
            when_not=(
                "The API server refuses to talk to the shim (`x509: certificate signed by unknown authority` in "
                "its messages). `caBundle` must hold the authority that signed the shim's certificate. An allocator "
                "that makes certificates itself writes it, cert-manager's CA injector does so in the overlay "
                "`cert-manager`, and with Secrets of your own you do: see [Certificates](certificates.md)."
            ),
        ),
        Check(
            id="webhook-certificate",
            group="Webhook",
            holds="the shim's certificate is good for a while",
            looks_at="When the certificate that the shim shows ends: a warning a week before, a failure a day before.",
            when_not=(
                "When it ends, the API server refuses to talk to the shim. A certificate that the allocator or "
                "cert-manager makes is renewed with a third of its life left: their logs say why it was not. One of "
                "your own is yours to renew; the shim takes it up within a second."
            ),
        ),
        Check(
            id="webhook-admits",
            group="Webhook",
            holds="a Pod that asks for a port is given one",
            looks_at=(
                "A dry run (`dryRun=All`) of a Pod with `hostport.io/enabled` and the labels of the `objectSelector`, "
                "in the namespace of `-n`: through API server, shim and allocator. Nothing is created or reserved."
            ),
            when_not=(
                "The message is the API server's. `x509` means certificates, `connection refused` and `no "
                "endpoints` that no shim answers, `TLS_FAILED` that shim and allocator do not accept each other's "
                "certificate, `ALLOCATOR_UNREACHABLE` that the shim does not reach the allocator."
            ),
        ),
        Check(
            id="allocator-answers",
            group="Allocator",
            holds="the allocator answers",
            looks_at=(
                "`GetStatus` of the allocator of `--server`, or through a forwarded port of the Service "
                "`hostport-allocator`."
            ),
            when_not=(
                "No host port is given out, and Pods that ask are refused. `kubectl -n hostport-system logs "
                "deployment/hostport-allocator` tells what it waits for or why it ended. If it runs and does not "
                "let you in, see `--cert` and `--service-account`."
            ),
        ),
        Check(
            id="allocator-serves",
            group="Allocator",
            holds="it serves",
            looks_at="What it says of itself.",
            when_not=(
                "It has started, and waits for its Lease, for the first full view of the cluster, or for what a "
                "predecessor may have admitted (36 s at most). If that does not pass, look at the rights and at "
                "the API server. One that stands by is as it should be: ask the one that serves."
            ),
        ),
        Check(
            id="allocator-alone",
            group="Allocator",
            holds="it is the only one",
            looks_at=(
                "The Leases `hostport-allocator` of all namespaces that were renewed within 15 seconds, the "
                "holder of the Lease against the allocator that answers, and webhook configurations of a second "
                "installation."
            ),
            when_not=(
                "Two allocators with books of their own hand the same port out twice. Remove one installation "
                "(`make undeploy`, `helm uninstall`); two Pods of one installation take turns by their Lease."
            ),
        ),
        Check(
            id="allocator-sees",
            group="Allocator",
            holds="its view of the cluster is current",
            looks_at=(
                "When the watch was last proven current: in a quiet cluster every 5 seconds. A warning after 10 "
                "seconds, a failure after 15; a warning where it may not list something, such as Services."
            ),
            when_not=(
                "Pods that are gone still hold their ports, and denials for want of a port become 503. The "
                "allocator does not reach the API server, or may not list and watch Pods: see "
                "`allocator-rights`, its log, and `hostport_watch_lag_seconds`."
            ),
        ),
        Check(
            id="allocator-rights",
            group="Allocator",
            holds="its ServiceAccount has the rights that it needs",
            looks_at=(
                "A SubjectAccessReview for each right of `deploy/base/allocator-rbac.yaml`, those for certificates "
                "where the allocator makes them. Needs the right to create such reviews; without a ServiceAccount "
                "`hostport-allocator` there is nothing to check."
            ),
            when_not=(
                "What is missing decides what breaks: without Pods and Nodes the view grows old, without the "
                "Lease it does not serve, without Events nobody is told. Apply `deploy/base/allocator-rbac.yaml` "
                "again."
            ),
        ),
        Check(
            id="allocator-journal",
            group="Allocator",
            holds="its journal is in order",
            looks_at="Whether the file was set aside at the start, and whether changes wait to be written.",
            when_not=(
                "A journal that could not be read was renamed to `*.corrupt-<time>` and a new one begun: Pods "
                "are held all the same, leases of other services may be forgotten. Changes that wait mean a disk "
                "that is full or broken."
            ),
        ),
        Check(
            id="allocator-clock",
            group="Allocator",
            holds="its clock was not set",
            looks_at="Whether the wall clock was set, or the allocator stopped for a while, since it began.",
            when_not=(
                "No lease ends by it: they end by a clock that goes on only while the allocator answers. But what "
                "people are told of times goes by the wall clock, and so do certificates. A virtual machine that was "
                "suspended or restored is another cause."
            ),
        ),
        Check(
            id="allocator-certificates",
            group="Allocator",
            holds="its certificates are good for a while",
            looks_at=(
                "When each certificate that it shows or keeps ends: a warning a week before, a failure a day before."
            ),
            when_not=(
                "When one ends, shims and services cannot talk to the allocator. As for `webhook-certificate`; new "
                "connections use a new one at once."
            ),
        ),
        Check(
            id="authority-trusted",
            group="Allocator",
            holds="an authority that it trusts is good for a while",
            looks_at=(
                "When the authorities end from which the certificates of shims and services may come, by the one that "
                "ends last: a warning a week before, a failure a day before. While one follows another there are two."
            ),
            when_not=(
                "When the last one ends, no shim is let in, and every Pod that asks for ports is refused. An authority "
                "that the allocator or cert-manager makes is followed in time: their logs say why it was not. With "
                "Secrets of your own, put the next one into every `ca.crt` now, beside the old one."
            ),
        ),
        Check(
            id="versions-fit",
            group="Allocator",
            holds="the versions of shims, allocator and this program fit",
            looks_at="What they say of themselves; a shim is known once it has called.",
            when_not="Only neighbouring minor versions are tested with each other. Finish the upgrade.",
        ),
        Check(
            id="books-placed",
            group="Books",
            holds="every Pod with ports has room for them",
            looks_at="Claims that fit on none of the nodes where their Pod may run.",
            when_not=(
                "Those Pods stay Pending. `hostport list` marks them `(unplaceable)`, `hostport explain POD` "
                "tells more: free a port, or add a node."
            ),
        ),
    )
}


def render() -> str:
    """docs/checks.md."""
    lines = [
        "<!-- Rendered by `make docs` from hostport_cli/checks/catalogue.py. Do not edit. -->",
        "# What `hostport check` checks",
        "",
        _paragraph(INTRODUCTION),
    ]
    group = ""
    for check in CHECKS.values():
        if check.group != group:
            group = check.group
            lines += ["", f"## {group}"]
        lines += ["", f"### {check.id}", "", f"{check.holds[0].upper()}{check.holds[1:]}.", ""]
        lines += [_paragraph(f"It looks at: {check.looks_at}"), "", _paragraph(f"When not: {check.when_not}")]
    return "\n".join(lines) + "\n"


def _paragraph(text: str) -> str:
    return textwrap.fill(text, 118, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    print(render(), end="")  # noqa: T201 - a generator's output
