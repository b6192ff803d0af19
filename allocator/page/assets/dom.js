// Elements, made and kept. Text is only ever set as text: names come from users.

export const by = (id) => document.getElementById(id);

/** An element with attributes and children. `class`, `on…` and `data` are what they say; false and null leave out. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/**
 * Makes the children of `parent` those of `items`, and keeps the elements that are there: focus, scroll and what is open
 * stay. An element whose item has not changed is not touched.
 */
export function keep(parent, items, key, create, update) {
  const known = (parent.kept ??= new Map());
  const was = new Map(known);
  known.clear();
  let place = parent.firstElementChild;
  for (const item of items) {
    const id = key(item);
    const content = JSON.stringify(item);
    let entry = was.get(id);
    if (!entry) {
      entry = { element: create(item), content: "" };
    }
    was.delete(id);
    if (entry.content !== content) update(entry.element, item);
    entry.content = content;
    known.set(id, entry);
    if (entry.element === place) place = place.nextElementSibling;
    else parent.insertBefore(entry.element, place);
  }
  for (const { element } of was.values()) element.remove();
}

/** The command line that gives the same answer, with a button that copies it. */
export function showCommand(place, command) {
  if (place.shown === command) return;
  place.shown = command;
  place.replaceChildren(...commandParts(command));
}

export function commandParts(command) {
  const button = make("button", { type: "button", "aria-label": `Copy: ${command}` }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(command);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Select it"; // the clipboard is for secure addresses only
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1600);
  });
  return [make("code", { tabindex: "0" }, `$ ${command}`), button];
}
