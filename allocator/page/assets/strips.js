// Strips and the map of nodes, on canvases. The height of a column says how much is held, the pattern by whom; every
// canvas has the same in words as its label.

import { count, listed } from "./words.js";

const STACK = ["BOUND", "LEASED", "OUTSIDER", "CONFIRMED", "RESERVED"]; // from the bottom
let paints = null;

/** Colours and patterns of the theme. They are in device pixels. */
function paint(context) {
  if (paints) return paints;
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  const free = colour("free");
  const scale = window.devicePixelRatio || 1;
  const pattern = (name, draw) => {
    const size = Math.round(4 * scale);
    const tile = new OffscreenCanvas(size, size);
    const pen = tile.getContext("2d");
    pen.fillStyle = free;
    pen.fillRect(0, 0, size, size);
    pen.fillStyle = pen.strokeStyle = colour(name);
    draw(pen, size);
    return context.createPattern(tile, "repeat");
  };
  const diagonal = (up) => (pen, size) => {
    pen.lineWidth = size * 0.42;
    for (const shift of [-size, 0, size]) {
      pen.beginPath();
      pen.moveTo(shift, up ? size : 0);
      pen.lineTo(shift + size, up ? 0 : size);
      pen.stroke();
    }
  };
  paints = {
    free,
    BOUND: colour("bound"),
    LEASED: pattern("leased", (pen, size) => pen.fillRect(0, 0, size * 0.75, size)),
    OUTSIDER: pattern("outsider", (pen, size) => pen.fillRect(0, 0, size, size * 0.75)),
    CONFIRMED: pattern("confirmed", diagonal(true)),
    RESERVED: pattern("reserved", diagonal(false)),
    KEPT: pattern("kept", (pen, size) => pen.fillRect(0, 0, size / 3, size)),
  };
  return paints;
}

/** After a change of theme or of resolution. */
export function forgetPaints() {
  paints = null;
}

/** A canvas as large as it is shown, or null while it is not. */
function canvasOf(canvas) {
  const scale = window.devicePixelRatio || 1;
  const width = Math.round(canvas.clientWidth * scale);
  const height = Math.round(canvas.clientHeight * scale);
  if (!width || !height) return null;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

/** One column for each bucket. `nodes`: over how many nodes the counts are summed. */
export function drawStrip(canvas, { axis, counts, nodes = 1 }) {
  canvas.redraw = () => drawStrip(canvas, { axis, counts, nodes });
  const ready = canvasOf(canvas);
  if (!ready) return;
  const { context, width, height } = ready;
  const colours = paint(context);
  const pitch = width / axis.buckets;
  const gap = pitch >= 4 ? Math.max(1, Math.round(pitch / 9)) : 0;
  const last = axis.high - axis.low + 1 - axis.width * (axis.buckets - 1);
  for (let bucket = 0; bucket < axis.buckets; bucket += 1) {
    const left = Math.round(bucket * pitch);
    const wide = Math.round((bucket + 1) * pitch) - left - gap;
    const full = (bucket === axis.buckets - 1 ? last : axis.width) * nodes;
    context.fillStyle = colours.free;
    context.fillRect(left, 0, wide, height);
    const kept = Math.round((axis.kept[bucket] * nodes * height) / full);
    context.fillStyle = colours.KEPT;
    context.fillRect(left, 0, wide, kept);
    let sum = 0;
    let from = height;
    for (const kind of STACK) {
      const held = counts[kind]?.[bucket] ?? 0;
      if (!held) continue;
      sum += held;
      const to = Math.min(from - 1, Math.round(height - (sum / full) * height)); // whatever is held is seen
      context.fillStyle = colours[kind];
      context.fillRect(left, to, wide, from - to);
      from = to;
    }
  }
}

const CELL = 11;
const GAP = 2;

/** The map: one cell for each node, filled from below by its use. */
export function drawMap(canvas, { nodes, size, chosen }) {
  canvas.redraw = () => drawMap(canvas, { nodes, size, chosen });
  const columns = Math.max(1, Math.floor((canvas.clientWidth + GAP) / (CELL + GAP)));
  const rows = Math.ceil(nodes.length / columns);
  canvas.columns = columns;
  const tall = `${rows * (CELL + GAP) - GAP}px`;
  if (canvas.style.height !== tall) canvas.style.height = tall;
  const ready = canvasOf(canvas);
  if (!ready) return;
  const { context } = ready;
  const colours = paint(context);
  const scale = window.devicePixelRatio || 1;
  const cell = CELL * scale;
  nodes.forEach(([name, used], place) => {
    const left = Math.round((place % columns) * (CELL + GAP) * scale);
    const top = Math.round(Math.floor(place / columns) * (CELL + GAP) * scale);
    const filled = used ? Math.max(1, Math.round((Math.min(used, size) / size) * cell)) : 0;
    context.fillStyle = colours.free;
    context.fillRect(left, top, cell, cell);
    context.fillStyle = colours.BOUND;
    context.fillRect(left, top + cell - filled, cell, filled);
    if (name === chosen) {
      context.lineWidth = 2 * scale;
      context.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--ink");
      context.strokeRect(left, top, cell, cell);
    }
  });
}

/** Which node of the map is under the pointer. */
export function nodeAt(canvas, nodes, event) {
  const box = canvas.getBoundingClientRect();
  const column = Math.floor((event.clientX - box.left) / (CELL + GAP));
  const row = Math.floor((event.clientY - box.top) / (CELL + GAP));
  return column >= 0 && column < canvas.columns ? nodes[row * canvas.columns + column] : undefined;
}

/** A strip in words. */
export function stripLabel({ name, used, size, totals }) {
  const held = listed(totals);
  return `${name}: ${count(used)} of ${count(size)} numbers used${held ? ` (${held})` : ", all free"}`;
}
