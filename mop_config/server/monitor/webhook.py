"""OutageNotifier: tells the webhook when every endpoint of a kind is down, and when one is back."""

import logging
import random
import ssl
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from ...model.address import parse_url
from ...model.endpoint import Kind
from ...net.connect import DialOptions
from ...net.faults import HttpError
from ...net.http import HttpClient, HttpReply, HttpRequest, retry_after
from ..settings import Settings
from ..state.directory import StateDirectory
from .alerts import Alert, acknowledge, change, dump, headers, is_down, load, new_alert, pause
from .schedule import ProbeSchedule

logger = logging.getLogger(__name__)

#: Limit of one attempt in seconds.
TIMEOUT = 10.0
#: Bytes of the webhook's response that are read.
MAX_BYTES = 1 << 16


@dataclass(slots=True)
class _Delivery:
    """The attempts of this process to deliver one message; times are monotonic seconds."""

    id: str
    down: bool
    attempt: Future[HttpReply] | None = None
    failures: int = 0
    next_at: float = 0.0


class OutageNotifier:
    """The alerts of the worker that checks the endpoints.

    What the webhook was told is saved before each attempt, so that it outlives the worker.

    Args:
        directory: The state folder.
        name: Name of the record of the alerts.
        settings: Settings of the webhook; without a URL, outages are only logged.
        tls: Context that verifies certificates.
    """

    def __init__(
        self, directory: StateDirectory, name: str, settings: Settings, tls: ssl.SSLContext
    ) -> None:
        self._directory = directory
        self._name = name
        self._url = settings.alert_webhook
        # For the log: the path and the query may be secret.
        self._host = parse_url(self._url.partition("?")[0]).host if self._url else ""
        self._secret = settings.alert_secret
        self._service = settings.service_name
        self._client = HttpClient(DialOptions(tls, TIMEOUT))
        self._pool = ThreadPoolExecutor(len(Kind), "mop-config-alert")
        self._deliveries: dict[Kind, _Delivery] = {}
        self._alerts = {kind: new_alert(kind) for kind in Kind}
        if self._url is not None:
            self._restore()
        self._saved = dump(self._alerts.values())

    def _restore(self) -> None:
        try:
            self._alerts = load(self._directory.read(self._name))
        except FileNotFoundError:
            pass
        except (OSError, ValueError):
            logger.warning("the record of the alerts cannot be read and is ignored")

    def turn(self, schedule: ProbeSchedule) -> None:
        """Compare what the webhook was told with the state now, and start attempts that are due.

        A state that is not known now is neither logged nor told.

        Args:
            schedule: The results of the health checks.
        """
        for kind, down in schedule.outages().items():
            alert = self._alerts[kind]
            if down != is_down(alert):
                urls = schedule.urls(kind, down=down)
                _log(kind, urls, down=down)
                change(alert, urls, self._service, down=down, now=time.time())
            if self._url is not None:
                self._deliver(self._url, kind, alert)

    def _deliver(self, url: str, kind: Kind, alert: Alert) -> None:
        """Start an attempt to deliver the message of an alert, if it has one that is due."""
        delivery = self._deliveries.get(kind)
        if delivery is not None and delivery.attempt is not None:
            if not delivery.attempt.done():
                return  # attempts about a kind must not overtake each other
            self._settle(delivery, alert, delivery.attempt)
        if alert["id"] and (delivery is None or delivery.id != alert["id"]):
            delivery = self._deliveries[kind] = _Delivery(alert["id"], is_down(alert))
        if alert["id"] and delivery is not None and time.monotonic() >= delivery.next_at:
            alert["told"] = None
            self._save()
            request = HttpRequest(
                url,
                time.monotonic() + TIMEOUT,
                MAX_BYTES,
                "POST",
                headers=headers(alert, self._secret, time.time()),
                body=alert["body"].encode(),
                cut=True,
            )
            delivery.attempt = self._pool.submit(self._client.request, request)
        self._save()

    def _settle(self, delivery: _Delivery, alert: Alert, attempt: Future[HttpReply]) -> None:
        delivery.attempt = None
        error = attempt.exception()
        reply = attempt.result() if error is None else None
        if reply is not None and 200 <= reply.status < 300:
            acknowledge(alert, down=delivery.down)
            if delivery.failures:
                logger.info("the alert webhook at %s accepted the message at last", self._host)
            return
        delivery.failures += 1
        asked = retry_after(reply.headers.get("retry-after"), time.time()) if reply else None
        chance = random.random()  # noqa: S311
        delivery.next_at = time.monotonic() + pause(delivery.failures, asked or 0.0, chance)
        if delivery.failures == 1:
            reason = f"answers {reply.status}" if reply else _describe(error)
            logger.warning(
                "the alert webhook at %s did not accept a message: %s; it is retried until it is"
                " accepted or the state changes",
                self._host,
                reason,
            )

    def _save(self) -> None:
        data = dump(self._alerts.values())
        if data == self._saved:
            return
        # Where this fails, another worker may send a message again.
        if self._directory.save(self._name, data, "the alerts", sync=True):
            self._saved = data

    def close(self) -> None:
        """Abort the attempts that run, without waiting for them."""
        self._client.abort()
        self._pool.shutdown(wait=False, cancel_futures=True)


def _describe(error: BaseException | None) -> str:
    # The words of any other exception may hold the URL, which may be secret.
    return f"{error.fault}, {error}" if isinstance(error, HttpError) else type(error).__name__


def _log(kind: Kind, urls: list[str], *, down: bool) -> None:
    if down:
        logger.warning("every %s endpoint is down (%d checked)", kind.label, len(urls))
    elif urls:
        logger.info("there is a healthy %s endpoint again: %s", kind.label, urls[0])
    else:
        logger.info("no %s endpoint is listed any more", kind.label)
