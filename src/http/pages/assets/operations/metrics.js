// Reads Prometheus' text format, as far as lobbyd writes it.

const SAMPLE = /^(\w+)(?:\{(.*)\})? (\S+)$/;

export class Metrics {
  #samples = [];

  constructor(text) {
    for (const line of text.split('\n')) {
      const [, name, labels = '', value] = SAMPLE.exec(line) ?? [];
      if (name) this.#samples.push({ name, labels, value: Number(value) });
    }
  }

  // The sum of all series of this name whose labels contain this text; `undefined` if there are none.
  sum(name, label = '') {
    const found = this.#samples.filter((each) => each.name === name && each.labels.includes(label));
    return found.length ? found.reduce((sum, each) => sum + each.value, 0) : undefined;
  }

  // The buckets of a histogram as pairs of upper bound and number, and the number of all.
  histogram(name) {
    let before = 0;
    const buckets = this.#samples.filter((each) => each.name === `${name}_bucket`).map((each) => {
      const bound = /le="([^"]+)"/.exec(each.labels)[1];
      const number = each.value - before;
      before = each.value;
      return [bound === '+Inf' ? Infinity : Number(bound), number];
    });
    return { buckets, total: before };
  }
}
