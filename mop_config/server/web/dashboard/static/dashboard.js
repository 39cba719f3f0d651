// Keeps the page as the server would draw it now. The server draws all of it; this asks for
// the page again, a second after the last answer, and takes over what has changed.

import { local, tellAges } from "./ages.js";
import { copyOnClick } from "./copy.js";
import { patch } from "./patch.js";

const EVERY = 1000;
const PATIENCE = 3000;
// Who hangs answers nothing for a while before it counts as lost.
const LIVE = 3000;
const TYPING = 200;
// One failure may be a worker that is being replaced.
const FAILURES = 2;

const connection = document.getElementById("connection");
const words = document.body.dataset;
let title = document.title;
let timer = 0;
let asking = null;
let etag = null;
let failures = 0;
let newest = new Date();
// How much the server's clock is ahead of this one, in milliseconds.
let ahead = 0;

function address() {
  // Not relative: the page's own address may hold a login, which fetch refuses.
  return new URL(location.pathname + location.search, location.origin);
}

async function look() {
  clearTimeout(timer);
  if (asking !== null) {
    asking.abort();
  }
  const mine = new AbortController();
  asking = mine;
  const late = setTimeout(() => mine.abort(), PATIENCE);
  try {
    const headers = etag === null ? {} : { "If-None-Match": etag };
    const answer = await fetch(address(), { headers, cache: "no-store", signal: mine.signal });
    const body = answer.status === 304 ? null : await answer.text();
    if (asking === mine) {
      take(answer, body);
    }
  } catch {
    // Whatever keeps the answer away, the operator has to know that what stands there is old.
    if (asking === mine) {
      lose();
    }
  } finally {
    clearTimeout(late);
  }
  if (asking === mine) {
    asking = null;
    // Asking again with a login that is refused would only open the browser's dialogue again.
    if (!connection.classList.contains("refused")) {
      lookLater();
    }
  }
}

function lookLater(delay = EVERY * Math.min(1 + failures / 4, 3)) {
  clearTimeout(timer);
  if (document.visibilityState === "visible") {
    timer = setTimeout(look, delay);
  }
}

function take(answer, body) {
  if (answer.status === 401 || answer.status === 403) {
    document.getElementById("live").textContent = "";
    tell("refused", words.refused.replace("{status}", answer.status));
    return;
  }
  if (body !== null) {
    if (!answer.ok || !draw(body)) {
      lose();
      return;
    }
    etag = answer.headers.get("ETag");
  }
  const date = Date.parse(answer.headers.get("Date"));
  ahead = Number.isNaN(date) ? 0 : date - Date.now();
  newest = new Date(Date.now() + ahead);
  if (connection.matches(".lost, .refused")) {
    tell("back", words.back);
    setTimeout(() => connection.classList.contains("back") && tell("", ""), 4000);
  }
  failures = 0;
  const live = document.getElementById("live");
  if (live.textContent !== live.dataset.text) {
    live.textContent = live.dataset.text;
  }
  tellAges(newest);
}

function draw(body) {
  const fresh = new DOMParser().parseFromString(body, "text/html");
  const page = fresh.getElementById("page");
  if (page === null) {
    return false;
  }
  if (fresh.body.dataset.build !== words.build) {
    // Another version answers, whose page needs its own script.
    location.reload();
    return true;
  }
  title = fresh.title;
  entitle();
  patch(document.getElementById("page"), page);
  return true;
}

function lose() {
  failures += 1;
  if (failures >= FAILURES) {
    document.getElementById("live").textContent = "";
    const own = local(newest).replace(" · ", "");
    const time = `${newest.toISOString().slice(11, 19)} UTC${own === "" ? "" : ` (${own})`}`;
    tell("lost", words.lost.replace("{time}", time));
  }
}

// A tab in the background shows its title only.
function entitle() {
  const prefix = words[`${connection.classList[1]}Title`];
  const wanted = prefix === undefined ? title : `${prefix} · ${title}`;
  if (document.title !== wanted) {
    document.title = wanted;
  }
}

function tell(what, text) {
  if (connection.textContent !== text) {
    connection.textContent = text;
  }
  connection.className = `connection ${what}`;
  entitle();
  document.body.classList.toggle("stopped", what === "lost" || what === "refused");
}

// What is filtered and which code is shown stands in the address, so that it can be kept,
// and the server draws it like everything else.
function choose(form) {
  const chosen = new URLSearchParams(location.search);
  for (const [name, value] of new FormData(form)) {
    if (value === "") {
      chosen.delete(name);
    } else if (form.elements[name].type !== "hidden") {
      chosen.set(name, value);
    }
  }
  const query = chosen.toString();
  history.replaceState(null, "", query === "" ? location.pathname : `?${query}`);
  lookLater(TYPING);
}

document.documentElement.classList.add("scripted");
document.addEventListener("input", (event) => event.target.form && choose(event.target.form));
document.addEventListener("submit", (event) => {
  event.preventDefault();
  choose(event.target);
});
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") {
    look();
  }
});
addEventListener("online", look);
addEventListener("popstate", look);
setInterval(() => {
  const now = new Date(Date.now() + ahead);
  tellAges(now);
  if (now - newest > LIVE) {
    document.getElementById("live").textContent = "";
  }
}, EVERY);
copyOnClick(words);
look();
