"""``ListUpdates``: fetches lists from servers, and sends reports to the server of the list."""

import json
import logging
import random
import time
from collections import Counter
from collections.abc import Iterable
from logging import INFO, WARNING
from queue import Empty, SimpleQueue
from typing import Any

from ..errors import MopConfigError, UpdateFailed, UpdateRefused, UpdateUntrusted
from ..model.jws import MEDIA_TYPE
from ..net.faults import COUNTED
from ..net.http import HttpClient, HttpReply, HttpRequest, backoff
from ..net.threads import start_thread
from .lists import rules
from .lists.endpoint_lists import EndpointLists
from .pool.member import PoolMember

logger = logging.getLogger(__name__)

#: Bounds of the random long-poll time in seconds. An edit answers every client at once, so
#: random times keep the clients from polling again in step.
WATCH_WAIT = (35, 58)
#: Seconds until a failed update is retried; the pause doubles up to the update interval.
FIRST_RETRY = 30.0
#: Seconds until a failed long poll is retried; the pause doubles up to a minute.
FIRST_WATCH_RETRY = 1.0
MAX_WATCH_RETRY = 60.0
#: Least seconds from the start of an update to the long poll after it, also for a server that
#: answers long polls at once.
WATCH_PERIOD = 1.0
#: Longest pause in seconds between two looks for due health checks, and the pause between two
#: updates from a server without long polls if updates are off.
IDLE = 3600.0
#: Seconds between the requests to two sources; a failed source starts the next request at once.
STAGGER = 0.25
#: Least seconds between two reports; up to a fifth is added, so that clients don't report in step.
EVERY = 600.0
#: Seconds without a report after a server has refused reports.
REFUSED = 86400.0
#: Limits of a report: bytes of the body, and the value of each count.
MAX_BYTES, MAX_COUNT = 4096, 10_000


