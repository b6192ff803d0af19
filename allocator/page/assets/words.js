// How numbers, times and states are said.

const number = new Intl.NumberFormat("en");
export const count = (value) => number.format(value);

export const STATES = {
  BOUND: "its Pod has a node",
  CONFIRMED: "its Pod waits for a node",
  RESERVED: "its Pod is not seen yet",
  LEASED: "held by another service",
  OUTSIDER: "Pods that never asked us",
  UNPLACEABLE: "fits on no node",
};

let ahead = 0; // of the allocator's clock over ours, in milliseconds

export function setClock(now) {
  ahead = Date.parse(now) - Date.now();
}

export function age(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

const SHORT = (seconds) => {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} d`;
};

/** A time as it is said now: "3 min ago", "in 20 s". The exact one is in its title. */
export function say(time) {
  const seconds = (Date.parse(time.dateTime) - Date.now() - ahead) / 1000;
  return time.dataset.ahead ? `ends in ${SHORT(seconds)}` : `${SHORT(-seconds)} ago`;
}

export function timeOf(at, { until = false } = {}) {
  const time = document.createElement("time");
  time.dateTime = at;
  time.title = at.replace("T", " ").replace("Z", " UTC");
  if (until) time.dataset.ahead = "1";
  time.textContent = say(time);
  return time;
}

/** All times on the page tick. */
export function tick() {
  for (const time of document.querySelectorAll("time")) {
    const text = say(time);
    if (time.textContent !== text) time.textContent = text;
  }
}

export const ownerName = (owner) => (owner.namespace ? `${owner.namespace}/${owner.name}` : owner.name) || "(unnamed)";

/** "7000", or a block as "20000–20099". */
export const numbersOf = (port) => (port.last > port.number ? `${port.number}–${port.last}` : String(port.number));

/** "140 BOUND, 8 RESERVED" */
export const listed = (totals) =>
  Object.entries(totals).filter(([, n]) => n).map(([kind, n]) => `${count(n)} ${kind}`).join(", ");
