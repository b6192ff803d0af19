// The status page. What is asked for stands in the address, so that a view can be shared; what is shown follows the
// allocator's stream. Nothing is ever changed from here.

import { by, commandParts, keep, make, showCommand } from "./dom.js";
import { Refresher, Stream, get } from "./source.js";
import { drawMap, drawStrip, forgetPaints, nodeAt, stripLabel } from "./strips.js";
import { STATES, age, count, listed, ownerName, setClock, tick, timeOf } from "./words.js";

const MAPPED_FROM = 12; // nodes; fewer are better seen as rows
const WORDS = ["range", "sort", "name", "nodes_page", "open", "q", "state", "namespace", "node", "page", "result"];
const FIRST_CLAIM = `kubectl apply -f examples/distributed-db.yaml`;
const FIRST_LEASE =
  `grpcurl -plaintext -d '{"owner": {"kind": "Relay", "name": "r1"}, "policy": "POLICY_DYNAMIC", "ports": [{}]}' \\\n` +
  `  127.0.0.1:50051 hostport.v1.AllocatorService/Allocate`;

const asked = Object.fromEntries(WORDS.map((word) => [word, new URLSearchParams(location.search).get(word) ?? ""]));
let seen = { claims: -1, decisions: -1 };
let mapped = { nodes: [], size: 1 };

// -- what is asked for

/** Asks for something else: the address follows, pages begin anew. */
function ask(changes) {
  Object.assign(asked, changes);
  if (troubled && troubled !== "/events") complain("", null); // it was about what was asked before
  const words = new URLSearchParams(WORDS.filter((word) => asked[word]).map((word) => [word, asked[word]]));
  history.replaceState(null, "", words.size ? `/?${words}` : "/");
  by("here").href = location.href;
  showAsked();
  const touches = (...names) => names.some((name) => name in changes);
  if (touches("range", "sort", "name", "nodes_page")) nodes.now();
  if (touches("range", "open")) openNode.now();
  if (touches("q", "state", "namespace", "node", "page")) claims.now();
  if (touches("result")) decisions.now();
}

function showAsked() {
  for (const [id, word] of [["sort", "sort"], ["node-name", "name"], ["q", "q"], ["state", "state"], ["result", "result"]]) {
    const control = by(id);
    if (control !== document.activeElement || control.tagName === "SELECT") {
      control.value = asked[word] || (word === "sort" ? "fullest" : "");
    }
  }
  for (const tile of document.querySelectorAll(".tile")) tile.setAttribute("aria-pressed", tile.dataset.state === asked.state);
  const chips = ["namespace", "node"].filter((word) => asked[word]);
  keep(by("chips"), chips.map((word) => ({ word, value: asked[word] })), (chip) => chip.word, () => make("li"), (item, chip) => {
    item.replaceChildren(make("button", {
      type: "button",
      "aria-label": `Remove the filter ${chip.word} ${chip.value}`,
      onclick: () => ask({ [chip.word]: "", page: "" }),
    }, `${chip.word} ${chip.value} ✕`));
  });
}

// -- the header

function showStatus(status) {
  setClock(status.now);
  const wrong = Object.entries(status.checks).filter(([, trouble]) => trouble);
  const health = by("health");
  const text = status.healthy ? "✓ Serving" : "✗ Not serving";
  if (health.textContent !== text) health.textContent = text;
  health.className = `health ${status.healthy ? "good" : "bad"}`;
  document.title = `${status.healthy ? "" : "✗ "}HostPort allocator`;
  showFacts(status);
  showTiles(status.claims);
  showTroubles(status, wrong);
  showRanges(status.ranges);
}

function showFacts(status) {
  const watch = status.watch_age_seconds;
  const facts = [
    ["Version", status.version],
    ["Instance", status.instance],
    status.epoch && ["Epoch", status.epoch],
    ["Up", age((Date.parse(status.now) - Date.parse(status.started)) / 1000)],
    ["Cluster", status.cluster],
    status.cluster === "kubernetes" && ["View proven", watch === null ? "not yet" : `${age(watch)} ago`],
    ["Nodes", count(status.nodes)],
    ["Readers", count(status.viewers)],
  ].filter(Boolean);
  keep(by("facts"), facts, ([name]) => name, ([name]) => make("div", {}, make("dt", {}, name), make("dd")),
    (element, [, value]) => { element.lastChild.textContent = value; });
}

