// What the page says, in English and German, and how it writes times.

const ENGLISH = {
  waitingRoom: 'Waiting room',
  loading: 'Loading…',
  webinar: 'Webinar',
  unknown: 'There is no such webinar',
  unknownHint: 'Check the link of your invitation. If you were invited by your account, log in.',
  enterName: 'Please enter your name',
  enterPassword: 'Please enter the password',
  isUser: 'You are logged in.',
  displayName: 'Your name',
  password: 'Password of the webinar',
  enter: 'Enter the waiting room',
  nameMissing: 'Please enter a name.',
  passwordMissing: 'Please enter the password.',
  passwordWrong: 'The password is wrong, or you were excluded from this webinar.',
  tooMany: 'Too many attempts. Please try again in {seconds} s.',
  failed: 'That did not work. Please try again.',
  notAllowed: 'You may not do that.',
  waiting: 'Please wait, the webinar has not begun',
  opensAtTime: 'Opens at {time} (your time)',
  opensOnDay: 'Opens on {day} at {time} (your time)',
  noTimer: 'A moderator opens it. This page changes by itself.',
  keepOpen: 'This page changes by itself.',
  opening: 'Opening…',
  open: 'You can join now',
  openHint: 'The webinar is open.',
  join: 'Join',
  removed: 'You are no longer in this webinar',
  removedHint: 'A moderator has removed you, or the webinar was deleted.',
  again: 'Join again',
  lost: 'Connection lost. Trying again…',
  dialIn: 'By telephone',
  dialInNumber: 'Number of the webinar',
  dialInPin: 'Your PIN',
  moderation: 'For moderators',
  closed: 'Participants have to wait',
  guestModerator: 'Moderators with an account can open it.',
  openNow: 'Open now',
  closeAgain: 'Close again',
  opensAt: 'Opens at',
  moveTimer: 'Move the timer',
  setTimer: 'Set a timer',
  closeUntil: 'Close until then',
  timeMissing: 'Please enter a date and time.',
  timePast: 'This time has passed. To open the webinar, choose “Open now”.',
  done: 'Done.',
  nobody: 'Nobody is waiting',
  waitingNumber: 'Waiting: {number}',
  guest: 'Guest',
  login: 'Log in as a moderator',
  day: 'day',
  days: 'days',
  hours: 'h',
  minutes: 'min',
  seconds: 's',
};

const GERMAN = {
  waitingRoom: 'Warteraum',
  loading: 'Wird geladen…',
  webinar: 'Webinar',
  unknown: 'Dieses Webinar gibt es nicht',
  unknownHint: 'Prüfen Sie den Link Ihrer Einladung. Wenn Ihr Konto eingeladen ist, melden Sie sich an.',
  enterName: 'Bitte geben Sie Ihren Namen ein',
  enterPassword: 'Bitte geben Sie das Passwort ein',
  isUser: 'Sie sind angemeldet.',
  displayName: 'Ihr Name',
  password: 'Passwort des Webinars',
  enter: 'Warteraum betreten',
  nameMissing: 'Bitte geben Sie einen Namen ein.',
  passwordMissing: 'Bitte geben Sie das Passwort ein.',
  passwordWrong: 'Das Passwort ist falsch, oder Sie wurden von diesem Webinar ausgeschlossen.',
  tooMany: 'Zu viele Versuche. Bitte versuchen Sie es in {seconds} s noch einmal.',
  failed: 'Das hat nicht funktioniert. Bitte versuchen Sie es noch einmal.',
  notAllowed: 'Das dürfen Sie nicht.',
  waiting: 'Bitte warten Sie, das Webinar hat noch nicht begonnen',
  opensAtTime: 'Beginnt um {time} Uhr (Ihre Zeit)',
  opensOnDay: 'Beginnt am {day} um {time} Uhr (Ihre Zeit)',
  noTimer: 'Die Moderation öffnet es. Diese Seite ändert sich von selbst.',
  keepOpen: 'Diese Seite ändert sich von selbst.',
  opening: 'Wird geöffnet…',
  open: 'Sie können jetzt teilnehmen',
  openHint: 'Das Webinar ist geöffnet.',
  join: 'Teilnehmen',
  removed: 'Sie nehmen an diesem Webinar nicht mehr teil',
  removedHint: 'Die Moderation hat Sie entfernt, oder das Webinar wurde gelöscht.',
  again: 'Wieder teilnehmen',
  lost: 'Verbindung verloren. Neuer Versuch…',
  dialIn: 'Per Telefon',
  dialInNumber: 'Nummer des Webinars',
  dialInPin: 'Ihre PIN',
  moderation: 'Für die Moderation',
  closed: 'Teilnehmende müssen warten',
  guestModerator: 'Öffnen kann es die Moderation mit einem Konto.',
  openNow: 'Jetzt öffnen',
  closeAgain: 'Wieder schließen',
  opensAt: 'Beginnt um',
  moveTimer: 'Zeit ändern',
  setTimer: 'Zeit festlegen',
  closeUntil: 'Bis dahin schließen',
  timeMissing: 'Bitte geben Sie Datum und Uhrzeit ein.',
  timePast: 'Diese Zeit ist vorbei. Um das Webinar zu öffnen, wählen Sie „Jetzt öffnen“.',
  done: 'Erledigt.',
  nobody: 'Niemand wartet',
  waitingNumber: 'Es warten: {number}',
  guest: 'Gast',
  login: 'Als Moderation anmelden',
  day: 'Tag',
  days: 'Tage',
  hours: 'Std.',
  minutes: 'Min.',
  seconds: 'Sek.',
};

const isGerman = /^de\b/i.test(navigator.language);
export const language = isGerman ? 'de' : 'en';
const texts = isGerman ? GERMAN : ENGLISH;
// The times of a region that is neither are written as the reader's browser would.
const region = navigator.language.startsWith(language) ? navigator.language : language;

export function text(name, values = {}) {
  return texts[name].replace(/\{(\w+)\}/g, (_, key) => values[key]);
}

// When the room opens, in the viewer's time zone; with the day unless it is today.
export function opening(timer, now) {
  const due = new Date(timer);
  const time = new Intl.DateTimeFormat(region, { hour: 'numeric', minute: '2-digit' }).format(due);
  if (due.toDateString() === new Date(now).toDateString()) return text('opensAtTime', { time });
  const day = { weekday: 'long', day: 'numeric', month: 'long' };
  const year = due.getFullYear() === new Date(now).getFullYear() ? {} : { year: 'numeric' };
  return text('opensOnDay', { day: new Intl.DateTimeFormat(region, { ...day, ...year }).format(due), time });
}

// A remaining time as numbers with their units, such as [['02', 'h'], ['05', 'min'], ['09', 's']].
export function remaining(milliseconds) {
  const seconds = Math.max(0, Math.ceil(milliseconds / 1000));
  const days = Math.floor(seconds / 86_400);
  const parts = [
    [days, days === 1 ? 'day' : 'days'],
    [Math.floor(seconds / 3600) % 24, 'hours'],
    [Math.floor(seconds / 60) % 60, 'minutes'],
    [seconds % 60, 'seconds'],
  ];
  const first = Math.min(parts.findIndex(([number]) => number > 0) >>> 0, 2);
  return parts.slice(first).map(([number, unit]) => [String(number).padStart(2, '0'), text(unit)]);
}
