// Writes behind each time how long ago it was.

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
    const text = words.format(-Math.floor(seconds / length), unit);
    const age = time.nextElementSibling;
    if (age.textContent !== text) {
      age.textContent = text;
    }
  }
}
