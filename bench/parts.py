"""What each part of the installation costs the API server for a Pod: the watch, each entry, the policies, our patch.

One part is added after another, in turns as in `price`. Beside them stand

* the least that any webhook costs that is asked by an annotation: one entry, whose condition is a constant;
* one that is chosen by a label;
* a shape that we do not install: a MutatingAdmissionPolicy (Kubernetes 1.36) labels whoever asks, the entries and the
  policy are chosen by the label, and the answer changes it. It keeps what two entries are for, with one condition.

Needs KUBEBUILDER_ASSETS or Go, as `make e2e` does; no row without.
"""

from __future__ import annotations

import base64
import json
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import yaml

from bench.measure import Row
from bench.options import Options
from bench.pods import answer_of
from bench.price import (
    API_SERVER,
    ASKS,
    BASE,
    DOES_NOT,
    NONE,
    NULL,
    OURS,
    SETTLING_SECONDS,
    Field,
    Turn,
    bare_arm,
    bind_policies,
    new_arm,
    opened,
    price_of,
    turns,
)

ROUNDS_OF_EACH = 2
LABELLED = "asks-by-label"
LABEL = {"example.com/asks": "true"}
WATCH, FIRST, BOTH = "watch", "first", "both"
LEAST, CHOSEN, MARKED = "least", "chosen", "marked"
PATCHED, PATCHED_BOTH, PATCHED_ALL = "patched", "patched-both", "patched-all"
MARK = "example.com~1ports"  # as a JSON Pointer has it
ADMISSION = "admissionregistration.k8s.io/v1"
CREATIONS = {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}
OF_MARKED = {"matchLabels": {"kubernetes.io/metadata.name": MARKED}}
CONSTANT = [{"name": "constant", "expression": "false"}]

ROWS = {
    (DOES_NOT, WATCH): "a watch",
    (DOES_NOT, FIRST): "a watch, the first entry",
    (DOES_NOT, BOTH): "a watch, both entries",
    (DOES_NOT, OURS): "ours: a watch, both entries, the policies",
    (DOES_NOT, LEAST): "one entry with a constant condition",
    (DOES_NOT, CHOSEN): "one entry that is chosen by a label",
    (DOES_NOT, MARKED): "a policy that labels, entries that are chosen by its label",
    (ASKS, NONE): "nothing",
    (LABELLED, CHOSEN): "the null webhook, chosen by a label",
    (ASKS, PATCHED): "with our patch",
    (ASKS, PATCHED_BOTH): "with our patch, both entries",
    (ASKS, PATCHED_ALL): "with our patch, both entries, the policies",
    (ASKS, OURS): "ours: all that, and a watch",
    (ASKS, MARKED): "with our patch, a policy that labels, entries and policies that are chosen by its label",
}
"""Each row stands over NONE or, for Pods that ask, over NULL."""


def parts(options: Options) -> list[Row]:
    with opened("parts") as there:
        if there is None:
            return []
        install_parts(there)
        wanted = {key: what for key, what in ROWS.items() if is_wanted(what, options.only)}
        reports = turns(there, _kinds(wanted), options.rounds * ROUNDS_OF_EACH)
        return list(_rows(wanted, reports, statistics.median(there.collecting)))


def is_wanted(what: str, only: Sequence[str]) -> bool:
    return not only or any(word in what for word in only)


def _kinds(rows: Iterable[tuple[str, str]]) -> dict[str, Sequence[str]]:
    """The kinds of Pods that are measured in each arm."""
    arms: dict[str, list[str]] = {NONE: [DOES_NOT], NULL: [ASKS]}
    for kind, arm in rows:
        arms.setdefault(arm, []).append(kind)
    return {**arms}


def install_parts(there: Field) -> None:
    """The arms beside those of `price`."""
    body = json.loads((there.folder / f"{ASKS}.json").read_text())
    body["metadata"]["labels"] = LABEL
    (there.folder / f"{LABELLED}.json").write_text(json.dumps(body))
    with there.following():
        (there.folder / "answer.json").write_bytes(answer_of(there.shim, there.plane.pki.ca, there.folder))
    answer = f"--answer={there.folder / 'answer.json'}"
    first, again = yaml.safe_load((BASE / "webhook.yaml").read_text())["webhooks"][:2]
    bare_arm(there, WATCH, there.following)
    for arm, entries in ((FIRST, [first]), (BOTH, [first, again])):
        new_arm(there, arm, entries, "bench.null_webhook")
        there.running[arm] = there.following
    chosen = {key: value for key, value in first.items() if key != "matchConditions"}
    for arm, entries, more in (
        (LEAST, [first | {"matchConditions": CONSTANT}], ()),
        (CHOSEN, [chosen | {"objectSelector": {"matchLabels": LABEL}}], ()),
        (PATCHED, [first], (answer,)),
        (PATCHED_BOTH, [first, again], (answer,)),
        (PATCHED_ALL, [first, again], (answer,)),
    ):
        new_arm(there, arm, entries, "bench.null_webhook", *more)
        there.running[arm] = lambda: nullcontext({})
    _install_marked(there, [first, again])
    bind_policies(there, [OURS, PATCHED_ALL])
    time.sleep(SETTLING_SECONDS)


