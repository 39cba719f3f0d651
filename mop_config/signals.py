"""The signals that mop-config sends, all in one blinker namespace.

A receiver that raises is logged and passed over: it stops neither the sender nor the
receivers after it. blinker holds receivers weakly; connect with ``weak=False`` or keep
a reference.
"""

import logging
from typing import Any

from blinker import NamedSignal, Namespace

logger = logging.getLogger(__name__)

_signals = Namespace()

config_reloaded = _signals.signal(
    "config-reloaded",
    doc="""Another endpoint list is served now. Sent by the ``SnapshotStore`` with
    ``snapshot`` (the new ``Snapshot``), ``previous`` (the one before it, or None)
    and ``trigger``.""",
)
config_rejected = _signals.signal(
    "config-rejected",
    doc="""A text was refused or could not be read, and the served list stays. Sent by the
    ``SnapshotStore`` with ``reason`` (str), ``problems`` (tuple of ``Problem``)
    and ``trigger``.""",
)
endpoint_switched = _signals.signal(
    "endpoint-switched",
    doc="""Requests go to another endpoint. Sent by a manager with ``kind`` (``api`` or
    ``socketio``), ``from_url``, ``to_url``, ``reason`` (``failed``, ``busy``, ``pinned``,
    ``failback``, ``preferred``, ``latency``, ``panic``, ``removed`` or ``chosen``) and
    ``seconds_without_service``.""",
)
endpoint_down = _signals.signal(
    "endpoint-down",
    doc="""An endpoint has failed too often in a row. Sent by a manager with ``kind``,
    ``url`` and ``reason`` (the last fault, in a word).""",
)
endpoint_recovered = _signals.signal(
    "endpoint-recovered",
    doc="""An endpoint that was down is healthy again. Sent by a manager with ``kind``,
    ``url`` and ``after_total_outage`` (whether all of the kind were down).""",
)
all_endpoints_down = _signals.signal(
    "all-endpoints-down",
    doc="""Every endpoint of a kind is down: sent once, until one recovers. Sent by a manager
    with ``kind`` and ``urls``.""",
)
endpoints_updated = _signals.signal(
    "endpoints-updated",
    doc="""The list has changed. Sent by a manager with ``origin`` (``remote``, ``qr`` or
    ``manual``), ``url`` (where it came from, or None), ``added``, ``removed`` and ``changed``
    (URLs; the last have another priority or server name).""",
)
endpoints_refused = _signals.signal(
    "endpoints-refused",
    doc="""A list was refused since no trusted key vouches for it. Sent by a manager with
    ``origin`` (``remote``, ``qr`` or ``cache``), ``url`` (where it came from), ``code`` (see
    ``SignatureError``) and ``reason``.""",
)


def send(signal: NamedSignal, sender: Any, **kwargs: Any) -> None:
    """Send a signal to each receiver, whatever the ones before it did."""
    if not signal.receivers:
        return
    for receiver in signal.receivers_for(sender):
        try:
            receiver(sender, **kwargs)
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # SystemExit would end the reload thread unseen
            logger.error(
                "receiver %r of the signal %s failed: %s: %s",
                getattr(receiver, "__qualname__", receiver),
                signal.name,
                type(error).__name__,
                error,
            )
