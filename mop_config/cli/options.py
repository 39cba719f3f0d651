"""The option type for a number of seconds."""

from typing import Any

import click


class _Seconds(click.FloatRange):
    def convert(self, value: Any, *about: Any) -> float:
        seconds = float(super().convert(value, *about))
        return (
            self.fail(f"{value} is no number of seconds", *about) if seconds != seconds else seconds
        )


#: Seconds: more than 0, at most a day.
SECONDS = _Seconds(0, min_open=True, max=86400)
