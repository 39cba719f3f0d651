"""The cases of the simulated fleet."""

from mop_config.client.pool.policy import Policy
from mop_config.net.faults import Fault

from .fleet_client import Habits
from .fleet_polls import Polling
from .fleet_run import AMPLE, DEATH, FLEET, Case
from .fleet_world import Costs

NO_RACE = Policy(race_delay=1e6)
NO_HEDGE = Policy(hedge_delay=1e6)
NEITHER = Policy(race_delay=1e6, hedge_delay=1e6)
NO_BUDGET = Policy(attempt_cost=0.0)
TIGHT_BUDGET = Policy(budget=10.0)
NO_DWELLING = Policy(min_dwell=0.0)
SLOW_PROBES = Policy(first_backoff=30.0)

OURS = Habits(Policy())
BLACK_HOLE = Fault.CONNECT_TIMEOUT
USUAL = FLEET / OURS.think

RECOVERY: dict[str, Case] = {
    "killed; defaults": Case(OURS, until=120.0),
    "black hole; defaults": Case(OURS, BLACK_HOLE, until=120.0),
    "black hole; no hedging": Case(Habits(NO_HEDGE), BLACK_HOLE, until=120.0),
    "black hole; no racing": Case(Habits(NO_RACE), BLACK_HOLE, until=120.0),
    "black hole; neither": Case(Habits(NEITHER), BLACK_HOLE, until=120.0),
}

#: Clients with long-lived connections, so that spare connections have ended and been replaced.
SPARES: dict[str, Case] = {
    name: Case(Habits(policy), until=60.0, born_within=290.0, warm_up=DEATH)
    for name, policy in {"default": Policy(), "warm_spare": Policy(warm_spare=True)}.items()
}

#: Capacity of a backup (1: the fleet's requests), and cost of a TLS handshake (1: a request).
ROOMS = (1.1, 1.3, 1.5, 2.0)
HANDSHAKES = (0.25, 0.5, 1.0)

#: A backup with capacity for the load but not for all handshakes at once, and two backups
#: that together have too little capacity.
SHORT: dict[str, Case] = {
    "one with 1.2": Case(OURS, capacity=(AMPLE, 1.2), costs=Costs(handshake=1.0), until=120.0),
    "two with 0.45": Case(OURS, capacity=(AMPLE, 0.45, 0.45), priorities=(0, 1, 1), until=120.0),
}
REACTIONS: dict[str, tuple[Policy, float | None]] = {
    "defaults": (Policy(), None),
    "no budget": (NO_BUDGET, None),
    "budget=10": (TIGHT_BUDGET, None),
    "no hedging": (NO_HEDGE, None),
    "first_backoff=30": (SLOW_PROBES, None),
    "503 with Retry-After: 10": (Policy(), 10.0),
}

RETURN: dict[str, Case] = {
    "each in its time; defaults": Case(OURS, back=120.0, until=300.0),
    "each in its time; no jitter": Case(Habits(Policy(), chance=False), back=120.0, until=300.0),
    "each in its time; no dwelling": Case(Habits(NO_DWELLING), back=120.0, until=300.0),
    "in step; defaults": Case(Habits(Policy(), in_step=True), back=120.0, until=300.0),
    "in step; no jitter": Case(
        Habits(Policy(), in_step=True, chance=False), back=120.0, until=300.0
    ),
}

POLLS: dict[str, Polling] = {
    "every 60 s": Polling(60.0),
    "every 5 min": Polling(300.0),
    "every hour (default)": Polling(3600.0),
    "every hour, started together": Polling(3600.0, together=True),
    "every hour, started together, no jitter": Polling(3600.0, together=True, jitter=0.0),
    "long poll": Polling(46.5, held=True),
    "long poll, places for half": Polling(46.5, held=True, places=0.5, workers=50),
}
