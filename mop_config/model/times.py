"""Times as people and programs read them."""

from datetime import UTC, datetime


def rfc3339(posix: float) -> str:
    """Give a POSIX time as RFC 3339 in UTC, to the millisecond."""
    text = datetime.fromtimestamp(posix, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
