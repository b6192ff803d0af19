// Nodes: the range over all of them, the map, a strip for each, and the ports of the one that is open.

import { ask, asked, onAsked } from "./asked.js";
import { by, commandParts, keep, make, showCommand } from "./dom.js";
import { Refresher } from "./source.js";
import { drawMap, drawStrip, nodeAt, stripLabel } from "./strips.js";
import { cell, guarded, showPages, stateOf } from "./views.js";
import { count, numbersOf, ownerName, timeOf } from "./words.js";

const MAPPED_FROM = 12; // nodes; fewer are better seen as rows

let mapped = { nodes: [], size: 1 };

const sizes = new ResizeObserver((entries) => entries.forEach(({ target }) => target.redraw?.()));
sizes.observe(by("fleet-strip"));
sizes.observe(by("map"));

export const nodes = new Refresher(async () => {
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

export const openNode = new Refresher(async () => {
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
          ...["Port", "Holder", "State", "Since", "Listening", "Ask the command line"].map((text) => make("th", { scope: "col", role: "columnheader" }, text)))),
        make("tbody", { role: "rowgroup" }))), make("p", { class: "command" }));
    item.append(detail);
  }
  const [strip, axis, says, scroll, command] = detail.children;
  strip.setAttribute("aria-label", stripLabel(view));
  drawStrip(strip, view);
  showAxis(axis, view.axis);
  says.replaceChildren(
    view.ports.length ? `${stripLabel(view)}. ` : `Nothing is held on ${view.name}: every number is free. `,
    view.address ? `Clients dial it at ${view.address}. ` : "",
    ...reportOf(view.report),
    make("button", { type: "button", class: "text", onclick: () => showClaimsOf(view.name) }, "Show its claims"));
  scroll.hidden = !view.ports.length;
  keep(scroll.querySelector("tbody"), view.ports,
    (port) => `${port.protocol} ${port.number} ${port.ip} ${port.id} ${port.state} ${ownerName(port.owner)}`,
    () => make("tr", { role: "row" }), updatePort);
  showCommand(command, view.command);
}

function showClaimsOf(node) {
  ask({ node, page: "" });
  by("claims").scrollIntoView();
  by("claims").focus({ preventScroll: true });
}

/** What the agent of a node said, in a sentence; nothing where none ever did. */
function reportOf(report) {
  if (!report) return [];
  const [low, high] = report.ephemeral ?? [];
  const told = [
    low && `outgoing connections take ${low}–${high}${report.reserves ? ", never a number that is given" : ""}`,
    `${count(report.foreign)} open ${report.foreign === 1 ? "number" : "numbers"} of no Pod`,
  ].filter(Boolean).join("; ");
  return [report.current ? "Its agent reported " : "✗ Its agent reported last ", timeOf(report.at), `: ${told}. `];
}

function listeningOf(port) {
  if (port.listening === null) return make("span", { class: "muted" }, "not known");
  return port.listening ? "yes" : make("span", { class: "note bad beside" }, "✗ nobody");
}

function updatePort(tr, port) {
  const where = ["0.0.0.0", ""].includes(port.ip) ? "" : ` on ${port.ip}`;
  tr.replaceChildren(
    cell({}, make("b", {}, numbersOf(port)), `/${port.protocol}${where}`),
    cell({ class: "owner" }, ownerName(port.owner), port.owner.kind === "Pod" ? "" : make("span", { class: "note" }, port.owner.kind)),
    cell({}, stateOf(port.state, port.planned ? "planned here" : ""),
      port.conflict && make("span", { class: "note bad" }, "✗ held twice")),
    cell({}, port.since ? timeOf(port.since) : "–"),
    cell({}, listeningOf(port)),
    cell({}, make("p", { class: "command" }, ...commandParts(port.command))));
}

by("map").addEventListener("pointermove", (event) => {
  const node = nodeAt(by("map"), mapped.nodes, event);
  if (node) by("map-says").textContent = `${node[0]}: ${count(node[1])} of ${count(mapped.size)} numbers used`;
});
by("map").addEventListener("click", (event) => {
  const node = nodeAt(by("map"), mapped.nodes, event);
  if (node) ask({ open: node[0], name: node[0], nodes_page: "" });
});

onAsked(["range", "sort", "name", "nodes_page"], () => nodes.now());
onAsked(["range", "open"], () => openNode.now());
