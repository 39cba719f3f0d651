"""OutageNotifier: tells the webhook when every endpoint of a kind is down, and when one is back.

Alerts are level-triggered: as long as the state that was told last differs from the state now, the
message about the state now is due. A message follows Standard Webhooks 1.0: one id for all
attempts, the time of the attempt in its header, a signature over both and the body.
"""

import base64
import hmac
import json
import logging
import time
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypedDict

from ...model.address import parse_url
from ...model.endpoint import Kind, rfc3339
from ...net.faults import HttpError
from ...net.http import HttpClient, HttpRequest, backoff
from ..settings import Settings
from ..state.directory import StateDirectory, dump_record, parse_record
from .schedule import ProbeSchedule

logger = logging.getLogger(__name__)

#: Limit of endpoints that a message names, so that its body stays below 20 kB.
NAMED = 20
#: Seconds from the first failed attempt to the next, at most; the pause doubles with each attempt.
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 600.0
#: Limit of one attempt in seconds.
TIMEOUT = 10.0
#: Bytes of the webhook's response that are read.
MAX_BYTES = 1 << 16


class Alert(TypedDict):
    """The alert about one kind, as the state folder keeps it.

    ``down_since`` is the POSIX time at which the outage began, None while the kind is not down.
    ``told`` is whether the webhook knows of an outage; None from the start of an attempt until an
    attempt succeeds, because a message may arrive although its response is lost. ``id`` and
    ``body`` are the message about the latest change.
    """

    kind: str
    down_since: float | None
    told: bool | None
    id: str
    body: str


def new_alert(kind: Kind) -> Alert:
    """Return the alert about a kind that is not known to be down."""
    return {"kind": kind.value, "down_since": None, "told": False, "id": "", "body": ""}


def is_down(alert: Alert) -> bool:
    """Whether all endpoints of the kind are down."""
    return alert["down_since"] is not None


def change(alert: Alert, urls: list[str], service: str, *, down: bool, now: float) -> None:
    """Note that a kind went down or came back, and make the message about it.

    Args:
        alert: The alert about the kind.
        urls: The endpoints that are down, or those that are back; best first.
        service: Name of the service in the message.
        down: Whether all endpoints are down.
        now: POSIX time of the change.
    """
    since = now if alert["down_since"] is None else alert["down_since"]
    message = {
        "type": "endpoints.down" if down else "endpoints.recovered",
        "timestamp": rfc3339(now),
        "data": {
            "service": service,
            "kind": alert["kind"],
            "down_since": rfc3339(since),
            "count": len(urls),
            "urls": urls[:NAMED],
        },
    }
    alert["down_since"] = now if down else None
    alert["id"], alert["body"] = uuid.uuid4().hex, json.dumps(message, separators=(",", ":"))


def load(data: bytes) -> dict[Kind, Alert]:
    """Parse the alerts that the state folder keeps."""
    alerts: list[Alert] = parse_record(data)["alerts"]
    return {kind: new_alert(kind) for kind in Kind} | {Kind(a["kind"]): a for a in alerts}


def headers(alert: Alert, secret: bytes, now: float) -> dict[str, str]:
    """Return the headers of an attempt.

    Args:
        alert: The alert with the message.
        secret: The key of the signature; empty for no signature.
        now: POSIX time of the attempt.
    """
    stamp = str(int(now))
    found = {
        "Content-Type": "application/json",
        "webhook-id": alert["id"],
        "webhook-timestamp": stamp,
    }
    if secret:
        found["webhook-signature"] = sign([alert["id"], stamp, alert["body"]], secret)
    return found


def sign(parts: list[str], secret: bytes) -> str:
    """Return the signature over a message's id, the time of the attempt and the body."""
    digest = hmac.digest(secret, ".".join(parts).encode(), "sha256")
    return "v1," + base64.b64encode(digest).decode()


class OutageNotifier:
    """The alerts of the worker that checks the endpoints.

    What the webhook was told is saved before each attempt, so that it outlives the worker.

    Args:
        directory: The state folder.
        name: Name of the record of the alerts.
        settings: Settings of the webhook; without a URL, outages are only logged.
        client: Sends the messages.
    """

    def __init__(
        self, directory: StateDirectory, name: str, settings: Settings, client: HttpClient
    ) -> None:
        self._directory = directory
        self._name = name
        self._settings = settings
        self._url = settings.alert_webhook or ""
        self._client = client
        self._pool = ThreadPoolExecutor(1, "mop-config-alert")
        self._attempt: Future[None] | None = None
        # For each kind: the failed attempts in a row, and when the next is due (monotonic).
        self._waiting = dict.fromkeys(Kind, (0, 0.0))
        known = directory.load(name, load, "the alerts") if self._url else None
        self._alerts = known or {kind: new_alert(kind) for kind in Kind}

    def turn(self, schedule: ProbeSchedule) -> None:
        """Compare what the webhook was told with the state now, and start an attempt that is due.

        A state that is not known now is neither logged nor told. While an attempt runs, nothing
        changes, so that messages cannot overtake each other.

        Args:
            schedule: The results of the health checks.
        """
        if self._attempt is not None and not self._attempt.done():
            return
        due = []
        for kind, (down, urls) in schedule.outages().items():
            alert = self._alerts[kind]
            if down != is_down(alert):
                level, state = (logging.WARNING, "down") if down else (logging.INFO, "back")
                told = f"{state}: {urls[:NAMED]}" if urls else "no longer listed"
                logger.log(level, "the %s endpoints are %s", kind.label, told)
                change(alert, urls, self._settings.service_name, down=down, now=time.time())
                self._waiting[kind] = 0, 0.0
                self._save()
            if alert["told"] is not is_down(alert) and time.monotonic() >= self._waiting[kind][1]:
                due.append(kind)
        if self._url and due:
            self._attempt = self._pool.submit(self._send, due[0])

    def _send(self, kind: Kind) -> None:
        """Send the message about a kind, in the pool's thread, and take in the answer."""
        # For the log: the path and the query may be secret.
        host = parse_url(self._url.partition("?")[0]).host
        alert = self._alerts[kind]
        failures, _ = self._waiting[kind]
        alert["told"] = None
        self._save()
        fields = headers(alert, self._settings.alert_secret, time.time())
        body = alert["body"].encode()
        until = time.monotonic() + TIMEOUT
        request = HttpRequest(
            self._url, until, MAX_BYTES, "POST", headers=fields, body=body, cut=True
        )
        try:
            reply = self._client.request(request)
            reason = "" if 200 <= reply.status < 300 else f"answers {reply.status}"
        except HttpError as error:
            reason = f"{error.fault}, {error}"
        except Exception as error:  # the words of other errors may hold the URL
            reason = type(error).__name__
        if not reason:
            alert["told"] = is_down(alert)
            self._save()
            return
        wait = backoff(failures + 1, FIRST_PAUSE, LONGEST_PAUSE)
        self._waiting[kind] = failures + 1, time.monotonic() + wait
        if not failures and not self._client.aborted:
            logger.warning(
                "the alert webhook at %s did not accept a message: %s; it is retried until it is"
                " accepted or the state changes",
                host,
                reason,
            )

    def _save(self) -> None:
        if self._url:
            data = dump_record({"alerts": list(self._alerts.values())})
            # Where this fails, another worker may send a message again.
            self._directory.save(self._name, data, "the alerts", sync=True)

    def close(self) -> None:
        """Stop waiting for the attempt that runs; the client's owner aborts it."""
        self._pool.shutdown(wait=False, cancel_futures=True)