function showTiles(states) {
  const tiles = Object.entries(STATES).map(([state, means]) => ({ state, means, claims: states[state] }));
  keep(by("tiles"), tiles, (tile) => tile.state, (tile) => make("li", {}, make("button", {
    type: "button",
    class: "tile",
    "data-state": tile.state,
    "aria-pressed": String(asked.state === tile.state),
    onclick: () => ask({ state: asked.state === tile.state ? "" : tile.state, page: "" }),
  }, make("span", { class: "name" }, make("span", { class: `swatch ${tile.state}` }), tile.state),
  make("b"), make("small", {}, tile.means))),
  (item, tile) => { item.querySelector("b").textContent = count(tile.claims); });
}

/** What is wrong, and what is worth knowing, each in a sentence. */
function showTroubles(status, wrong) {
  const { drift, incidents } = status;
  const troubles = [
    ...wrong.map(([check, trouble]) => ({ id: check, bad: true, text: `✗ ${check}: ${trouble}` })),
    ...status.notes.map((note) => ({ id: note, text: `‼ ${note}` })),
    drift.held_twice && { id: "twice", bad: true, text: `✗ ${count(drift.held_twice)} ports are held by two Pods on one node.` },
    drift.contradicted && { id: "contradicted", text:
      `‼ The scheduler turns down ${count(drift.contradicted)} claims although the books have room for them.` },
    drift.unsaved && { id: "unsaved", text: `‼ ${count(drift.unsaved)} changes wait to be written to the journal.` },
    ...Object.entries(status.certificates).filter(([, ends]) => daysTo(ends, status.now) < 7).map(([name, ends]) => ({
      id: name, bad: daysTo(ends, status.now) < 0, text: `‼ The certificate of ${name} ends ${ends.replace("T", " ").replace("Z", " UTC")}.`,
    })),
    Object.values(incidents).some(Boolean) && { id: "incidents", text:
      `‼ Incidents since the start: ${listed(incidents)}. The log and the Events of the Pods tell which.` },
  ].filter(Boolean);
  keep(by("troubles"), troubles, (trouble) => trouble.id, () => make("li"), (item, trouble) => {
    item.className = trouble.bad ? "bad" : "";
    item.textContent = trouble.text;
  });
}

const daysTo = (then, now) => (Date.parse(then) - Date.parse(now)) / 86400000;

function showRanges(ranges) {
  const select = by("range");
  const options = [...new Set([...ranges, asked.range, "1-65535"].filter(Boolean))];
  if (!ranges.length && !asked.range) options.unshift("7000-8000");
  keep(select, options, (range) => range, (range) => make("option", { value: range }, range.replace("-", "–")), () => {});
  if (asked.range) select.value = asked.range;
}

// -- nodes

const nodes = new Refresher(async () => {
  const view = await guarded("/nodes", { range: asked.range, sort: asked.sort, name: asked.name, nodes_page: asked.nodes_page });
  if (view) showNodes(view);
}, 2000);

function showNodes(view) {
  if (!asked.range) by("range").value = view.range;
  by("nodes-count").textContent = asked.name ? `${count(view.matching)} of ${count(view.total)}` : count(view.total);
  showFleet(view);
  const rows = view.rows.map((row) => ({ ...row, axis: view.axis, size: view.size }));
  keep(by("node-rows"), rows, (row) => row.name, nodeRow, updateNode);
  showPages(by("nodes-pages"), view, (page) => ask({ nodes_page: page }));
  showCommand(by("nodes-command"), view.command);
  if (asked.open && !document.querySelector(".detail")) openNode.soon();
}

