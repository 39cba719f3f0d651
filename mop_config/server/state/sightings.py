"""In which order the workers of a host have seen the texts of a source without dates. Pure.

etcd numbers the texts of a key, and a majority of its members never gives an older one after
a newer one. So a lower number means one of two things: this worker has read earlier and comes
later, or etcd was restored. When the reading began tells which.
"""

from typing import NamedTuple

#: Seconds by which two texts that were seen at one moment are apart: a float has room for it.
APART = 1e-5


class Seen(NamedTuple):
    """A text that some worker has seen.

    Attributes:
        number: The source's number for it.
        digest: Of its bytes: after a restore, one number may mean another text.
        at: Since when it counts, as POSIX seconds.
    """

    number: int
    digest: str
    at: float


class Sighting(NamedTuple):
    """A text as a worker has just read it.

    Attributes:
        number: The source's number for it.
        digest: Of its bytes.
        began: When reading began, as POSIX seconds.
    """

    number: int
    digest: str
    began: float

    def among(self, seen: list[Seen], now: float) -> tuple[float, list[Seen]]:
        """Put the text in its place among those that were seen before it.

        Args:
            seen: What workers have seen so far, the newest last.
            now: POSIX time.

        Returns:
            Since when the text counts, and all that has been seen now.
        """
        known = next((s for s in reversed(seen) if s[:2] == self[:2]), None)
        if known is not None and (known is seen[-1] or seen[-1].at >= self.began):
            return known.at, seen
        # Those that were not there yet when this one was read.
        later = [s for s in seen if s.at >= self.began and s.number > self.number]
        if later:
            place = seen.index(later[0])
            before = seen[place - 1].at if place else 0.0
            at = max(later[0].at - APART, (before + later[0].at) / 2)
            return at, [*seen[:place], Seen(self.number, self.digest, at), *seen[place:]]
        # The clock may have been set back since the last one.
        at = max([now, *(s.at + APART for s in seen[-1:])])
        return at, [*seen, Seen(self.number, self.digest, at)]
