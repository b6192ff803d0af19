// The last decisions, each with its reason.

import { asked, onAsked } from "./asked.js";
import { by, keep, make, showCommand } from "./dom.js";
import { Refresher } from "./source.js";
import { guarded, manual } from "./views.js";
import { count, ownerName, timeOf } from "./words.js";

const MARKS = { granted: "✓", previewed: "◌", refused: "✗", unavailable: "‼" };

export const decisions = new Refresher(async () => {
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
    ? [make("span", { class: "reason" }, manual(`troubleshooting.html#${row.reason.toLowerCase()}`, row.reason)), ` ${row.detail}`]
    : [`${row.result} ${numbers}${row.node ? ` on ${row.node}` : ""}`];
  item.replaceChildren(
    make("span", { class: "mark", role: "img", "aria-label": row.result }, MARKS[row.result]),
    make("span", { class: "who" }, ownerName(row.owner)),
    timeOf(row.at),
    make("span", { class: "what" }, ...what, make("small", {}, ` ${row.policy.toLowerCase()}, ${row.milliseconds} ms`)));
}

onAsked(["result"], () => decisions.now());