function showFleet(view) {
  by("fleet").hidden = view.total < 2;
  if (view.total < 2) return;
  const all = view.size * view.total;
  const share = all ? (100 * view.used) / all : 0;
  by("fleet-used").textContent =
    `${count(view.used)} of ${count(all)} numbers used, ${share < 10 ? share.toFixed(1) : Math.round(share)} %`;
  const totals = Object.fromEntries(Object.entries(view.counts).map(([kind, counts]) => [kind, counts.reduce((a, b) => a + b, 0)]));
  by("fleet-strip").setAttribute("aria-label", stripLabel({ name: "All nodes", used: view.used, size: all, totals }));
  drawStrip(by("fleet-strip"), { axis: view.axis, counts: view.counts, nodes: view.total });
  showAxis(by("fleet-axis"), view.axis);
  const map = view.map && view.total >= MAPPED_FROM;
  by("map-figure").hidden = !map;
  if (!map) return;
  mapped = { nodes: view.map, size: view.size };
  by("map").setAttribute("aria-label", `How full each node is. ${tenths(view.tenths)}`);
  if (!by("map").matches(":hover")) by("map-says").textContent = tenths(view.tenths);
  drawMap(by("map"), { ...mapped, chosen: asked.open });
}

/** "620 nodes up to 10 % used, 380 up to 20 %", of those that there are. */
function tenths(found) {
  const said = found.map((nodes, tenth) => [nodes, tenth ? `up to ${tenth * 10} %` : "not used"]).filter(([nodes]) => nodes);
  return said.map(([nodes, where], place) => `${count(nodes)}${place ? "" : " nodes"} ${where}`).join(", ");
}

function showAxis(place, axis) {
  const middle = axis.low + Math.floor((axis.buckets * axis.width) / 2);
  place.replaceChildren(...[axis.low, middle, axis.high].map((number) => make("span", {}, String(number))));
}

function nodeRow(row) {
  const strip = make("canvas", { class: "strip", role: "img" });
  sizes.observe(strip);
  return make("li", {}, make("button", {
    type: "button", class: "node", "aria-expanded": "false",
    onclick: () => ask({ open: asked.open === row.name ? "" : row.name }),
  }, make("span", { class: "name" }), strip, make("span", { class: "used" })));
}

function updateNode(item, row) {
  const [name, strip, used] = item.firstChild.children;
  name.replaceChildren(row.name, row.known ? "" : make("small", {}, " no Node object"));
  name.title = row.name;
  strip.setAttribute("aria-label", stripLabel(row));
  drawStrip(strip, row);
  used.replaceChildren(count(row.used), make("small", {}, ` / ${count(row.size)}`));
  used.title = `${count(row.claims)} claims hold ${count(row.held)} numbers, of all ranges`;
  item.dataset.node = row.name;
  markOpen(item);
}

function markOpen(item) {
  const open = item.dataset.node === asked.open;
  item.firstChild.setAttribute("aria-expanded", String(open));
  if (!open) item.querySelector(".detail")?.remove();
}

const openNode = new Refresher(async () => {
  for (const item of by("node-rows").children) markOpen(item);
  drawMap(by("map"), { ...mapped, chosen: asked.open });
  if (!asked.open) return;
  const wanted = asked.open;
  const view = await guarded(`/nodes/${encodeURIComponent(wanted)}`, { range: asked.range });
  if (view && wanted === asked.open) showNode(view);
}, 2000);

