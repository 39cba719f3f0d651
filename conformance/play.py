"""Play vectors: each with a fresh fleet and a configured client, step by step."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from .client import ClientFailedError, ClientProcess
from .fleet import Authority, Fleet
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


class UnsupportedError(Exception):
    """The client has not declared the profile of a vector."""


class Player:
    """Plays vectors with one child process, and starts a new process after a failure.

    Args:
        authority: The certificates of the fleet.
        client: The client's process.
        slack: Factor by which upper bounds of time are multiplied.
    """

    def __init__(self, authority: Authority, client: ClientProcess, slack: float) -> None:
        self._authority = authority
        self._client = client
        self._slack = slack
        self._played = 0

    async def play(self, vector: Vector) -> Result:
        """Play one vector; any behaviour of the client gives a result, never an exception."""
        began = time.monotonic()
        outcome, detail = "passed", ""
        fleet = Fleet(self._authority, vector.fleet)
        try:
            await fleet.open()
            await self._play(vector, fleet)
        except UnsupportedError as error:
            outcome, detail = "unsupported", str(error)
        except ClientFailedError as error:
            outcome, detail = "failed", str(error)
            await self._client.stop()  # the next vector starts a new process
        finally:
            await fleet.close()
        return Result(vector, outcome, detail, time.monotonic() - began)

    async def _play(self, vector: Vector, fleet: Fleet) -> None:
        self._played += 1
        await self._init(vector, fleet)
        for number, step in enumerate(vector.steps, 1):
            about = f"step {number} ({step['op']})"
            if problems := await self._step(vector, fleet, step):
                raise ClientFailedError("\n".join(f"{about}: {each}" for each in problems))
        await self._client.ask("close", {})

    async def _init(self, vector: Vector, fleet: Fleet) -> None:
        """Configure the client."""
        listed = [{"url": url, "priority": p} for p, url in enumerate(fleet.urls.values())]
        members = {
            "authority": str(self._authority.path),
            "policy": vector.policy,
            "api_endpoints": listed,
            "socketio_endpoints": [],
            "cache": f"{self._authority.path}.{id(self)}-{self._played}.json",
            **fleet.fill(vector.init),
        }
        answer = await self._client.ask("init", members)
        if "error" in answer:
            raise ClientFailedError(f"the client refuses init: {answer}")
        profile, optional = answer.get("profile", "minimal"), tuple(answer.get("optional", ()))
        if not vector.is_supported(profile, optional):
            await self._client.ask("close", {})
            about = f"the client declares {profile}, not {vector.profile}"
            raise UnsupportedError(f"not supported: {about}")

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
            observed = Observed(answer, fleet.seen[first:], seconds, fleet.urls)
            problems = list(judge(observed, expected, self._slack))
            if not problems or time.monotonic() > give_up:
                break
            await asyncio.sleep(_PAUSE)
        if problems:
            problems.append(f"the client answered {answer} after {seconds:.3f} s")
            seen = (f"{each.endpoint} {each.method} {each.path}" for each in observed.seen)
            problems.append(f"the fleet saw: {'; '.join(seen) or 'nothing'}")
        return problems
