// What is asked for. It stands in the address, so that a view can be sent to a colleague.

import { by, keep, make } from "./dom.js";

export const WORDS = ["range", "sort", "name", "nodes_page", "open", "q", "state", "namespace", "node", "page", "result"];

export const asked = Object.fromEntries(WORDS.map((word) => [word, new URLSearchParams(location.search).get(word) ?? ""]));

const listeners = [];

/** Calls `then` whenever one of the words changes. */
export function onAsked(words, then) {
  listeners.push({ words, then });
}

/** Asks for something else: the address follows. */
export function ask(changes) {
  Object.assign(asked, changes);
  const words = new URLSearchParams(WORDS.filter((word) => asked[word]).map((word) => [word, asked[word]]));
  history.replaceState(null, "", words.size ? `/?${words}` : "/");
  by("here").href = location.href;
  showAsked();
  for (const listener of listeners) {
    if (listener.words.some((word) => word in changes)) listener.then();
  }
}

export function showAsked() {
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
