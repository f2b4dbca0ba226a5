// What moderators see: participants who wait, and the lobby. Guests who moderate see the list only, as the
// API lets only users set the lobby.

import { text } from './texts.js';

// Milliseconds between two reads of the list: who joins is not announced.
const REFRESH = 4_000;

const GUEST_MODERATOR = 6;
const MODERATORS = [1, 2, GUEST_MODERATOR];
const IGNORES_LOBBY = 8;

const element = (id) => document.getElementById(id);

export function isModerator(room) {
  return room.attendeeId > 0 && MODERATORS.includes(room.participantType);
}

export class Moderation {
  #api;
  #show;
  #room;
  #timer;
  #shownTimer;

  // `show` is called with the room after each change.
  constructor(api, show) {
    this.#api = api;
    this.#show = show;
    element('open-now').addEventListener('click', () => this.#set(0));
    element('close-again').addEventListener('click', () => this.#set(1));
    element('timer-form').addEventListener('submit', (event) => {
      event.preventDefault();
      this.#move();
    });
  }

  // Shows the room, if the viewer moderates it.
  update(room) {
    const isGuest = room?.participantType === GUEST_MODERATOR;
    // A guest has nothing to see of an open room.
    const isShown = room !== undefined && isModerator(room) && !(isGuest && room.lobbyState === 0);
    element('moderation').hidden = !isShown;
    if (!isShown) {
      clearTimeout(this.#timer);
      this.#room = undefined;
      return;
    }
    this.#room = room;
    const isClosed = room.lobbyState === 1;
    element('controls').hidden = isGuest;
    element('guest-moderator').hidden = !isGuest;
    const [open, close] = [element('open-now'), element('close-again')];
    // A button that disappears must not take the focus with it.
    const hadFocus = [open, close].includes(document.activeElement);
    open.hidden = !isClosed;
    close.hidden = isClosed;
    if (hadFocus) (isClosed ? open : close).focus();
    element('timer-form').querySelector('button').textContent = text(timerAction(room));
    if (this.#shownTimer !== room.lobbyTimer) {
      this.#shownTimer = room.lobbyTimer;
      const due = room.lobbyTimer ? room.lobbyTimer * 1000 : nextHour(this.#api.clock.now());
      element('timer').value = localTime(due);
    }
    this.#refresh();
  }

  #move() {
    const field = element('timer');
    const due = new Date(field.value).getTime();
    const isPast = due <= this.#api.clock.now();
    const problem = Number.isNaN(due) ? 'timeMissing' : isPast && 'timePast';
    if (problem) {
      element('moderation-error').textContent = text(problem);
      element('moderation-done').textContent = '';
      field.focus();
    } else {
      this.#set(1, Math.floor(due / 1000));
    }
  }

  async #set(state, timer) {
    const [error, done] = [element('moderation-error'), element('moderation-done')];
    error.textContent = '';
    done.textContent = '';
    try {
      const room = await this.#api.setLobby(state, timer);
      done.textContent = text('done');
      this.#show(room);
    } catch (problem) {
      const isRefused = problem.status === 401 || problem.status === 403;
      error.textContent = text(isRefused ? 'notAllowed' : 'failed');
    }
  }

  async #refresh() {
    clearTimeout(this.#timer);
    try {
      const all = await this.#api.participants();
      if (this.#room) this.#list(all);
    } catch {
      // The notice about the connection says it.
    }
    clearTimeout(this.#timer);
    if (this.#room) this.#timer = setTimeout(() => this.#refresh(), REFRESH);
  }

  #list(all) {
    const waits = (each) => each.sessionIds.length > 0
      && !MODERATORS.includes(each.participantType) && !(each.permissions & IGNORES_LOBBY);
    const isClosed = this.#room.lobbyState === 1;
    const names = isClosed ? all.filter(waits).map((each) => each.displayName || text('guest')) : [];
    element('waiting-title').hidden = !isClosed;
    element('waiting-title').textContent =
      names.length ? text('waitingNumber', { number: names.length }) : text('nobody');
    const items = names.sort((one, other) => one.localeCompare(other)).map((name) => {
      const item = document.createElement('li');
      item.textContent = name;
      return item;
    });
    const list = element('waiting');
    list.replaceChildren(...items);
    // A list that scrolls can be reached by keyboard.
    if (list.scrollHeight > list.clientHeight) list.tabIndex = 0;
    else list.removeAttribute('tabindex');
  }
}

function timerAction(room) {
  if (room.lobbyState === 0) return 'closeUntil';
  return room.lobbyTimer ? 'moveTimer' : 'setTimer';
}

function nextHour(now) {
  return (Math.floor(now / 3_600_000) + 1) * 3_600_000;
}

// As the field wants it: local time without a zone.
function localTime(milliseconds) {
  const time = new Date(milliseconds);
  const local = new Date(milliseconds - time.getTimezoneOffset() * 60_000);
  return local.toISOString().slice(0, 16);
}
