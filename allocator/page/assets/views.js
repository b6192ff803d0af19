// What the views share: fetching one, complaining, pages, cells.

import { WORDS, onAsked } from "./asked.js";
import { by, make } from "./dom.js";
import { get } from "./source.js";
import { count } from "./words.js";

export function showPages(place, view, go) {
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
export async function guarded(path, query) {
  try {
    const view = await get(path, query);
    forgive(path);
    return view;
  } catch (error) {
    complain(path, error.message);
    return null;
  }
}

let troubled = ""; // the path that could not be had

export function complain(path, message) {
  troubled = path;
  by("banner").hidden = !message;
  if (message) by("banner-text").textContent = `✗ ${message}`;
}

/** What was complained about is of the past, where `path` is what it was about, or where none is given. */
export function forgive(path) {
  if (path ? troubled === path : troubled && troubled !== "/events") complain("", null);
}

onAsked(WORDS, () => forgive());

let pages = ""; // the address of the manual, as the allocator says

export function setManual(address) {
  pages = address;
}

/** A link to a page of the manual, in a window of its own. Text alone until the allocator has said where it is. */
export function manual(page, text) {
  return pages ? make("a", { href: pages + page, target: "_blank", rel: "noreferrer", title: `${text} in the manual` }, text) : text;
}

export function cell(attributes, ...children) {
  return make("td", { role: "cell", ...attributes }, ...children);
}

export function stateOf(state, note) {
  return make("span", {}, make("span", { class: "state" }, make("span", { class: `swatch ${state}` }), state),
    note && make("span", { class: "note" }, note));
}
