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
    doc="""Another endpoint list is served now. Sent by the ``Store`` with ``snapshot``
    (the new ``Snapshot``), ``previous`` (the one before it, or None) and ``trigger``.""",
)
config_rejected = _signals.signal(
    "config-rejected",
    doc="""A text was refused or could not be read; what was served stays. Sent by the
    ``Store`` with ``reason`` (str), ``problems`` (tuple of ``Problem``) and ``trigger``.""",
)


def send(signal: NamedSignal, sender: Any, **kwargs: Any) -> None:
    """Send a signal to each receiver, whatever the ones before it did."""
    if not signal.receivers:
        return
    for receiver in signal.receivers_for(sender):
        try:
            receiver(sender, **kwargs)
        except Exception as error:
            logger.error(
                "receiver %r of the signal %s failed: %s: %s",
                getattr(receiver, "__qualname__", receiver),
                signal.name,
                type(error).__name__,
                error,
            )
