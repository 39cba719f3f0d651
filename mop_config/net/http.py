"""Rules of HTTP that every caller keeps: pauses between attempts, and where tokens may go. Pure."""

from email.utils import parsedate_to_datetime

from ..model.address import Url, is_loopback

#: Past 2^16 every limit has long been reached, and a float cannot overflow.
_MOST_DOUBLINGS = 16


def backoff(failures: int, first: float, longest: float) -> float:
    """Return the seconds to wait after failures in a row; the pause doubles with each of them.

    Args:
        failures: Number of failures in a row, from 1; 0 counts as 1.
        first: Seconds after the first failure.
        longest: Upper bound in seconds.
    """
    return min(longest, first * 2.0 ** min(max(failures - 1, 0), _MOST_DOUBLINGS))


def retry_after(text: str | None, now_posix: float) -> float | None:
    """Read a ``Retry-After`` header: seconds, or an HTTP date (RFC 9110, section 10.2.3).

    Args:
        text: The header's value; None if the response has none.
        now_posix: POSIX time, to which a date is compared.

    Returns:
        Seconds from 0 without an upper bound (callers apply their own), or None if the header
        is absent or invalid.
    """
    text = (text or "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now_posix)
    except (ValueError, TypeError, OverflowError):
        return None


def may_send_token(url: Url) -> bool:
    """Whether an access token may be sent to this URL: over https, or within this machine."""
    return url.scheme == "https" or is_loopback(url.host)
