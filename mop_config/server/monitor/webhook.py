"""Tells the webhook when every endpoint of a kind is down, and when one is back.

What it is to be told outlives the worker: it is on the disk before the first attempt.
"""

import json
import logging
import random
import ssl
import time
import uuid
from functools import partial
from pathlib import Path

from ...health.probe import Prober, ProbeResult
from ...model.address import parse_url
from ...model.endpoint import Kind
from ...net.faults import Fault
from ..settings import Settings
from ..state import records
from .errands import WorkerThreads
from .outbox import Fate, Message, Outbox, Patience, headers
from .schedule import ProbeSchedule

logger = logging.getLogger(__name__)

#: Seconds that an attempt may take.
TIMEOUT = 10.0


class OutageNotifier:
    """The webhook's messages, in the worker that checks the endpoints.

    Args:
        path: Where they are kept.
        settings: Name the webhook, or none: then there is only the log.
        tls: Context that verifies certificates.
        errands: Runs the attempts.
        patience: For how long a message is tried.
    """

    def __init__(
        self,
        path: Path,
        settings: Settings,
        tls: ssl.SSLContext,
        errands: WorkerThreads,
        patience: Patience | None = None,
    ) -> None:
        self._path = path
        self._url = settings.alert_webhook
        self._secret = settings.alert_secret
        self._errands = errands
        self._prober = Prober(tls, TIMEOUT)
        self._outbox = Outbox(patience or Patience(), settings.service_name)
        self._complained = False
        if self._url is not None:
            self._load()

    def _load(self) -> None:
        try:
            self._outbox.restore(json.loads(records.read(self._path)))
        except FileNotFoundError:
            pass
        except (OSError, ValueError, RecursionError):
            logger.warning("what the alert webhook was told cannot be read: it is ignored")

    def _save(self) -> None:
        if self._url is None:
            return
        data = json.dumps(self._outbox.record()).encode()
        try:
            records.write(self._path, data, sync=True)
            self._complained = False
        except OSError as error:
            if not self._complained:
                self._complained = True
                logger.warning(
                    "what the alert webhook was told cannot be saved, so that another worker"
                    " may tell it once more: %s",
                    error.strerror or error,
                )

    def look(self, probing: ProbeSchedule) -> None:
        """Find out whether there is something to tell."""
        for kind, down in self._outbox.news(probing.outages()):
            now = time.time()
            urls = probing.urls(kind, down=down)
            since = self._outbox.note(kind, down=down, now=now)
            label = Kind(kind).label
            if down:
                logger.warning("every %s endpoint is down (%d checked)", label, len(urls))
            elif urls:
                logger.info("there is a healthy %s endpoint again: %s", label, urls[0])
            else:
                logger.info("no %s endpoint is listed any more", label)
            if self._url is not None:
                self._outbox.put(uuid.uuid4().hex, kind, urls, down=down, since=since, now=now)
            self._save()

    def send(self) -> None:
        """Begin the attempts that are due."""
        if self._url is None:
            return
        for message in self._outbox.due(time.time()):
            about = headers(message, self._secret, time.time())
            work = partial(self._prober.post, self._url, about, message.body)
            self._errands.run("alert", work, partial(self._settle, message))

    def wait(self) -> float:
        """Give the seconds until an attempt is due; infinity for never."""
        return self._outbox.wait(time.time())

    def abort(self) -> None:
        """End the attempts that run; takes no lock."""
        self._prober.abort()

    def _settle(self, message: Message, result: ProbeResult | None) -> None:
        outcome = result or ProbeResult(Fault.OURS, 0.0, "the attempt itself failed")
        fate = self._outbox.settle(message, outcome, time.time(), random.random())  # noqa: S311
        self._save()
        # The host only: a path or a query may be what keeps strangers out.
        host = parse_url((self._url or "").partition("?")[0]).host
        if fate is Fate.TROUBLE:
            logger.warning(
                "the alert webhook at %s cannot be told: %s; it is tried again", host, _why(outcome)
            )
        elif fate is Fate.GIVEN_UP:
            logger.error("the alert webhook at %s was not told: %s", host, _why(outcome))
        elif fate is Fate.DELIVERED and message.attempts:
            logger.info("the alert webhook at %s was told at last", host)


def _why(result: ProbeResult) -> str:
    return f"{result.fault}, {result.detail}"
