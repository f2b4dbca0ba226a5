// The server's time. A participant's own clock may be wrong, and may be set while they wait, so it is
// only asked how much time has passed.

export class Clock {
  // The server's time minus that of `performance.now()` lies between these.
  #least = -Infinity;
  #most = Infinity;

  // Learns from the header `Date` of a response, which has whole seconds. The response was made
  // between these two times.
  observe(date, sentAt, receivedAt) {
    const second = Date.parse(date ?? '');
    if (Number.isNaN(second)) return;
    const least = second - receivedAt;
    const most = second + 1000 - sentAt;
    const isContradiction = least > this.#most || most < this.#least;
    // The server's clock was set, or this machine has slept.
    this.#least = isContradiction ? least : Math.max(least, this.#least);
    this.#most = isContradiction ? most : Math.min(most, this.#most);
  }

  // Milliseconds since 1970.
  now() {
    const isKnown = Number.isFinite(this.#least);
    return isKnown ? performance.now() + (this.#least + this.#most) / 2 : Date.now();
  }
}
