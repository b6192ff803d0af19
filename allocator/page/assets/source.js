// Where the data comes from: views by GET, news by the stream.

const PATIENCE = 15000;

/** A view as data. Throws an Error whose message is for people. */
export async function get(path, query = {}) {
  const words = new URLSearchParams(Object.entries(query).filter(([, value]) => value));
  const address = words.size ? `${path}?${words}` : path;
  let answer;
  try {
    answer = await fetch(address, { headers: { Accept: "application/json" }, signal: AbortSignal.timeout(PATIENCE) });
  } catch {
    throw new Error("The allocator does not answer.");
  }
  if (!answer.ok) throw new Error((await answer.text()).trim() || `The allocator answers ${answer.status}.`);
  return answer.json();
}

const SILENCE = 6000; // the stream brings something every second

/**
 * Follows the stream while the page is seen. `told` gets each status; `lost` gets true when the stream is gone, and
 * false when it is back. Tries again by itself, more and more slowly; `retry` does at once.
 */
export class Stream {
  constructor({ told, lost }) {
    this.told = told;
    this.lost = lost;
    this.delay = 1000;
    document.addEventListener("visibilitychange", () => (document.hidden ? this.close() : this.open()));
    this.open();
  }

  open() {
    this.close();
    this.events = new EventSource("/events");
    this.events.addEventListener("status", (event) => {
      this.delay = 1000;
      this.watch();
      this.lost(false);
      this.told(JSON.parse(event.data));
    });
    this.events.addEventListener("error", () => this.fail());
    this.watch();
  }

  watch() {
    clearTimeout(this.silence);
    this.silence = setTimeout(() => this.fail(), SILENCE);
  }

  fail() {
    this.close();
    this.lost(true, this.delay);
    this.again = setTimeout(() => this.open(), this.delay);
    this.delay = Math.min(this.delay * 2, 30000);
  }

  retry() {
    this.delay = 1000;
    this.open();
  }

  close() {
    clearTimeout(this.silence);
    clearTimeout(this.again);
    this.events?.close();
  }
}

/**
 * Keeps a view fresh: `fetch` at once when what is asked for changes, and after news no more often than every `period`
 * milliseconds, nor more than a quarter of the time.
 */
export class Refresher {
  constructor(fetch, period) {
    this.fetch = fetch;
    this.period = period;
    this.busy = false;
    this.wanted = false;
    this.next = 0;
  }

  now() {
    this.next = 0;
    this.soon();
  }

  soon() {
    this.wanted = true;
    if (this.busy) return;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.run(), Math.max(0, this.next - performance.now()));
  }

  async run() {
    if (this.busy) return;
    this.busy = true;
    this.wanted = false;
    const began = performance.now();
    try {
      await this.fetch();
    } finally {
      this.busy = false;
      const took = performance.now() - began;
      if (this.next || !this.wanted) this.next = performance.now() + Math.max(this.period, 3 * took);
      if (this.wanted) this.soon();
    }
  }
}