class ListUpdates:
    """The updates of a manager's list, and its reports.

    Args:
        lists: The lists of the manager.
        any_healthy: Returns whether an endpoint of a new list is healthy.

    Attributes:
        client: Sends the requests; its ``abort`` cancels all updates for good.
    """

    def __init__(self, lists: EndpointLists, any_healthy: rules.Check) -> None:
        dial = lists.settings.options.for_dial(lists.state.policy.connect_timeout)
        self.client = HttpClient(dial, lists.state.resolver)
        self._lists = lists
        self._any_healthy = any_healthy
        #: Source of the next long poll; None: the next update asks all sources without waiting.
        self._watched: str | None = None
        self._in_a_row = 0  # failed updates

    def update(self, fallback: str | None, token: str | None, *, force: bool) -> bool:
        """Update the list for the application; return whether the list has changed.

        Args:
            fallback: Source to request first, or None.
            token: Token to send; None for the manager's.
            force: Whether to apply a list that may leave no working endpoint.

        Raises:
            UpdateFailed: If no list was found.
            UpdateRefused: If every list found would leave no working endpoint, or is not
                trusted.
        """
        answer = self._search(fallback, token, force=force)
        return answer.found is not None and self._lists.apply_remote(answer.found)

    def _search(
        self, fallback: str | None, token: str | None, *, force: bool, watched: str | None = None
    ) -> rules.SourceAnswer:
        """Ask all sources for the list, or only ``watched`` by a long poll."""
        lists = self._lists
        known = lists.update_context(fallback, force=force)
        if watched in known.sources:
            wait = random.randint(*WATCH_WAIT)  # noqa: S311 - no secret
            known = known._replace(sources=(watched,), wait=wait)
        sent = rules.current_token(lists.settings.token if token is None else token)
        names = lists.server_names(fallback)
        policy = lists.state.policy
        accepted = MEDIA_TYPE if known.trust is not None else "application/json"

        def fetch(url: str, etag: str | None, wait: int, with_token: bool) -> HttpReply:
            tag = {} if etag is None else {"If-None-Match": etag}
            request = HttpRequest(
                url,
                time.monotonic() + policy.total_timeout + wait,
                policy.max_list_bytes,
                headers={"Accept": accepted, "Accept-Encoding": "gzip", **tag},
                token=sent if with_token else None,
                server_names=names,
                https_only=known.https_only,
            )
            return self.client.request(request)

        return self._first_answer(known, fetch)

    def _first_answer(self, known: rules.UpdateContext, fetch: rules.Fetch) -> rules.SourceAnswer:
        """Ask the sources side by side, so that dead sources cost no time; return the first answer.

        A source that is asked when another answers goes on to the end of its own time.

        Raises:
            UpdateFailed: If no list was found.
            UpdateRefused: If no list found may be applied.
            RuntimeError: If the machine has no thread left.
        """
        sources = known.sources
        events: SimpleQueue[tuple[int, rules.SourceAnswer | Exception]] = SimpleQueue()

        def run(position: int) -> None:
            try:
                answer = rules.update(sources[position], known, fetch, self._any_healthy)
                events.put((position, answer))
            except Exception as error:
                events.put((position, error))

        started = 0
        next_at = 0.0
        errors: dict[int, Exception] = {}
        while not self.client.aborted and len(errors) < len(sources):
            if started < len(sources) and time.monotonic() >= next_at:
                start_thread(run, "mop-config-list", started)
                started += 1
                next_at = time.monotonic() + STAGGER
            pause = None if started == len(sources) else max(0.0, next_at - time.monotonic())
            try:
                position, event = events.get(timeout=pause)
            except Empty:
                continue
            if isinstance(event, rules.SourceAnswer):
                return event
            if isinstance(event, UpdateUntrusted):
                self._lists.report_refused("remote", event)
            if not isinstance(event, (UpdateFailed, UpdateRefused)):
                raise event
            errors[position] = event
            next_at = 0.0
        raise rules.combined_error([errors[position] for position in sorted(errors)])

    def run(self) -> float:
        """Update the list in the background; return the seconds until the next update.

        With ``watch``, each update after a good update is a long poll of the server that gave the
        list in use. After a failed long poll all sources are asked again without waiting.
        """
        settings = self._lists.settings
        began, watched = time.monotonic(), self._watched
        try:
            answer = self._search(None, None, force=False, watched=watched)
            if answer.found is not None:
                self._lists.apply_remote(answer.found)
        except Exception as error:
            self._log_failure(error)
            first, longest = FIRST_RETRY, settings.update_interval
            if settings.watch:
                first, longest = FIRST_WATCH_RETRY, MAX_WATCH_RETRY
            self._watched = None
            self._in_a_row += 1
            return _jittered(backoff(self._in_a_row, first, longest))
        can_wait = settings.watch and answer.may_wait and self._lists.etags
        self._watched = answer.source if can_wait else None
        if watched is not None or self._watched is None:
            self._in_a_row = 0  # not before the long poll: it may fail where an update does not
        if self._watched is None:
            return _jittered(settings.update_interval or IDLE)
        # Any status may have ``Retry-After``: it comes with a 304 of many long polls.
        policy = self._lists.state.policy
        pause = policy.busy_for(503, answer.reply.headers.get("retry-after"), time.time())
        return _jittered(max(pause or 0.0, began + WATCH_PERIOD - time.monotonic()))

    def _log_failure(self, error: Exception) -> None:
        """Log a failed update, at INFO if the failure is expected or was logged before."""
        settings = self._lists.settings
        # API servers need not have a list, unless the application named them as sources.
        is_absence = isinstance(error, UpdateFailed) and (
            error.cause == "not_implemented" or not error.attempts
        )
        expected = is_absence and not settings.config_urls
        repeated = settings.watch and self._in_a_row > 0
        if not self.client.aborted:
            name = "" if isinstance(error, MopConfigError) else f"{type(error).__name__}: "
            logger.log(INFO if expected or repeated else WARNING, "%s%s", name, error)

    def report(self) -> float:
        """Send a report if counts are due; return the seconds until the next report.

        A report has a count per endpoint and fault, without request URLs, identities or times.
        Health checks count like requests: a blocked endpoint soon gets no more requests, and a
        request that another endpoint overtakes says nothing of the fault.
        Counts that could not be sent are part of the next report.
        """
        pause = EVERY * (1 + random.random() / 5)  # noqa: S311
        lists = self._lists
        source = lists.kept.url
        if source is None or not rules.is_route(source):
            return pause  # the list did not come from a list server
        url = source.removesuffix(rules.SIGNED_SUFFIX).removesuffix("/endpoints") + "/reports"
        chosen = _due(lists)[:100]  # an entry has more than 40 bytes
        while len(_body(chosen)) > MAX_BYTES:
            chosen.pop()
        if not chosen:
            return pause
        try:
            request = HttpRequest(
                url,
                time.monotonic() + lists.state.policy.total_timeout,
                MAX_BYTES,
                "POST",
                headers={"Content-Type": "application/json"},
                body=_body(chosen),
                token=rules.current_token(lists.settings.token),
                server_names=lists.server_names(),
                cut=True,
            )
            status = self.client.request(request).status
        except Exception as error:  # raised by the application's token function, too
            logger.info("no report to %s: %s", url, error)
            return pause
        if 200 <= status < 300:
            with lists.state:
                for member, entry in chosen:
                    member.reported.update(entry["counts"])
        elif 400 <= status < 500 and status != 429:
            logger.info("%s takes no reports (%d); it is asked again in a day", url, status)
            return REFUSED
        return pause


def _jittered(seconds: float) -> float:
    """Vary a delay by up to a tenth, so that a fleet of clients does not poll in step."""
    return seconds * random.uniform(0.9, 1.1)  # noqa: S311 - no secret


def _due(lists: EndpointLists) -> list[tuple[PoolMember, dict[str, Any]]]:
    """Return the entry of each endpoint with counts since the last report, most failures first."""
    due = []
    with lists.state as state:
        for pool in state.pools:
            for member in pool.members():
                faults = {word.value: n for word, n in member.faults.items() if word in COUNTED}
                good = member.served + member.good_checks
                new = Counter({"ok": good, **faults}) - member.reported
                if new:
                    counts = Counter({word: min(n, MAX_COUNT) for word, n in new.items()})
                    due.append((member, {"kind": pool.kind, "url": member.url, "counts": counts}))
    return sorted(due, key=lambda entry: entry[1]["counts"]["ok"] - entry[1]["counts"].total())


def _body(due: Iterable[tuple[PoolMember, dict[str, Any]]]) -> bytes:
    return json.dumps({"endpoints": [entry for _, entry in due]}, separators=(",", ":")).encode()
