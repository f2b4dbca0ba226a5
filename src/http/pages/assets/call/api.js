// Requests to the API of the same server, as one viewer of one room.

const OCS = '/ocs/v2.php';
const SPREED = `${OCS}/apps/spreed/api`;

// Longest time that a request takes, in milliseconds, beyond the time for which it may wait.
const TIMEOUT = 15_000;

// A request that was answered with an error.
export class Refused extends Error {
  constructor(response, message) {
    super(message);
    this.status = response.status;
    this.retryAfter = Number(response.headers.get('Retry-After')) || 0;
  }
}

export class Api {
  constructor(token, clock) {
    this.room = `${SPREED}/v4/room/${encodeURIComponent(token)}`;
    this.guest = `${SPREED}/v1/guest/${encodeURIComponent(token)}`;
    this.clock = clock;
  }

  get events() {
    return `${this.room}/events`;
  }

  async show() {
    return (await this.#request('GET', this.room)).data;
  }

  // The room when it is another one than that of the tag, or `undefined` after this many seconds.
  wait(tag, seconds, signal) {
    const headers = tag ? { 'If-None-Match': tag, Prefer: `wait=${seconds}` } : {};
    return this.#request('GET', this.room, { headers, seconds, signal });
  }

  async capabilities() {
    const { data } = await this.#request('GET', `${OCS}/cloud/capabilities`);
    const { call, conversations } = data.capabilities.spreed.config;
    return { dialIn: call['sip-dialin-info'] ?? '', isUser: conversations['can-create'] };
  }

  // Without `force`, a client that is in the call is refused; with it, the call ends for the client.
  async join(password, force = true) {
    const body = { password, force };
    return (await this.#request('POST', `${this.room}/participants/active`, { body })).data;
  }

  nameSelf(displayName) {
    return this.#request('POST', `${this.guest}/name`, { body: { displayName } });
  }

  async setLobby(state, timer) {
    return (await this.#request('PUT', `${this.room}/webinar/lobby`, { body: { state, timer } })).data;
  }

  async participants() {
    return (await this.#request('GET', `${this.room}/participants`)).data;
  }

  async #request(method, path, { headers = {}, body, seconds = 0, signal } = {}) {
    const abort = new AbortController();
    const timer = setTimeout(() => abort.abort(), TIMEOUT + seconds * 1000);
    signal?.addEventListener('abort', () => abort.abort());
    try {
      const sentAt = performance.now();
      const response = await fetch(path, {
        method,
        cache: 'no-store',
        headers: {
          Accept: 'application/json',
          'OCS-APIRequest': 'true',
          ...(body && { 'Content-Type': 'application/json' }),
          ...headers,
        },
        body: body && JSON.stringify(body),
        signal: abort.signal,
      });
      this.clock.observe(response.headers.get('Date'), sentAt, performance.now());
      const tag = response.headers.get('ETag');
      if (response.status === 304) return { tag };
      // A proxy answers for a server that it does not reach, with a page of its own.
      const answer = await response.json().catch(() => undefined);
      if (!response.ok) throw new Refused(response, answer?.ocs?.meta.message ?? response.statusText);
      return { data: answer.ocs.data, tag };
    } finally {
      clearTimeout(timer);
    }
  }
}