def _install_marked(there: Field, entries: Sequence[dict[str, Any]]) -> None:
    """The shape in which a label says who asks and who was answered."""
    answer = json.loads((there.folder / "answer.json").read_text())
    ops = json.loads(base64.b64decode(answer["response"]["patch"]))
    ops.append({"op": "add", "path": f"/metadata/labels/{MARK}", "value": "given"})
    answer["response"]["patch"] = base64.b64encode(json.dumps(ops, separators=(",", ":")).encode()).decode()
    (there.folder / "marked.json").write_text(json.dumps(answer, separators=(",", ":")))
    chosen = [
        {key: value for key, value in each.items() if key != "matchConditions"} | {"objectSelector": with_mark(*values)}
        for each, values in zip(entries, (("asked", "given"), ("asked",)), strict=True)
    ]
    new_arm(there, MARKED, chosen, "bench.null_webhook", f"--answer={there.folder / 'marked.json'}")
    there.running[MARKED] = lambda: nullcontext({})
    [asks] = entries[0]["matchConditions"]
    there.plane.kubectl.apply(*_marking(asks), *_policy_of_the_marked())


def _marking(asks: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The policy that writes the label, for the namespace of the arm alone."""
    op = 'JSONPatch{op: "add", path: '
    has_labels = f'[{op}"/metadata/labels/{MARK}", value: "asked"}}]'
    has_none = f'[{op}"/metadata/labels", value: {{"{MARK.replace("~1", "/")}": "asked"}}}}]'
    written = {"expression": f"has(object.metadata.labels) ? {has_labels} : {has_none}"}
    spec = {
        "matchConstraints": {"resourceRules": [CREATIONS]},
        "matchConditions": [asks],
        "reinvocationPolicy": "Never",
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": written}],
    }
    yield {"apiVersion": ADMISSION, "kind": "MutatingAdmissionPolicy", "metadata": {"name": MARKED}, "spec": spec}
    bound = {"policyName": MARKED, "matchResources": {"namespaceSelector": OF_MARKED}}
    kind = "MutatingAdmissionPolicyBinding"
    yield {"apiVersion": ADMISSION, "kind": kind, "metadata": {"name": MARKED}, "spec": bound}


def _policy_of_the_marked() -> Iterator[dict[str, Any]]:
    """Our policy on creations, chosen by the label."""
    for each in yaml.safe_load_all((BASE / "admission-policies.yaml").read_text()):
        if each["metadata"]["name"] == "hostport-every-port-given":
            each["metadata"]["name"] = MARKED
            if each["kind"].endswith("Binding"):
                each["spec"] |= {"policyName": MARKED, "matchResources": {"namespaceSelector": OF_MARKED}}
            else:
                each["spec"]["matchConstraints"]["objectSelector"] = with_mark("given")
            yield each


def with_mark(*values: str) -> dict[str, Any]:
    """A selector of what has one of these values of the label."""
    return {"matchExpressions": [{"key": MARK.replace("~1", "/"), "operator": "In", "values": [*values]}]}


def _rows(
    rows: Mapping[tuple[str, str], str], reports: dict[tuple[str, str], list[Turn]], collecting: float
) -> Iterator[Row]:
    for (kind, arm), what in rows.items():
        over = NONE if kind == DOES_NOT else NULL
        bare = reports[over, DOES_NOT if kind == DOES_NOT else ASKS]
        mine = reports[arm, kind]
        cpu, garbage = (statistics.median(of(each) for each in mine) for of in (_cpu, _garbage))
        beside = f"{cpu:,.0f} µs and {garbage:,.0f} KiB of garbage"
        whom = f"API server CPU for a Pod that {'does not ask' if kind == DOES_NOT else 'asks'}"
        yield Row(
            bench="parts",
            what=f"{whom}, {what}, over {'nothing' if over == NONE else 'the null webhook'}",
            unit="ms",
            ours=price_of(mine, collecting),
            bare=price_of(bare, collecting),
            beside=beside,
            is_paired=True,
        )


def _cpu(turn: Turn) -> float:
    return turn.cpu[API_SERVER]


def _garbage(turn: Turn) -> float:
    return turn.garbage / 1024
