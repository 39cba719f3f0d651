"""Alerts: whether each kind is down, and what the webhook was told of it last. Pure.

Alerts are level-triggered: as long as the state that was told last differs from the state now, the
message about the state now is due. A message follows Standard Webhooks 1.0: one id for all
attempts, the time of the attempt in its header, a signature over both and the body.
"""

import base64
import hashlib
import hmac
import json
import uuid
from collections.abc import Iterable
from typing import TypedDict

from ...model.codec import MAX_DATE, rfc3339
from ...model.endpoint import Kind
from ...net.http import backoff
from ..state.worker_record import parse_record

_FORMAT = 2
#: Limit of endpoints that a message names, so that its body stays below 20 kB.
NAMED = 20
#: Seconds from the first failed attempt to the next, at most; the pause doubles with each attempt.
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 600.0


class Alert(TypedDict):
    """The alert about one kind, as the state folder keeps it.

    ``down_since`` is the POSIX time at which the outage began, None while the kind is not down.
    ``told`` is whether the webhook knows of an outage; None from the start of an attempt until an
    attempt succeeds, because a message may arrive although its response is lost. ``id`` and
    ``body`` are the message about the state now; both are empty if the webhook knows that state.
    """

    kind: str
    down_since: float | None
    told: bool | None
    id: str
    body: str


class _AlertsRecord(TypedDict):
    format: int
    alerts: list[Alert]


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
    _compare(alert)


def acknowledge(alert: Alert, *, down: bool) -> None:
    """Note that the webhook has accepted a message.

    Args:
        alert: The alert about the kind.
        down: Whether the message was about an outage; the state may have changed meanwhile.
    """
    alert["told"] = down
    _compare(alert)


def _compare(alert: Alert) -> None:
    if alert["told"] is is_down(alert):
        alert["id"] = alert["body"] = ""


def dump(alerts: Iterable[Alert]) -> bytes:
    """Return the alerts in the form that the state folder keeps."""
    record: _AlertsRecord = {"format": _FORMAT, "alerts": list(alerts)}
    return json.dumps(record).encode()


def load(data: bytes) -> dict[Kind, Alert]:
    """Read the alerts that the state folder keeps.

    Raises:
        ValueError: If the data is not what ``dump`` returns.
    """
    record = parse_record(data, _AlertsRecord)
    if record is None or record["format"] != _FORMAT:
        raise ValueError("not a record of alerts")
    for alert in record["alerts"]:
        if not 0 <= (alert["down_since"] or 0.0) <= MAX_DATE:
            raise ValueError("not a date")
        if not f"id{alert['id']}".isascii() or not f"id{alert['id']}".isalnum():
            raise ValueError("not an id for a header")
    return {kind: new_alert(kind) for kind in Kind} | {Kind(a["kind"]): a for a in record["alerts"]}


def pause(failures: int, asked: float, chance: float) -> float:
    """Return the seconds until the next attempt.

    Args:
        failures: Number of failed attempts, from 1.
        asked: Seconds that the webhook asked for with ``Retry-After``, or 0.
        chance: A random number from 0 to 1.
    """
    delay = backoff(failures, FIRST_PAUSE, LONGEST_PAUSE) * (1 - 0.5 * chance)
    return max(delay, min(asked, LONGEST_PAUSE))


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


def sign(parts: Iterable[str], secret: bytes) -> str:
    """Return the signature over a message's id, the time of the attempt and the body."""
    digest = hmac.new(secret, ".".join(parts).encode(), hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()
