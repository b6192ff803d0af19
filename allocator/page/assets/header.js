// The header: whether the allocator serves, since when, what is wrong; and the tiles.

import { ask, asked } from "./asked.js";
import { by, keep, make } from "./dom.js";
import { setManual } from "./views.js";
import { STATES, age, count, listed, setClock } from "./words.js";

export function showStatus(status) {
  setClock(status.now);
  const wrong = Object.entries(status.checks).filter(([, trouble]) => trouble);
  const health = by("health");
  setManual(status.manual);
  const text = !status.healthy ? "✗ Not serving" : status.served_by ? "✓ Standing by" : "✓ Serving";
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
    status.served_by && ["Serving", status.served_by],
    status.epoch && ["Epoch", status.epoch],
    ["Up", age((Date.parse(status.now) - Date.parse(status.started)) / 1000)],
    ["Cluster", status.cluster],
    status.cluster === "kubernetes" && ["View proven", watch === null ? "not yet" : `${age(watch)} ago`],
    ["Nodes", count(status.nodes)],
    trustedUntil(status) && ["Authority trusted until", trustedUntil(status).slice(0, 10)],
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
      id: name, bad: daysTo(ends, status.now) < 0, text: `‼ The certificate of ${name} ends ${moment(ends)}.`,
    })),
    trustEnds(status),
    Object.values(incidents).some(Boolean) && { id: "incidents", text:
      `‼ Incidents since the start: ${listed(incidents)}. The log and the Events of the Pods tell which.` },
  ].filter(Boolean);
  keep(by("troubles"), troubles, (trouble) => trouble.id, () => make("li"), (item, trouble) => {
    item.className = trouble.bad ? "bad" : "";
    item.textContent = trouble.text;
  });
}

/** The authority that ends last stands first. */
const trustedUntil = (status) => Object.values(status.authorities)[0];

function trustEnds(status) {
  const ends = trustedUntil(status), days = ends && daysTo(ends, status.now);
  return ends && days < 7 && { id: "trust", bad: days < 0, text: `‼ The last authority that is trusted ends ${moment(ends)}.` };
}

const moment = (time) => time.replace("T", " ").replace("Z", " UTC");
const daysTo = (then, now) => (Date.parse(then) - Date.parse(now)) / 86400000;

function showRanges(ranges) {
  const select = by("range");
  const options = [...new Set([...ranges, asked.range, "1-65535"].filter(Boolean))];
  if (!ranges.length && !asked.range) options.unshift("7000-8000");
  keep(select, options, (range) => range, (range) => make("option", { value: range }, range.replace("-", "–")), () => {});
  if (asked.range) select.value = asked.range;
}
