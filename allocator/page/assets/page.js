// The status page: follows the allocator's stream, and does what people type and press. Nothing is ever changed from here.

import { ask, showAsked } from "./asked.js";
import { claims } from "./claims.js";
import { decisions } from "./decisions.js";
import { by, make } from "./dom.js";
import { showStatus } from "./header.js";
import { nodes, openNode } from "./nodes.js";
import { Stream } from "./source.js";
import { forgetPaints } from "./strips.js";
import { complain, forgive } from "./views.js";
import { STATES, age, tick } from "./words.js";

let seen = { claims: -1, decisions: -1 };

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
    } else forgive("/events");
  },
});

function typed(control, changes) {
  let timer;
  control.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => ask(changes(control.value.trim())), 180);
  });
}

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
