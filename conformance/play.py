"""Play vectors: each with a fresh fleet and a configured client, step by step."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .authority import Authority
from .client import ClientFailedError, ClientProcess
from .fleet import Fleet
from .judge import Observed, judge
from .vectors import Vector

#: Members of a step for the runner, which are not sent to the client.
_OWN = frozenset({"op", "expect", "times", "poll"})
#: Seconds between two attempts of a step that polls.
_PAUSE = 0.05
#: Seconds that an operation may take if the vector names no bound.
_USUAL = 10.0


@dataclass(frozen=True)
class Result:
    """The result of one vector.

    Attributes:
        vector: The vector.
        outcome: ``passed``, ``failed`` or ``unsupported``.
        detail: The observation of a failure, or the profile that the client lacks.
        seconds: Duration of the vector.
    """

    vector: Vector
    outcome: str
    detail: str = ""
    seconds: float = 0.0


class Player:
    """Plays vectors with one child process, and starts a new process after a failure.

    Args:
        command: The client's program and arguments.
        authority: The certificates of the fleet.
        folder: Folder for the client's cache files.
        slack: Factor by which upper bounds of time are multiplied.
        patience: Seconds for each answer, in addition to the operation's own time.
    """

    def __init__(
        self,
        command: Sequence[str],
        authority: Authority,
        folder: Path,
        slack: float,
        patience: float,
    ) -> None:
        self._authority = authority
        self._folder = folder
        self._slack = slack
        self._client = ClientProcess(command, authority.environment(), patience)
        self._profile: tuple[str, tuple[str, ...]] | None = None
        self._played = 0

    async def play(self, vector: Vector) -> Result:
        """Play one vector; any behaviour of the client gives a result, never an exception."""
        began = time.monotonic()
        detail = self._unsupported(vector)
        if detail is not None:
            return Result(vector, "unsupported", detail)
        self._played += 1
        fleet = Fleet(self._authority, vector.fleet)
        try:
            await fleet.open()
            problems = await self._play(vector, fleet)
            outcome, detail = ("failed" if problems else "passed"), "\n".join(problems)
            if (lacking := self._unsupported(vector)) is not None:
                outcome, detail = "unsupported", lacking
        except ClientFailedError as error:
            outcome, detail = "failed", str(error)
        finally:
            await fleet.close()
        if outcome == "failed":
            await self._client.stop()  # the next vector starts a new process
        return Result(vector, outcome, detail, time.monotonic() - began)

    async def close(self) -> None:
        """End the child process."""
        await self._client.close()

    def _unsupported(self, vector: Vector) -> str | None:
        if self._profile is None or vector.is_supported(*self._profile):
            return None
        return f"not supported: the client declares {self._profile[0]}, not {vector.profile}"

    async def _play(self, vector: Vector, fleet: Fleet) -> list[str]:
        if not await self._init(vector, fleet):
            return []
        for number, step in enumerate(vector.steps, 1):
            problems = await self._step(vector, fleet, step)
            if problems:
                about = f"step {number} ({step['op']})"
                return [f"{about}: {problem}" for problem in problems]
        await self._client.ask("close", {})
        return []

    async def _init(self, vector: Vector, fleet: Fleet) -> bool:
        """Configure the client; return whether it supports the vector."""
        listed = [{"url": url, "priority": p} for p, url in enumerate(fleet.urls.values())]
        cache = self._folder / f"{id(self)}-{self._played}.json"
        members = {
            "authority": str(self._authority.path),
            "policy": vector.policy,
            "api_endpoints": listed,
            "socketio_endpoints": [],
            "cache": str(cache),
            **fleet.fill(vector.init),
        }
        answer = await self._client.ask("init", members)
        if "error" in answer:
            raise ClientFailedError(f"the client refuses init: {answer}")
        self._profile = answer.get("profile", "minimal"), tuple(answer.get("optional", ()))
        if self._unsupported(vector) is None:
            return True
        await self._client.ask("close", {})
        return False

    async def _step(self, vector: Vector, fleet: Fleet, step: dict[str, Any]) -> list[str]:
        match step["op"]:
            case "wait":
                await asyncio.sleep(step["seconds"])
            case "set" if "in" in step:
                fleet.change_later(step["fleet"], step["in"])
            case "set":
                await fleet.change(step["fleet"])
            case "restart":
                await self._client.ask("close", {})
                await self._init(vector, fleet)
            case _:
                return await self._observe(fleet, step)
        return []

    async def _observe(self, fleet: Fleet, step: dict[str, Any]) -> list[str]:
        """Do a step's operation, repeatedly if the step polls, and judge the observation."""
        members = fleet.fill({key: value for key, value in step.items() if key not in _OWN})
        expected = fleet.fill(step.get("expect", {}))
        usual = expected.get("within", _USUAL) * self._slack
        began, first = time.monotonic(), len(fleet.seen)
        give_up = began + step.get("poll", 0.0) * self._slack
        while True:
            for _ in range(step.get("times", 1)):
                answer = await self._client.ask(step["op"], members, usual)
            seconds = time.monotonic() - began
            observed = Observed(answer, fleet.seen[first:], seconds, fleet.urls, expected)
            problems = list(judge(observed, self._slack))
            if not problems or time.monotonic() > give_up:
                return [*problems, *(_shown(observed) if problems else ())]
            await asyncio.sleep(_PAUSE)


def _shown(observed: Observed) -> Iterator[str]:
    """Yield the lines that describe an observation in a failure report."""
    yield f"the client answered {observed.answer} after {observed.seconds:.3f} s"
    seen = (f"{each.endpoint} {each.method} {each.path}" for each in observed.seen)
    yield f"the fleet saw: {'; '.join(seen) or 'nothing'}"