/** Opens a node below its row, where that is on this page of nodes. */
function showNode(view) {
  const item = [...by("node-rows").children].find((each) => each.dataset.node === view.name);
  if (!item) return;
  let detail = item.querySelector(".detail");
  if (!detail) {
    const strip = make("canvas", { class: "strip open", role: "img" });
    sizes.observe(strip);
    detail = make("div", { class: "detail" }, strip, make("div", { class: "axis", "aria-hidden": "true" }),
      make("p", { class: "says" }), make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Ports of ${view.name}` },
        make("table", { role: "table" }, make("thead", { role: "rowgroup" }, make("tr", { role: "row" },
          ...["Port", "Holder", "State", "Since", "Ask the command line"].map((text) => make("th", { scope: "col", role: "columnheader" }, text)))),
        make("tbody", { role: "rowgroup" }))), make("p", { class: "command" }));
    item.append(detail);
  }
  const [strip, axis, says, scroll, command] = detail.children;
  strip.setAttribute("aria-label", stripLabel(view));
  drawStrip(strip, view);
  showAxis(axis, view.axis);
  says.replaceChildren(
    view.ports.length ? `${stripLabel(view)}. ` : `Nothing is held on ${view.name}: every number is free. `,
    make("button", { type: "button", class: "text", onclick: () => showClaimsOf(view.name) }, "Show its claims"));
  scroll.hidden = !view.ports.length;
  keep(scroll.querySelector("tbody"), view.ports, (port) => `${port.protocol} ${port.number} ${port.ip} ${port.id}`,
    () => make("tr", { role: "row" }), updatePort);
  showCommand(command, view.command);
}

function showClaimsOf(node) {
  ask({ node, page: "" });
  by("claims").scrollIntoView();
  by("claims").focus({ preventScroll: true });
}

function updatePort(tr, port) {
  const where = ["0.0.0.0", ""].includes(port.ip) ? "" : ` on ${port.ip}`;
  tr.replaceChildren(
    cell({}, make("b", {}, String(port.number)), `/${port.protocol}${where}`),
    cell({ class: "owner" }, ownerName(port.owner), port.owner.kind === "Pod" ? "" : make("span", { class: "note" }, port.owner.kind)),
    cell({}, stateOf(port.state, port.planned ? "planned here" : "")),
    cell({}, timeOf(port.since)),
    cell({}, make("p", { class: "command" }, ...commandParts(port.command))));
}

// -- claims

const claims = new Refresher(async () => {
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
    cell({}, stateOf(row.state, row.terminating ? "terminating" : "")),
    cell({}, row.node && make("button", { type: "button", class: "text", title: `Open node ${row.node}`,
      onclick: () => openFromTable(row.node) }, row.node),
    row.planned && make("span", { class: "note beside" }, " planned"),
    row.unplaceable && make("span", { class: "note bad" }, "✗ fits on no node")),
    cell({}, make("span", { class: "ports" }, ...row.ports.map((port) =>
      make("span", {}, String(port.number), make("small", {}, `/${port.protocol}${port.name ? ` ${port.name}` : ""}`))))),
    cell({}, timeOf(row.created), ends || ""));
}

function openFromTable(node) {
  ask({ open: node, name: node, nodes_page: "" });
  by("nodes").scrollIntoView();
}

function cell(attributes, ...children) {
  return make("td", { role: "cell", ...attributes }, ...children);
}

function stateOf(state, note) {
  return make("span", {}, make("span", { class: "state" }, make("span", { class: `swatch ${state}` }), state),
    note && make("span", { class: "note" }, note));
}

// -- decisions

const MARKS = { granted: "✓", previewed: "◌", refused: "✗", unavailable: "‼" };

const decisions = new Refresher(async () => {
  const view = await guarded("/decisions", { result: asked.result });
  if (view) showDecisions(view);
}, 1000);

function showDecisions(view) {
  by("decisions-count").textContent = view.total ? `${count(view.total)} since the start` : "";
  keep(by("decision-rows"), view.rows, (row) => row.number, (row) => make("li", { class: row.result }), updateDecision);
  const empty = by("decisions-empty");
  empty.hidden = Boolean(view.rows.length);
  empty.textContent = view.total ? "None of the last ones came out like that." : "Nobody has asked since the start.";
  showCommand(by("decisions-command"), view.command);
}

function updateDecision(item, row) {
  const more = row.ports > row.numbers.length ? ` and ${row.ports - row.numbers.length} more` : "";
  const numbers = row.numbers.join(", ") + more;
  const what = row.reason
    ? [make("span", { class: "reason" }, row.reason), ` ${row.detail}`]
    : [`${row.result} ${numbers}${row.node ? ` on ${row.node}` : ""}`];
  item.replaceChildren(
    make("span", { class: "mark", role: "img", "aria-label": row.result }, MARKS[row.result]),
    make("span", { class: "who" }, ownerName(row.owner)),
    timeOf(row.at),
    make("span", { class: "what" }, ...what, make("small", {}, ` ${row.policy.toLowerCase()}, ${row.milliseconds} ms`)));
}

// -- what views share

function showPages(place, view, go) {
  place.hidden = view.pages < 2;
  if (place.hidden) return;
  if (!place.children.length) {
    place.append(make("span", { role: "status" }), make("button", { type: "button" }, "‹ Previous"), make("button", { type: "button" }, "Next ›"));
  }
  const [says, previous, next] = place.children;
  says.textContent = `Page ${count(view.page)} of ${count(view.pages)}`;
  previous.disabled = view.page <= 1;
  next.disabled = view.page >= view.pages;
  previous.onclick = () => go(String(view.page - 1));
  next.onclick = () => go(String(view.page + 1));
}

/** A view, or nothing and a banner. */
async function guarded(path, query) {
  try {
    const view = await get(path, query);
    if (troubled === path) complain("", null);
    return view;
  } catch (error) {
    complain(path, error.message);
    return null;
  }
}

let troubled = "";

function complain(path, message) {
  troubled = path;
  by("banner").hidden = !message;
  if (message) by("banner-text").textContent = `✗ ${message}`;
}

// -- events

const stream = new Stream({
  told(status) {
    showStatus(status);
    const { revision } = status;
    if (revision.claims !== seen.claims) [nodes, openNode, claims].forEach((view) => view.soon());
    if (revision.decisions !== seen.decisions) decisions.soon();
    seen = revision;
  },
  lost(isLost, delay) {
    if (isLost) {
      seen = { claims: -1, decisions: -1 };
      by("health").textContent = "? Not known";
      by("health").className = "health bad";
      complain("/events", `The stream from the allocator is lost: what you see is old. Trying again in ${age(delay / 1000)}.`);
    } else if (troubled === "/events") complain("", null);
  },
});

function typed(control, changes) {
  let timer;
  control.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => ask(changes(control.value.trim())), 180);
  });
}

const sizes = new ResizeObserver((entries) => entries.forEach(({ target }) => target.redraw?.()));
sizes.observe(by("fleet-strip"));
sizes.observe(by("map"));

for (const theme of ["(prefers-color-scheme: dark)", "(min-resolution: 1.5dppx)"]) {
  matchMedia(theme).addEventListener("change", () => {
    forgetPaints();
    document.querySelectorAll("canvas").forEach((canvas) => canvas.redraw?.());
  });
}

by("state").append(make("option", { value: "" }, "all"), ...Object.keys(STATES).map((state) => make("option", { value: state }, state)));
document.querySelectorAll("form").forEach((form) => form.addEventListener("submit", (event) => event.preventDefault()));
by("range").addEventListener("change", (event) => ask({ range: event.target.value }));
by("sort").addEventListener("change", (event) => ask({ sort: event.target.value, nodes_page: "" }));
by("state").addEventListener("change", (event) => ask({ state: event.target.value, page: "" }));
by("result").addEventListener("change", (event) => ask({ result: event.target.value }));
by("retry").addEventListener("click", () => stream.retry());
typed(by("node-name"), (name) => ({ name, nodes_page: "" }));
typed(by("q"), (q) => ({ q, page: "" }));

by("map").addEventListener("pointermove", (event) => {
  const node = nodeAt(by("map"), mapped.nodes, event);
  if (node) by("map-says").textContent = `${node[0]}: ${count(node[1])} of ${count(mapped.size)} numbers used`;
});
by("map").addEventListener("click", (event) => {
  const node = nodeAt(by("map"), mapped.nodes, event);
  if (node) ask({ open: node[0], name: node[0], nodes_page: "" });
});

document.addEventListener("keydown", (event) => {
  const writes = event.target.matches("input, select, textarea");
  if (event.key === "Escape" && event.target.matches("input")) {
    event.target.value = "";
    event.target.dispatchEvent(new Event("input"));
    event.target.blur();
  }
  if (writes || event.ctrlKey || event.metaKey || event.altKey) return;
  const control = { "/": "q", n: "node-name" }[event.key];
  if (control) {
    event.preventDefault();
    by(control).focus();
  }
});

setInterval(tick, 1000);
showAsked();
