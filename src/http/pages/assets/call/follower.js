// Follows a room: by server-sent events, and by polling where those do not arrive.

// How long events may fail to arrive before the page says so, in milliseconds. The server ends a stream
// now and then, and a browser connects again after up to five seconds.
const SILENCE = 6_000;

// How long a stream may take to its first event. A proxy may hold events back.
const FIRST_EVENT = 10_000;

// Failures in a row after which the room is polled instead, and for how long.
const MAX_FAILURES = 3;
const POLLING = 120_000;

// Seconds for which a poll waits.
const WAIT = 30;

const MAX_PAUSE = 10_000;

export class Follower {
  #api;
  #handlers;
  #source;
  #polling;
  #timers = new Map();
  #failures = 0;
  // Whether the server may have been unaware of this viewer since the last room.
  #isInterrupted = false;

  // `handlers` are `room`, with whether it is the first one after an interruption, `gone` and `connected`.
  constructor(api, handlers) {
    this.#api = api;
    this.#handlers = handlers;
  }

  // Begins, or begins again as another viewer.
  start() {
    this.#halt();
    const source = new EventSource(this.#api.events);
    this.#source = source;
    this.#after('first', FIRST_EVENT, () => this.#poll());
    source.addEventListener('room', (event) => {
      this.#clear('first');
      this.#arrived();
      this.#show(JSON.parse(event.data));
    });
    source.addEventListener('end', () => {
      this.stop();
      this.#handlers.gone();
    });
    source.addEventListener('error', () => {
      this.#isInterrupted = true;
      this.#missed();
      this.#failures += 1;
      const isGivenUp = source.readyState === EventSource.CLOSED;
      if (isGivenUp || this.#failures >= MAX_FAILURES) this.#poll();
      else this.#after('first', 2 * FIRST_EVENT, () => this.#poll());
    });
  }

  stop() {
    this.#halt();
    this.#clear('silence');
  }

  #halt() {
    this.#source?.close();
    this.#polling?.abort();
    this.#clear('first');
  }

  async #poll() {
    this.#halt();
    const polling = new AbortController();
    this.#polling = polling;
    const until = performance.now() + POLLING;
    let tag;
    let pause = 500;
    let hasFailed = this.#failures > 0;
    while (!polling.signal.aborted && (hasFailed || performance.now() < until)) {
      try {
        const news = await this.#api.wait(tag, WAIT, polling.signal);
        if (polling.signal.aborted) return;
        hasFailed = false;
        pause = 500;
        tag = news.tag;
        this.#arrived();
        if (news.data) this.#show(news.data);
      } catch (error) {
        if (polling.signal.aborted) return;
        if (error.status === 404) {
          this.stop();
          this.#handlers.gone();
          return;
        }
        hasFailed = true;
        this.#isInterrupted = true;
        this.#missed();
        pause = Math.min(2 * pause, MAX_PAUSE);
        const least = (error.retryAfter ?? 0) * 1000;
        // Random, so that not all participants come back at once.
        const wait = Math.max(least, pause * (0.5 + Math.random() / 2));
        await new Promise((resume) => { setTimeout(resume, wait); });
      }
    }
    if (!polling.signal.aborted) this.start();
  }

  #show(room) {
    const isResumed = this.#isInterrupted;
    this.#isInterrupted = false;
    this.#handlers.room(room, isResumed);
  }

  #arrived() {
    this.#failures = 0;
    this.#clear('silence');
    this.#handlers.connected(true);
  }

  #missed() {
    if (!this.#timers.has('silence')) {
      this.#after('silence', SILENCE, () => this.#handlers.connected(false));
    }
  }

  // A timer of a name, of which there is one at a time.
  #after(name, milliseconds, action) {
    this.#clear(name);
    this.#timers.set(name, setTimeout(action, milliseconds));
  }

  #clear(name) {
    clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }
}
