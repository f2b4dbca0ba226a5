// The waiting room: shows one room as the server says it is, and lets the viewer enter it.
//
// Only the server opens a room: at the end of the countdown, the page waits for its word.

import { Api } from './api.js';
import { Clock } from './clock.js';
import { Follower } from './follower.js';
import { isModerator, Moderation } from './moderation.js';
import { language, opening, remaining, text } from './texts.js';

const IGNORES_LOBBY = 8;

const NO_PIN = 2;

const NO_SESSION = '0';

// Milliseconds between two attempts to begin.
const RETRY = 3_000;

const element = (id) => document.getElementById(id);

const token = location.pathname.split('/')[2] ?? '';
const clock = new Clock();
const api = new Api(decoded(token), clock);
const follower = new Follower(api, { room: show, gone, connected });
const moderation = new Moderation(api, show);

// The room as the viewer sees it, and what is known of the viewer.
let room;
let capabilities = { dialIn: '', isUser: false };
let isConnected = true;
let wasMember = false;
let isLeft = false;
// With which the viewer has entered, to enter again after an interruption.
let entered;
let shownState;
let tick;

// A link may be damaged on its way.
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function state() {
  if (!room) return isLeft ? 'removed' : 'unknown';
  if (isLeft) return 'removed';
  const isMember = room.attendeeId > 0;
  if (!isMember && room.hasPassword) return 'password';
  if (room.lobbyState === 0) return 'open';
  if (!isMember) return 'name';
  return isModerator(room) || room.permissions & IGNORES_LOBBY ? 'admitted' : 'waiting';
}

// Called for each state of the room that the server tells.
function show(news, isResumed = false) {
  const isMember = news.attendeeId > 0;
  const isLost = wasMember && !isMember;
  room = news;
  if (isResumed && entered && (isLost || isMember && news.sessionId === NO_SESSION)) {
    // The session has ended during an interruption.
    enter(entered.name, entered.password).catch(gone);
    return;
  }
  isLeft = isLost;
  if (isMember) wasMember = true;
  render();
}

async function gone() {
  follower.stop();
  isLeft = wasMember;
  room = await api.show().catch(() => undefined);
  render();
}

function connected(isNow) {
  if (isNow === isConnected) return;
  isConnected = isNow;
  element('connection').textContent = isNow ? '' : text('lost');
  // Time may have stood still meanwhile.
  if (isNow) api.show().catch(() => {});
}

function render() {
  const now = state();
  const isNews = now !== shownState;
  const focused = document.activeElement;
  document.body.dataset.state = now;
  const isKnown = !['unknown', 'removed'].includes(now);
  const name = isKnown && room.displayName;
  element('name').textContent = name || text(isKnown ? 'webinar' : 'waitingRoom');
  fill('description', isKnown && room.description);
  const isEntry = now === 'name' || now === 'password';
  element('entry').hidden = !isEntry;
  element('password-field').hidden = now !== 'password';
  element('name-field').hidden = capabilities.isUser;
  element('login').hidden = capabilities.isUser;
  renderLobby(now);
  renderDialIn(isKnown);
  moderation.update(isKnown ? room : undefined);
  const isLost = !isShown(focused) && [focused, document.body].includes(document.activeElement);
  if (isNews && shownState !== undefined && isLost) element('name').focus();
  shownState = now;
}

function renderLobby(now) {
  const hasTimer = ['name', 'waiting', 'admitted'].includes(now) && room.lobbyTimer > 0;
  const joinUrl = document.body.dataset.joinUrl;
  const mayJoin = (now === 'open' || now === 'admitted') && joinUrl;
  element('join').hidden = !mayJoin;
  if (mayJoin) element('join').href = joinUrl.replaceAll('{token}', encodeURIComponent(room.token));
  element('again').hidden = !(now === 'removed' && room);
  fill('hint', hint(now, hasTimer));
  fill('opens', hasTimer && opening(room.lobbyTimer * 1000, clock.now()));
  clearTimeout(tick);
  if (hasTimer) countDown(now);
  else {
    element('countdown').hidden = true;
    say(headline(now));
  }
}

function headline(now) {
  if (now === 'name') return text(capabilities.isUser ? 'isUser' : 'enterName');
  const names = { password: 'enterPassword', admitted: 'closed' };
  return text(names[now] ?? now);
}

