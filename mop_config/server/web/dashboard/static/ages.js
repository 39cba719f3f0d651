// Writes behind each time what the reader's own clock showed then, and how long ago it was.

const UNITS = [
  ["day", 86400],
  ["hour", 3600],
  ["minute", 60],
  ["second", 1],
];

/** Bring the ages of all times up to date; `now` is the server's time. */
export function tellAges(now) {
  const words = new Intl.RelativeTimeFormat(document.documentElement.lang, { numeric: "auto" });
  for (const time of document.querySelectorAll("time[datetime]")) {
    const seconds = Math.max(0, (now - new Date(time.dateTime)) / 1000);
    const [unit, length] = UNITS.find(([, length]) => seconds >= length) ?? UNITS.at(-1);
    const text = local(time.dateTime) + words.format(-Math.floor(seconds / length), unit);
    const age = time.nextElementSibling;
    if (age.textContent !== text) {
      age.textContent = text;
    }
  }
}

/** Give a moment by the reader's clock; nothing where that is UTC, which the server has written. */
export function local(moment) {
  const date = new Date(moment);
  if (date.getTimezoneOffset() === 0) {
    return "";
  }
  const form = new Intl.DateTimeFormat(document.documentElement.lang, {
    // The day only where it is another one than in UTC.
    ...(date.getDate() === date.getUTCDate() ? {} : { month: "short", day: "numeric" }),
    hour: "2-digit",
    minute: "2-digit",
    second: "2-digit",
    hourCycle: "h23",
    timeZoneName: "short",
  });
  return `${form.format(date)} · `;
}
