// Writes behind each time what the reader's own clock shows then, and how far away it is.

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
    const ahead = (new Date(time.dateTime) - now) / 1000;
    const [unit, length] = UNITS.find(([, length]) => Math.abs(ahead) >= length) ?? UNITS.at(-1);
    const text = local(time.dateTime) + words.format(Math.trunc(ahead / length), unit);
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
