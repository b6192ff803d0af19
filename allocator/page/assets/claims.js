// The table of claims, what changed last first.

import { ask, asked, onAsked } from "./asked.js";
import { by, keep, make, showCommand } from "./dom.js";
import { Refresher } from "./source.js";
import { cell, guarded, manual, showPages, stateOf } from "./views.js";
import { count, numbersOf, timeOf } from "./words.js";

const FIRST_CLAIM = `kubectl apply -f examples/distributed-db.yaml`;
const FIRST_LEASE =
  `grpcurl -plaintext -d '{"owner": {"kind": "Relay", "name": "r1"}, "policy": "POLICY_DYNAMIC", "ports": [{}]}' \\\n` +
  `  127.0.0.1:50051 hostport.v1.AllocatorService/Allocate`;

export const claims = new Refresher(async () => {
  const query = Object.fromEntries(["q", "state", "namespace", "node", "page"].map((word) => [word, asked[word]]));
  const view = await guarded("/claims", query);
  if (view) showClaims(view);
}, 2000);

let firstClaims = true;

function showClaims(view) {
  const filtered = ["q", "state", "namespace", "node"].some((word) => asked[word]);
  by("claims-count").textContent = filtered ? `${count(view.matching)} found` : count(view.matching);
  keep(by("claim-rows"), view.rows, (row) => row.id, () => make("tr", { role: "row", class: firstClaims ? null : "fresh" }), updateClaim);
  firstClaims = false;
  by("claim-rows").parentElement.hidden = !view.rows.length;
  showPages(by("claims-pages"), view, (page) => ask({ page }));
  showCommand(by("claims-command"), view.command);
  showAnswer(view.answer);
  const empty = by("claims-empty");
  empty.hidden = Boolean(view.rows.length);
  if (view.rows.length) return;
  if (filtered) {
    empty.replaceChildren("No claim is like that. ", make("button", { type: "button", onclick: clearFilters }, "Clear the filters"));
  } else {
    empty.replaceChildren("Nobody holds a port yet. Create a Pod that asks for one, or lease one:",
      make("code", {}, `${FIRST_CLAIM}\n${FIRST_LEASE}`));
  }
}

/** The sentence that answers a search, at the top of the page. */
function showAnswer(answer) {
  by("answer").hidden = !answer;
  if (by("answer-text").textContent !== (answer?.text ?? "")) by("answer-text").textContent = answer?.text ?? "";
  if (answer) showCommand(by("answer-command"), answer.command);
}

function clearFilters() {
  by("q").value = "";
  ask({ q: "", state: "", namespace: "", node: "", page: "" });
}

function updateClaim(tr, row) {
  const { namespace, name, kind } = row.owner;
  const ends = row.expires && make("span", { class: "note" }, timeOf(row.expires, { until: true }));
  tr.replaceChildren(
    cell({ class: "owner" },
      namespace && make("button", { type: "button", class: "text muted", title: `Only namespace ${namespace}`,
        onclick: () => ask({ namespace, page: "" }) }, `${namespace}/`),
      make("b", {}, name || "(unnamed)"), kind !== "Pod" && make("span", { class: "note" }, kind)),
    cell({}, stateOf(row.state, row.terminating ? "terminating" : ""),
      row.warnings.length > 0 && make("span", { class: "note warned", title: row.warnings.join(", ") },
        "⚠ ", ...row.warnings.flatMap((word, at) => [at ? ", " : "", manual("contract.html#warnings", word)]))),
    cell({}, row.node && make("a", { href: `/?${new URLSearchParams({ name: row.node, open: row.node })}#nodes`, class: "text",
      title: `Open node ${row.node}`, onclick: (event) => openFromTable(event, row.node) }, row.node),
    row.planned && make("span", { class: "note beside" }, " planned"),
    row.unplaceable && make("span", { class: "note bad" }, "✗ fits on no node")),
    cell({}, make("span", { class: "ports" }, ...row.ports.map((port) =>
      make("span", {}, numbersOf(port), make("small", {}, `/${port.protocol}${port.name ? ` ${port.name}` : ""}`)))),
    silentOf(row.ports),
    row.own_network && make("span", { class: "note", title: "hostport.io/network: Pod" }, "mapped into the Pod's own network")),
    cell({}, timeOf(row.created), ends || ""));
}

/** What is said of ports on which nobody listens, where that is known. */
function silentOf(ports) {
  const silent = ports.filter((port) => port.listening === false).map(numbersOf);
  return silent.length > 0 && make("span", { class: "note warned" }, "✗ nobody listens",
    silent.length < ports.length ? ` on ${silent.join(", ")}` : "");
}

/** A click opens the node here; with a key it opens elsewhere, as any link does. */
function openFromTable(event, node) {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  ask({ open: node, name: node, nodes_page: "" });
  by("nodes").scrollIntoView();
}

onAsked(["q", "state", "namespace", "node", "page"], () => claims.now());
