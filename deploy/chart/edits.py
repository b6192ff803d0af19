"""What of deploy/base becomes a value of the chart: for each object its edits, for each kind whether it is optional."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from spans import Document

NAME = "app.kubernetes.io/name"
Edit = Callable[[Document], None]

POD = "spec/template/spec"
EXCLUDED = "<%- range .Values.excludedNamespaces %>, <% . %><%- end %>"
SECOND = ".Values.secondQuestion"
BY_LABEL = ".Values.onlyLabelledNamespaces"
BRINGS = "          && 'hostport.io/allocation-id' in object.metadata.annotations\n"


def program(name: str, *flags: tuple[str, str], containers: int = 1) -> Edit:
    """What both Deployments have in common; `flags` are (flag, value of the chart). All containers are of one kind."""

    def edit(deployment: Document) -> None:
        for each in range(containers):
            edit_container(deployment, f"{POD}/containers/{each}")
        deployment.wrap(f"{POD}/priorityClassName", "if .Values.priorityClassName")
        deployment.replace(f"{POD}/priorityClassName", "<% .Values.priorityClassName %>")
        deployment.append(f"{POD}/tolerations", "<%- toYaml . | nindent 8 %>", f"with .Values.{name}.tolerations")
        deployment.append(POD, "imagePullSecrets: <%- toYaml . | nindent 8 %>", "with .Values.image.pullSecrets")
        deployment.append(POD, "nodeSelector: <%- toYaml . | nindent 8 %>", f"with .Values.{name}.nodeSelector")

    def edit_container(deployment: Document, path: str) -> None:
        deployment.replace(f"{path}/image", f'<% include "hostport.image" (list $ "{name}") %>')
        deployment.replace(f"{path}/resources", f"<%- toYaml .Values.{name}.resources | nindent 12 %>")
        for flag, value in flags:
            deployment.append(f"{path}/args", f"- --{flag}=<% .Values.{value} %>", f"if .Values.{value}")
        deployment.append(f"{path}/args", "<%- toYaml . | nindent 12 %>", f"with .Values.{name}.extraArgs")
        deployment.append(path, "imagePullPolicy: <% . %>", "with .Values.image.pullPolicy")

    return edit


def replicas(name: str) -> Edit:
    return lambda deployment: deployment.replace("spec/replicas", f"<% .Values.{name}.replicas %>")


def webhook(configuration: Document) -> None:
    """The entry between the two fails open anyway. What all three have in common stands in the first.

    Without a second question that one is for every Pod that asks, and stands alone.
    """
    for each in (0, 2):
        configuration.replace(f"webhooks/{each}/failurePolicy", "<% .Values.failurePolicy %>")
    for path in ("name", "matchConditions/0/name"):
        with_second, alone = (configuration.scalar(f"webhooks/{each}/{path}") for each in (0, 1))
        configuration.replace(f"webhooks/0/{path}", f'<% ternary "{with_second}" "{alone}" {SECOND} %>')
    configuration.wrap_text(BRINGS, f"if {SECOND}")
    configuration.wrap("webhooks/1", f"if {SECOND}", until="webhooks/2")
    labelled(configuration, "webhooks/0/namespaceSelector/matchExpressions/1")
    configuration.append_inline("webhooks/0/namespaceSelector/matchExpressions/0/values", EXCLUDED)
    configuration.append("webhooks/0/clientConfig", "caBundle: <% . %>", "with .Values.certificates.caBundle")


def issued(*durations: tuple[str, str]) -> Edit:
    """A Certificate of cert-manager; `durations` are (field, value of the chart)."""

    def edit(certificate: Document) -> None:
        for field, value in durations:
            certificate.replace(f"spec/{field}", f"<% .Values.certificates.{value} %>")

    return edit


def issuer(certificate: Document) -> None:
    """The one that the values name, or the authority of our own."""
    reference = '.Values.certificates.issuerRef | default (dict "name" "hostport-ca")'
    certificate.replace("spec/issuerRef", f"<% {reference} | toJson %>")


LEAF = issued(("duration", "duration"), ("renewBefore", "renewBefore"))
AUTHORITY = issued(("duration", "caDuration"), ("renewBefore", "caRenewBefore"))


def labelled(document: Document, expression: str) -> None:
    """Namespaces that the label takes out, or those alone that it takes in."""
    document.replace(f"{expression}/operator", f'<% ternary "In" "NotIn" {BY_LABEL} %>')
    document.replace(f"{expression}/values/0", f'<% ternary "enabled" "ignore" {BY_LABEL} %>')


def excluded(binding: Document) -> None:
    labelled(binding, "spec/matchResources/namespaceSelector/matchExpressions/1")
    namespaces = "spec/matchResources/namespaceSelector/matchExpressions/0"
    if binding.is_inline(namespaces):
        binding.append_inline(f"{namespaces}/values", EXCLUDED)
    else:
        binding.append(f"{namespaces}/values", "- <% . %>", "range .Values.excludedNamespaces")


def budget(document: Document) -> None:
    document.replace("spec/minAvailable", "<% .Values.podDisruptionBudget.minAvailable %>")


def keep(definition: Document) -> None:
    """Deleting the definition would end every lease: Helm leaves it where it is."""
    add_to_mapping(definition, "metadata", "annotations", 'helm.sh/resource-policy: "keep"')


EDITS: Mapping[tuple[str, str], tuple[Edit, ...]] = {
    ("Deployment", "hostport-allocator"): (
        program(
            "allocator",
            ("when-full", "whenFull"),
            ("reserved-ports", "reservedPorts"),
            ("disclose-holders", "discloseHolders"),
            ("log-level", "logLevel"),
        ),
        replicas("allocator"),
    ),
    ("Deployment", "hostport-shim"): (program("shim", ("log-level", "logLevel"), containers=2), replicas("shim")),
    ("MutatingWebhookConfiguration", "hostport-operator"): (webhook,),
    ("ValidatingAdmissionPolicyBinding", "hostport-annotations-stay"): (excluded,),
    ("ValidatingAdmissionPolicyBinding", "hostport-bindings-carry-nothing"): (excluded,),
    ("ValidatingAdmissionPolicyBinding", "hostport-every-port-given"): (excluded,),
    ("ValidatingAdmissionPolicyBinding", "hostport-ports-given"): (excluded,),
    ("PodDisruptionBudget", "hostport-shim"): (budget,),
    ("Certificate", "hostport-ca"): (AUTHORITY,),
    ("Certificate", "hostport-shim-tls"): (LEAF, issuer),
    ("Certificate", "hostport-allocator-tls"): (LEAF, issuer),
}


def more_labels(rule: Document) -> None:
    """By which a Prometheus operator finds its rules."""
    add_to_mapping(rule, "metadata", "labels", "<%- with .Values.alerts.labels %><%- toYaml . | nindent 4 %><%- end %>")


KINDS: Mapping[str, tuple[Edit, ...]] = {"CustomResourceDefinition": (keep,), "PrometheusRule": (more_labels,)}

OPTIONAL = {
    "PodDisruptionBudget": ".Values.podDisruptionBudget.enabled",
    "NetworkPolicy": ".Values.networkPolicy.enabled",
    "ValidatingAdmissionPolicy": ".Values.admissionPolicies.enabled",
    "ValidatingAdmissionPolicyBinding": ".Values.admissionPolicies.enabled",
    "PriorityLevelConfiguration": ".Values.flowControl.enabled",
    "FlowSchema": ".Values.flowControl.enabled",
}
"""Kind → the value that it depends on."""

POLICY_KINDS = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
ASKED_ANEW = 'or .Values.secondQuestion (eq .Values.failurePolicy "Ignore")'
"""Where an entry that is asked anew fails open."""
OWN_AUTHORITY = "not .Values.certificates.issuerRef"
NARROWED = {
    ("Issuer", "hostport-selfsigned"): OWN_AUTHORITY,
    ("Issuer", "hostport-ca"): OWN_AUTHORITY,
    ("Certificate", "hostport-ca"): OWN_AUTHORITY,
    **{(kind, "hostport-every-port-given"): ASKED_ANEW for kind in POLICY_KINDS},
}
"""Object → on what it depends as well."""


def labels(document: Document) -> None:
    """The labels that say whose everything is; in Pods as well."""
    if document.kind == "Deployment":
        add_to_mapping(
            document, "spec/template/metadata", "labels", '<%- include "hostport.podLabels" . | nindent 8 %>'
        )
    if document.is_inline("metadata"):
        document.append_inline("metadata", ', labels: <% include "hostport.labels" . | fromYaml | toJson %>')
    else:
        named = NAME in document.keys("metadata/labels")
        helper = "hostport.releaseLabels" if named else "hostport.labels"
        add_to_mapping(document, "metadata", "labels", f'<%- include "{helper}" . | nindent 4 %>')


def add_to_mapping(document: Document, parent: str, key: str, line: str) -> None:
    """Adds lines to a mapping, which is made where it is missing."""
    if document.has(f"{parent}/{key}"):
        document.append(f"{parent}/{key}", line)
    else:
        document.append(parent, f"{key}:\n  {line}")
