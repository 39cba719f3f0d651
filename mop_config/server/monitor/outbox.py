"""What the alert webhook is told, and when it is told again. Pure.

A message follows Standard Webhooks 1.0: one id over all attempts, the time of the attempt
in its header, a signature over both and the body. Times are POSIX seconds, since they
outlive the process.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from ...health.probe import ProbeResult
from ...model.codec import MAX_DATE, rfc3339
from ...model.endpoint import Kind
from ...net.http import backoff, retry_after

_FORMAT = 1
#: Messages of a kind that wait: of an outage, and of its end.
_QUEUED = 2
#: A message names so many endpoints at most: it is to stay below 20 kB.
NAMED = 20
_GONE = 410
_DOWN, _RECOVERED = "endpoints.down", "endpoints.recovered"


@dataclass(frozen=True, slots=True)
class Patience:
    """For how long a message is tried.

    Attributes:
        first: Seconds from the first attempt to the second, at most; it doubles.
        most: What that grows to.
        give_up: Seconds from what happened to the last attempt.
    """

    first: float = 2.0
    most: float = 600.0
    give_up: float = 86400.0

    def delay(self, attempts: int, chance: float) -> float:
        """Seconds until the next attempt after so many; ``chance`` is from 0 to 1."""
        return backoff(attempts, self.first, self.most) * (1 - 0.5 * chance)


@dataclass(slots=True)
class Message:
    """One message to the webhook.

    Attributes:
        id: The same in every attempt.
        kind: The endpoints that it is about: ``api`` or ``socketio``.
        at: When it happened.
        body: JSON.
        attempts: How often it was sent in vain.
        next_at: When it is to be sent.
    """

    id: str
    kind: str
    at: float
    body: str
    attempts: int = 0
    next_at: float = 0.0

    @property
    def down(self) -> bool:
        """Whether it tells of an outage; else of its end."""
        return bool(json.loads(self.body)["type"] == _DOWN)


class Fate(Enum):
    """What came of an attempt."""

    DELIVERED = "delivered"
    TROUBLE = "trouble"  # it failed for the first time
    WAITING = "waiting"  # it failed once more
    GIVEN_UP = "given-up"
    SUPERSEDED = "superseded"  # it has gone for other news by now


class Outbox:
    """At most two messages for each kind, told in order: the next once the one before arrived.

    An end is told only to whoever was told of the outage, or is told first: where there are
    more than two, the oldest outage goes together with its end, and so it does where it is
    given up.

    Args:
        patience: For how long a message is tried.
        service: Who speaks.

    Attributes:
        down: The kinds of which all endpoints are down, and since when.
    """

    def __init__(self, patience: Patience, service: str) -> None:
        self._patience = patience
        self._service = service
        self._pending: dict[str, list[Message]] = {}
        self._untold: set[str] = set()  # kinds whose outage was given up
        self._under_way: set[str] = set()
        self.down: dict[str, float] = {}

    def news(self, outages: dict[str, bool]) -> list[tuple[str, bool]]:
        """Give the kinds that went down (True) or came back since they were noted last."""
        return [(kind, down) for kind, down in outages.items() if down != (kind in self.down)]

    def note(self, kind: str, *, down: bool, now: float) -> float:
        """Note that a kind went down or came back; give the time at which it went down."""
        if down:
            self.down[kind] = now
            return now
        return self.down.pop(kind, now)

    def put(
        self, message_id: str, kind: str, urls: list[str], *, down: bool, since: float, now: float
    ) -> None:
        """Make a message, to be sent after an older one about the same kind.

        Args:
            message_id: Its id, without a full stop.
            kind: ``api`` or ``socketio``.
            urls: The endpoints that are down, or those that are back; best first.
            down: Whether all endpoints of the kind are down, or one is back.
            since: When they went down.
            now: When it happened.
        """
        document = {
            "type": _DOWN if down else _RECOVERED,
            "timestamp": rfc3339(now),
            "data": {
                "service": self._service,
                "kind": kind,
                "down_since": rfc3339(since),
                "count": len(urls),
                "urls": urls[:NAMED],
            },
        }
        body = json.dumps(document, separators=(",", ":"))
        if not down and kind in self._untold:
            self._untold.discard(kind)
            return
        self._untold.discard(kind)
        queue = self._pending.setdefault(kind, [])
        queue.append(Message(message_id, kind, now, body, next_at=now))
        if len(queue) > _QUEUED:
            del queue[: 2 if queue[0].down else 1]

    def due(self, now: float) -> list[Message]:
        """Give the messages that are to be sent now, and take them as under way."""
        due = [m for m in self._heads() if self._left(m, now) <= 0]
        self._under_way |= {message.id for message in due}
        return due

    def wait(self, now: float) -> float:
        """Give the seconds until ``due`` has something; infinity for never."""
        left = (self._left(message, now) for message in self._heads())
        return max(0.0, min(left, default=float("inf")))

    def _heads(self) -> list[Message]:
        return [queue[0] for queue in self._pending.values()]

    def _left(self, message: Message, now: float) -> float:
        if message.id in self._under_way:
            return float("inf")
        # A clock that was set back must not hold a message for longer than was meant.
        return min(message.next_at - now, self._patience.most)

    def settle(self, message: Message, result: ProbeResult, now: float, chance: float) -> Fate:
        """Take the outcome of an attempt in.

        Args:
            message: What was sent.
            result: What came of it.
            now: POSIX time.
            chance: A random number from 0 to 1.
        """
        self._under_way.discard(message.id)
        if result.fault is None:
            self._drop(message)
            return Fate.DELIVERED
        if not self._is_head(message):
            return Fate.SUPERSEDED
        message.attempts += 1
        delay = max(self._patience.delay(message.attempts, chance), self._asked_for(result, now))
        message.next_at = now + delay
        if result.status == _GONE or message.next_at > message.at + self._patience.give_up:
            self._drop(message)
            self._spare_end(message)
            return Fate.GIVEN_UP
        return Fate.TROUBLE if message.attempts == 1 else Fate.WAITING

    def _drop(self, message: Message) -> None:
        if self._is_head(message):
            del self._pending[message.kind][0]
            if not self._pending[message.kind]:
                del self._pending[message.kind]

    def _is_head(self, message: Message) -> bool:
        return any(head is message for head in self._heads())

    def _spare_end(self, given_up: Message) -> None:
        """See to it that nobody hears of the end of an outage that was given up."""
        if not given_up.down:
            return
        queue = self._pending.get(given_up.kind)
        if queue:
            self._drop(queue[0])
        else:
            self._untold.add(given_up.kind)

    def _asked_for(self, result: ProbeResult, now: float) -> float:
        return min(retry_after(result.retry_after, now) or 0.0, self._patience.most)

    def record(self) -> dict[str, Any]:
        """Put everything into the form that is kept."""
        pending = [asdict(message) for queue in self._pending.values() for message in queue]
        untold = sorted(self._untold)
        return {"format": _FORMAT, "down": self.down, "pending": pending, "untold": untold}

    def restore(self, record: Any) -> None:
        """Take up what was kept.

        Raises:
            ValueError: If it is not what ``record`` gave; nothing has changed then.
        """
        try:
            if record["format"] != _FORMAT:
                raise ValueError("of another version")
            down = {_kind(kind): _date(since) for kind, since in record["down"].items()}
            pending = [_message(entry) for entry in record["pending"]]
            # An earlier version did not keep them.
            untold = {_kind(kind) for kind in record.get("untold", [])}
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError("not what was written") from error
        self.down, self._untold, self._pending = down, untold, {}
        for message in pending:
            self._pending.setdefault(message.kind, []).append(message)


def _message(entry: dict[str, Any]) -> Message:
    message = Message(**entry)
    if not isinstance(message.id, str) or not message.id.isascii() or not message.id.isalnum():
        raise ValueError("not an id")
    _kind(message.kind), _date(message.at), _date(message.next_at)
    if type(message.attempts) is not int or not isinstance(message.body, str):
        raise ValueError("not a message")
    if json.loads(message.body)["type"] not in {_DOWN, _RECOVERED}:
        raise ValueError("not a message")
    return message


def _kind(value: Any) -> str:
    if value not in set(Kind):
        raise ValueError("not a kind")
    return str(value)


def _date(value: Any) -> float:
    if type(value) not in {int, float} or not 0 <= value <= MAX_DATE:
        raise ValueError("not a date")
    return float(value)


def headers(message: Message, secret: bytes, now: float) -> dict[str, str]:
    """Give the headers of an attempt.

    Args:
        message: What is sent.
        secret: The key; empty for no signature.
        now: POSIX time of the attempt.
    """
    stamp = str(int(now))
    found = {
        "Content-Type": "application/json",
        "webhook-id": message.id,
        "webhook-timestamp": stamp,
    }
    if secret:
        found["webhook-signature"] = sign([message.id, stamp, message.body], secret)
    return found


def sign(parts: Iterable[str], secret: bytes) -> str:
    """Sign the parts of a message: its id, the time of the attempt, its body."""
    digest = hmac.new(secret, ".".join(parts).encode(), hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()
