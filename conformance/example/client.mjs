// A client of the failover protocol, minimal profile: a template for other languages.
//
//     import {FailoverClient} from "./client.mjs";
//     const client = new FailoverClient(["https://a.example/api/v1", "https://b.example/api/v1"]);
//     const {status, body} = await client.request("GET", "/users");
//
// The only thing that it needs of its platform is fetch(). Numbers are those of docs/protocol.md,
// section 1. The last part, from "line protocol" on, is for the conformance suite only.

const IDEMPOTENT = new Set(["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"]);
const NOT_REACHED = new Set([521, 522, 523, 525, 526]); // a CDN has not reached the server
const BAD_STATUS = new Set([502, 503, 504, 520, 524, 527, 530, ...NOT_REACHED]);
const LIST_PATH = "/config/endpoints";

/** Times are seconds, as in the protocol. */
const POLICY = {total_timeout: 30, health_timeout: 5, unhealthy_after: 3, healthy_after: 2,
  first_backoff: 1, max_backoff: 30, max_retry_after: 300};

/** Codes of Node for attempts of which nothing was sent. Where a platform cannot tell, leave it out. */
const UNSENT = new Set(["ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "EHOSTUNREACH", "ENETUNREACH",
  "UND_ERR_CONNECT_TIMEOUT", "ERR_TLS_CERT_ALTNAME_INVALID", "CERT_HAS_EXPIRED"]);

const now = () => performance.now() / 1000;

/** Rule 2 and section 2: read a list; throws an Error where any part of it is invalid. */
export function parseList(text) {
  const document = JSON.parse(text);
  if (document === null || typeof document !== "object" || Array.isArray(document)) {
    throw new Error("the list must be an object");
  }
  const kinds = [["api_endpoints", /^https?:$/], ["socketio_endpoints", /^(https?|wss?):$/]];
  return Object.fromEntries(kinds.map(([kind, schemes]) => {
    const entries = document[kind] ?? [];
    if (!Array.isArray(entries)) throw new Error(`${kind} must be an array`);
    const found = new Map();
    for (const entry of entries) {
      const {url, priority = 0} = entry ?? {};
      if (!Number.isSafeInteger(priority) || priority < 0) throw new Error(`priority ${priority}`);
      const canonical = canonicalUrl(url, schemes);
      if (!found.has(canonical)) found.set(canonical, {url: canonical, priority});
    }
    return [kind, [...found.values()]];
  }));
}

