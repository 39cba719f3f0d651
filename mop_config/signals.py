"""The signals that mop-config sends, all in one blinker namespace.

If a receiver raises, the error is logged; neither the sender nor the other receivers are
affected. blinker holds receivers weakly: connect with ``weak=False``, or keep a reference.

- ``config_reloaded``: The served endpoint list has changed. Sent by the ``SnapshotStore`` with
  ``snapshot`` (the new ``Snapshot``), ``previous`` (the one before it, or None) and
  ``trigger``.
- ``config_rejected``: A text was rejected or could not be read; the served list stays. Sent by
  the ``SnapshotStore`` with ``reason`` (str), ``problems`` (tuple of ``Problem``) and
  ``trigger``.
- ``endpoint_switched``: Requests go to another endpoint. Sent by a manager with ``kind``
  (``api`` or ``socketio``), ``from_url``, ``to_url``, ``reason`` (``failed``, ``busy``,
  ``pinned``, ``failback``, ``preferred``, ``latency``, ``panic``, ``removed`` or ``chosen``)
  and ``seconds_without_service``.
- ``endpoint_down``: An endpoint has become unhealthy. Sent by a manager with ``kind``, ``url``
  and ``reason`` (the last fault, such as ``refused``).
- ``endpoint_recovered``: An unhealthy endpoint is healthy again. Sent by a manager with
  ``kind``, ``url`` and ``after_total_outage`` (whether all endpoints of the kind were
  unhealthy).
- ``all_endpoints_down``: All endpoints of a kind are unhealthy; sent once per outage. Sent by
  a manager with ``kind`` and ``urls``.
- ``endpoints_updated``: The list has changed. Sent by a manager with ``origin`` (``remote``,
  ``qr`` or ``manual``), ``url`` (the source, or None), and the URLs ``added``, ``removed`` and
  ``changed`` (with other attributes).
- ``endpoints_refused``: A list was rejected: no trusted key has signed it, or it is expired, older
  than an accepted one, or from the future. Sent by a manager with ``origin`` (``remote``, ``qr`` or
  ``cache``), ``url`` (the source), ``code`` (see ``SignatureError``) and ``reason``.
"""

import logging
from typing import Any

from blinker import NamedSignal, Namespace

logger = logging.getLogger(__name__)

_signals = Namespace()

config_reloaded = _signals.signal("config-reloaded")
config_rejected = _signals.signal("config-rejected")
endpoint_switched = _signals.signal("endpoint-switched")
endpoint_down = _signals.signal("endpoint-down")
endpoint_recovered = _signals.signal("endpoint-recovered")
all_endpoints_down = _signals.signal("all-endpoints-down")
endpoints_updated = _signals.signal("endpoints-updated")
endpoints_refused = _signals.signal("endpoints-refused")


def send(signal: NamedSignal, sender: Any, **kwargs: Any) -> None:
    """Send a signal to each receiver; log the exceptions of receivers instead of raising them."""
    for receiver in signal.receivers_for(sender):
        try:
            receiver(sender, **kwargs)
        except (Exception, SystemExit) as error:  # SystemExit would end the reload thread
            logger.error("receiver %s of the signal %s failed: %r", receiver, signal.name, error)
