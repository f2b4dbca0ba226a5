// The page of the ops listener: reads `status.json` and the metrics every two seconds, and shows them.

import { Metrics } from './metrics.js';

const REFRESH = 2_000;

const TIMEOUT = 5_000;

// Rows of figures: what they are, and how they are read from the metrics.
const NUMBERS = [
  ['Timers pending', (metrics) => count(metrics.sum('lobbyd_timers_pending'), 10_000)],
  ['Timers fired', (metrics) => metrics.sum('lobbyd_timers_fired_total')],
  ['Timers refused by the database', (metrics) => metrics.sum('lobbyd_timers_refused')],
  ['Timers replaced or removed', (metrics) => metrics.sum('lobbyd_timers_superseded_total')],
  ['Outbox: events to publish', (metrics) => count(metrics.sum('lobbyd_outbox_pending'), 10_000)],
  ['Outbox: events tried in vain', (metrics) => metrics.sum('lobbyd_outbox_refused')],
  ['Events published', (metrics) => metrics.sum('lobbyd_events_published_total', 'outcome="confirmed"')],
  ['Lobby changes applied', (metrics) => metrics.sum('lobbyd_events_received_total', 'outcome="applied"')],
];

const element = (id) => document.getElementById(id);

async function read(path) {
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(), TIMEOUT);
  try {
    const response = await fetch(path, { cache: 'no-store', signal: abort.signal });
    if (!response.ok) throw new Error(`${response.status}`);
    return { text: await response.text(), now: Date.parse(response.headers.get('Date') ?? '') };
  } finally {
    clearTimeout(timer);
  }
}

async function refresh() {
  try {
    const [status, metrics] = await Promise.all([read('/status.json'), read('/metrics')]);
    show(JSON.parse(status.text), new Metrics(metrics.text), status.now || Date.now());
  } catch {
    say('This process does not answer. What it said last:', true);
  }
  setTimeout(refresh, REFRESH);
}

function show(status, metrics, now) {
  element('version').textContent = status.version;
  const time = new Date(now).toLocaleTimeString('en', { hourCycle: 'h23', timeZoneName: 'short' });
  element('read-at').textContent = `as of ${time}`;
  const down = status.parts.filter((part) => part.problem !== null);
  say(down.length ? `Not working: ${down.map((part) => part.name).join(', ')}` : 'All parts work.', down.length > 0);
  fill('parts', status.parts.map((part) => {
    const item = make('li', part.problem === null ? 'up' : 'down');
    item.append(make('b', '', part.problem === null ? '✓ ' : '✗ '), part.name);
    if (part.problem !== null) item.append(`: ${part.problem}`);
    return item;
  }));
  const undone = status.undone.map((each) => make('li', '', `${each.part}: ${each.item}, for ${duration(each.seconds)}`));
  fill('undone', undone.length ? undone : [make('li', 'quiet', 'Nothing is waiting.')]);
  showNumbers(status, metrics);
  showLag(metrics.histogram('lobbyd_timer_lag_seconds'));
  showTimers(status.timers, now);
}

// The summary is read aloud when it changes, so it is left alone otherwise.
function say(words, isBad) {
  element('summary').classList.toggle('bad', isBad);
  if (element('summary').textContent !== words) element('summary').textContent = words;
}

function showNumbers(status, metrics) {
  const rows = NUMBERS.map(([name, of]) => [name, of(metrics) ?? '–']);
  if (status.queues === null) rows.push(['Queues', 'cannot be read']);
  for (const queue of status.queues ?? []) rows.push([`Queue ${queue.name}`, queue.messages ?? 'missing']);
  fill('numbers', rows.map(([name, value]) => {
    const row = make('div');
    row.append(make('dt', '', name), make('dd', '', String(value)));
    return row;
  }));
}

function showLag({ buckets, total }) {
  element('lag').hidden = total === 0;
  element('lag-summary').textContent = total === 0 ? 'No timer has fired yet.' : `${total} timers`;
  const most = Math.max(...buckets.map(([, number]) => number));
  const rows = buckets.map(([bound, number]) => {
    const row = make('tr');
    const heading = make('th', '', bound === Infinity ? 'more' : duration(bound));
    heading.scope = 'row';
    const cell = make('td');
    const bar = make('div', 'bar');
    bar.style.width = `${(number / most) * 100}%`;
    cell.append(bar);
    row.append(heading, make('td', '', String(number)), cell);
    return row;
  });
  element('lag').tBodies[0].replaceChildren(...rows);
}

function showTimers(timers, now) {
  const summary = timers === null ? 'They cannot be read.' : timers.length === 0 && 'None is pending.';
  element('timers-summary').textContent = summary || '';
  element('timers').hidden = Boolean(summary);
  const last = Math.max(1, ...(timers ?? []).map((timer) => timer.due_at * 1000 - now));
  fill('timers', (timers ?? []).map((timer) => {
    const left = timer.due_at * 1000 - now;
    const item = make('li');
    const track = make('span', 'track');
    const bar = make('span', 'bar');
    bar.style.display = 'block';
    // The square root keeps the next ones apart beside one that is far away.
    bar.style.width = `${Math.sqrt(Math.max(0, left) / last) * 100}%`;
    track.append(bar);
    item.append(make('span', '', when(timer.due_at * 1000, now)), make('b', '', timer.token), track);
    item.append(make('span', 'quiet', left > 0 ? `in ${duration(left / 1000)}` : 'due'));
    return item;
  }));
}

function when(time, now) {
  const isToday = new Date(time).toDateString() === new Date(now).toDateString();
  const day = isToday ? {} : { day: '2-digit', month: 'short' };
  const clock = { hour: '2-digit', minute: '2-digit', ...(isToday && { second: '2-digit' }), hourCycle: 'h23' };
  return new Date(time).toLocaleString('en', { ...day, ...clock });
}

function duration(seconds) {
  if (seconds < 1) return `${Math.round(seconds * 10_000) / 10} ms`;
  if (seconds < 120) return `${Math.round(seconds * 10) / 10} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86_400)} d`;
}

function count(number, limit) {
  if (Number.isNaN(number)) return 'cannot be counted';
  return number >= limit ? `${limit} or more` : number;
}

function make(name, classes = '', words = '') {
  const made = document.createElement(name);
  if (classes) made.className = classes;
  made.textContent = words;
  return made;
}

function fill(id, children) {
  element(id).replaceChildren(...children);
}

refresh();