/** One spelling of a URL: lower case, without the default port and the final slash. */
export function canonicalUrl(url, schemes = /^https?:$/) {
  if (typeof url !== "string" || !/^[a-z]+:\/\/[^/?#@\s]+(\/[^?#\s]*)?$/i.test(url)) {
    throw new Error(`not the URL of an endpoint: ${url}`);
  }
  const {protocol, host, pathname} = new URL(url);
  if (!schemes.test(protocol)) throw new Error(`no such scheme: ${protocol}`);
  return `${protocol}//${host}${pathname.replace(/\/+$/, "")}`;
}

/** The error of a request: `unavailable` where no endpoint answered, else `failed`. */
export class RequestError extends Error {
  constructor(code, cause) {
    super(`${code}: ${cause?.cause?.message ?? cause?.message ?? cause}`);
    this.code = code;
  }
}

export class FailoverClient {
  /** @param endpoints built-in URLs, best first, or objects with url and priority */
  constructor(endpoints, {policy = {}, configUrls = [], checks = true} = {}) {
    this.policy = {...POLICY, ...policy};
    this.configUrls = configUrls;
    this.checks = checks;
    this.builtIn = endpoints.map((each, priority) =>
      typeof each === "string" ? {url: canonicalUrl(each), priority} : each);
    this.replace(this.builtIn);
  }

  /** Rule 3: replace the list. Endpoints that stay keep their health. */
  replace(list) {
    const known = new Map((this.endpoints ?? []).map((each) => [each.url, each]));
    this.endpoints = list.map(({url, priority}) => {
      const fresh = {url, failures: 0, usable: true, goodChecks: 0, badChecks: 0, busyUntil: 0};
      const endpoint = known.get(url) ?? fresh;
      known.delete(url);
      return Object.assign(endpoint, {priority});
    });
    for (const gone of known.values()) clearTimeout(gone.timer);
  }

  /** Rule 4: the endpoints in the order in which they are tried. */
  get ordered() {
    const trouble = (each) => (!each.usable ? 2 : each.busyUntil > now() ? 1 : 0);
    return [...this.endpoints].sort((a, b) => trouble(a) - trouble(b) || a.priority - b.priority);
  }

  get current() {
    return this.ordered[0]?.url ?? null;
  }

  /** Rules 5 to 10: send a request to one endpoint after the other. `timeout` bounds an attempt. */
  async request(method, path, {headers = {}, body, timeout} = {}) {
    const whole = !(body instanceof ReadableStream); // a stream cannot be sent again
    const repeatable = whole && (IDEMPOTENT.has(method)
      || Object.keys(headers).some((name) => name.toLowerCase() === "idempotency-key"));
    const deadline = now() + this.policy.total_timeout;
    const untried = new Set(this.ordered.map(({url}) => url));
    let answer = null;
    let failure = "the list is empty";
    while (untried.size && now() < deadline) {
      const endpoint = this.ordered.find(({url}) => untried.has(url));
      if (endpoint === undefined) break; // the rest has left the list
      untried.delete(endpoint.url);
      const seconds = Math.min(timeout ?? Infinity, deadline - now());
      try {
        answer = await this.attempt(endpoint, method, path, {headers, body}, seconds);
      } catch (error) {
        failure = error;
        this.failed(endpoint);
        if (repeatable || (whole && UNSENT.has(error.cause?.code))) continue;
        if (answer !== null) break;
        throw new RequestError("failed", error);
      }
      if (!answer.bad || !(repeatable || (whole && NOT_REACHED.has(answer.status)))) break;
    }
    if (answer !== null) return answer;
    throw new RequestError("unavailable", failure);
  }

  /** One attempt: the whole response, or an error. */
  async attempt(endpoint, method, path, {headers, body}, seconds) {
    const response = await fetch(endpoint.url + path, {
      method, headers, body, duplex: "half", redirect: "manual", signal: timeLimit(seconds),
    });
    const text = await response.text(); // a response that breaks off is none
    const {status} = response;
    const busy = this.retryAfter(response);
    const bad = busy > 0 || BAD_STATUS.has(status);
    if (busy > 0) endpoint.busyUntil = now() + busy; // rule 7: alive, and left alone
    if (bad && busy === 0) this.failed(endpoint);
    else endpoint.failures = 0;
    return {status, body: text, endpoint: endpoint.url, bad};
  }

  /** Rule 7: the seconds for which a response asks to be left alone, or 0. */
  retryAfter(response) {
    const text = response.headers.get("retry-after");
    if (text === null || ![429, 503].includes(response.status)) return 0;
    const seconds = /^\d+$/.test(text) ? Number(text) : (Date.parse(text) - Date.now()) / 1000;
    return Math.min(Math.max(0, seconds || 0), this.policy.max_retry_after);
  }

  // -- health (rule 8)

  failed(endpoint) {
    endpoint.failures += 1;
    endpoint.goodChecks = 0;
    if (endpoint.usable && endpoint.failures >= this.policy.unhealthy_after) {
      endpoint.usable = false;
      endpoint.badChecks = 0;
      this.checkLater(endpoint);
    }
  }

  /** Check an unhealthy endpoint after 1, 2, 4 … 30 s, and again until it is usable. */
  checkLater(endpoint) {
    if (!this.checks) return;
    const {first_backoff: first, max_backoff: most} = this.policy;
    const seconds = Math.min(most, first * 2 ** endpoint.badChecks);
    clearTimeout(endpoint.timer);
    endpoint.timer = setTimeout(() => this.check(endpoint), seconds * 1000);
    endpoint.timer.unref?.();
  }

  async check(endpoint) {
    const good = await this.isHealthy(endpoint.url);
    if (!this.endpoints.includes(endpoint)) return;
    if (good) {
      endpoint.failures = endpoint.badChecks = 0;
      endpoint.goodChecks += 1;
      endpoint.usable ||= endpoint.goodChecks >= this.policy.healthy_after;
    } else {
      endpoint.badChecks += 1;
      this.failed(endpoint);
    }
    if (!endpoint.usable) this.checkLater(endpoint);
  }

  async isHealthy(url) {
    const options = {redirect: "manual", signal: timeLimit(this.policy.health_timeout)};
    try {
      let response = await fetch(`${url}/health`, options);
      if (response.status === 404) response = await fetch(new URL("/health", url), options);
      await response.arrayBuffer();
      return response.ok;
    } catch {
      return false;
    }
  }

  // -- the list (rule 3)

  /** Ask the sources for a newer list; return whether it differs from the one in use. */
  async update({fallback, token} = {}) {
    const ordered = this.ordered.map(({url}) => url);
    const builtIn = this.builtIn.map(({url}) => url);
    const sources = [fallback, ordered[0], ...this.configUrls, ...ordered.slice(1), ...builtIn];
    let cause = null;
    for (const source of new Set(sources.filter(Boolean))) {
      const found = await this.listFrom(source, token);
      if (typeof found === "string") {
        cause ??= found;
        continue;
      }
      const listed = (list) => JSON.stringify(list.map((e) => [e.url, e.priority]).sort());
      const changed = listed(found) !== listed(this.endpoints);
      this.replace(found);
      return changed;
    }
    throw new RequestError(cause ?? "unreachable", "no source has a list");
  }

  /** The API endpoints of one source, or a word that says why there are none. */
  async listFrom(source, token) {
    const {protocol, hostname, origin} = new URL(source);
    const local = /^(127\.[\d.]+|localhost|\[::1\])$/.test(hostname);
    if (protocol !== "https:" && !local) return "invalid"; // anybody on the way could change it
    const own = source.endsWith(LIST_PATH) ? source : source + LIST_PATH;
    let status = 0;
    for (const url of new Set([own, `${origin}/api/v1${LIST_PATH}`])) {
      try {
        const response = await fetch(url, {
          headers: token ? {authorization: `Bearer ${token}`} : {},
          redirect: "manual", // never to plain http, and never with the token to another origin
          signal: timeLimit(this.policy.health_timeout),
        });
        const text = await response.text();
        ({status} = response);
        if (status === 200) {
          const list = parseList(text).api_endpoints;
          return list.length ? list : "refused"; // an empty list would take every endpoint away
        }
      } catch {
        return status === 200 ? "invalid" : "unreachable";
      }
      if (![404, 405, 501].includes(status)) break;
    }
    if (status === 401 || status === 403) return "unauthorized";
    if ([404, 405, 501].includes(status)) return "not_implemented";
    return status >= 500 || status === 429 ? "unreachable" : "invalid";
  }

  close() {
    for (const endpoint of this.endpoints) clearTimeout(endpoint.timer);
  }
}

function timeLimit(seconds) {
  return AbortSignal.timeout(Math.max(1, Math.ceil(seconds * 1000)));
}

// -- line protocol of the conformance suite: one JSON object a line on stdin and stdout

const operations = {
  init(message) {
    operations.close();
    operations.client = new FailoverClient(message.api_endpoints, {
      policy: message.policy, configUrls: message.config_urls, checks: message.checks ?? false,
    });
    return {profile: "minimal", protocol: "1.0"};
  },
  request({method, path, body, once, ...options}) {
    const sent = once ? new Blob([body]).stream() : body;
    return operations.client.request(method, path, {...options, body: sent});
  },
  update: async (message) => ({changed: await operations.client.update(message)}),
  state() {
    const {current} = operations.client;
    const endpoints = [...operations.client.endpoints].sort((a, b) => a.priority - b.priority);
    return {current, api_endpoints: endpoints.map(({timer, ...each}) => each)};
  },
  close: () => operations.client?.close(),
};

if (process.argv[1]?.endsWith("client.mjs")) {
  const {createInterface} = await import("node:readline");
  for await (const line of createInterface({input: process.stdin})) {
    const {id, op, ...message} = JSON.parse(line);
    const failure = (error) => ({error: error.code ?? "failed", detail: error.message});
    const answer = await Promise.resolve(message).then(operations[op]).catch(failure);
    console.log(JSON.stringify({id, ...answer}));
  }
}