function hint(now, hasTimer) {
  const names = { unknown: 'unknownHint', removed: 'removedHint' };
  if (now === 'waiting') return text(hasTimer ? 'keepOpen' : 'noTimer');
  if (now === 'open') return element('join').hidden && text('openHint');
  return names[now] && text(names[now]);
}

// Shows the remaining time now and after each second.
function countDown(now) {
  const left = room.lobbyTimer * 1000 - clock.now();
  const parts = remaining(left).map(([number, unit]) => {
    const [part, digits, label] = ['span', 'b', 'small'].map((name) => document.createElement(name));
    digits.textContent = number;
    label.textContent = unit;
    part.append(digits, ' ', label, ' ');
    return part;
  });
  element('countdown').replaceChildren(...parts);
  element('countdown').hidden = left <= 0;
  say(left > 0 ? headline(now) : text('opening'));
  if (left > 0) tick = setTimeout(() => countDown(now), left % 1000 || 1000);
}

// The headline is read aloud when it changes, so it is left alone otherwise.
function say(words) {
  if (element('headline').textContent !== words) element('headline').textContent = words;
  document.title = [words, room?.displayName].filter(Boolean).join(' – ');
}

function renderDialIn(isKnown) {
  const has = isKnown && room.attendeeId > 0 && room.sipEnabled > 0;
  element('dial-in').hidden = !has;
  if (!has) return;
  fill('dial-in-info', capabilities.dialIn);
  element('dial-in-number').textContent = room.token;
  element('pin-row').hidden = room.sipEnabled === NO_PIN || !room.attendeePin;
  element('dial-in-pin').textContent = room.attendeePin;
}

function fill(id, words) {
  element(id).hidden = !words;
  element(id).textContent = words || '';
}

function isShown(node) {
  return node.isConnected && node.getClientRects().length > 0;
}

async function enter(name, password) {
  const joined = await api.join(password);
  entered = { name, password };
  if (!capabilities.isUser && name) await api.nameSelf(name);
  isLeft = false;
  show(joined);
  follower.start();
}

element('entry').addEventListener('submit', async (event) => {
  event.preventDefault();
  const [name, password] = [element('display-name'), element('password')];
  const hasPassword = !element('password-field').hidden;
  const problem = (field, words) => {
    element('entry-error').textContent = words;
    field?.setAttribute('aria-invalid', 'true');
    field?.focus();
  };
  for (const field of [name, password]) field.removeAttribute('aria-invalid');
  element('entry-error').textContent = '';
  if (!capabilities.isUser && !name.value.trim()) return problem(name, text('nameMissing'));
  if (hasPassword && !password.value) return problem(password, text('passwordMissing'));
  const button = element('entry').querySelector('button');
  button.disabled = true;
  try {
    await enter(name.value.trim(), hasPassword ? password.value : '');
  } catch (error) {
    if (error.status === 403) problem(hasPassword ? password : undefined, text('passwordWrong'));
    else if (error.status === 429) problem(undefined, text('tooMany', { seconds: error.retryAfter || 60 }));
    else problem(undefined, text('failed'));
  } finally {
    button.disabled = false;
  }
});

element('again').addEventListener('click', () => {
  wasMember = false;
  isLeft = false;
  follower.start();
  render();
});

document.addEventListener('visibilitychange', () => {
  if (!document.hidden) api.show().catch(() => {});
});

async function begin() {
  try {
    capabilities = await api.capabilities();
    const found = await api.show();
    // A member has a session in the room while the page is open.
    if (found.attendeeId > 0) {
      entered = { name: '', password: '' };
      show(await api.join('', false).catch((error) => {
        // The same browser is in the call, and stays there.
        if (error.status === 409) return found;
        throw error;
      }));
    } else {
      show(found);
    }
    connected(true);
    follower.start();
  } catch (error) {
    if (error.status === 404) return render();
    connected(false);
    setTimeout(begin, Math.max(RETRY, (error.retryAfter ?? 0) * 1000));
  }
}

document.documentElement.lang = language;
for (const each of document.querySelectorAll('[data-text]')) each.textContent = text(each.dataset.text);
element('headline').textContent = text('loading');
element('login').href = `/call?token=${token}`;
if (location.pathname === '/call') {
  // The browser asked for a login, and the user gave none.
  location.replace(`/call/${encodeURIComponent(new URLSearchParams(location.search).get('token'))}`);
} else {
  begin();
}
