"""The effect of a primary's death on a million clients and on the other servers.

A discrete-event simulation of the product's own client code; docs/scale.md lists the
assumptions and interprets the figures.
"""

import os
import time
from collections.abc import Iterator
from typing import Any

from mop_config.client.pool.policy import PROBES, Policy

from . import fleet_cases as cases
from .fleet_cases import BLACK_HOLE, OURS, USUAL
from .fleet_client import Habits
from .fleet_polls import Polls
from .fleet_run import AMPLE, DEATH, FLEET, Case, Seen, simulate
from .fleet_world import Costs
from .report import Report, options, percentile

#: Number of simulated clients: of each table, of the quick run, and of the table of sizes.
SIZE, QUICK = 3_000, 100
SIZES = (1_000, 5_000, 20_000, FLEET)

METHOD = (
    f" For {FLEET:,} clients with a request each {OURS.think:g} s on average: {USUAL:,.0f} requests"
    " a second are the usual load, and 1 in the columns of work; a TLS handshake counts as half"
    " a request, where nothing else is said. docs/scale.md says what else is assumed."
)


def _row(**cells: Any) -> dict[str, Any]:
    return {k: _rounded(v) if isinstance(v, float) else v for k, v in cells.items()}


def _rounded(value: float) -> float | str:
    if value == float("inf"):
        return "never"
    return round(value) if value >= 100 else round(value, 2)


def recovery(size: int) -> tuple[Report, dict[str, Seen]]:
    """Measure the recovery if the primary dies and the backup has enough capacity."""
    report = Report(
        "fleet: the primary dies",
        "One backup, with room for everything. Wait: seconds from a client's first request after"
        " the death until its first answer. Served: seconds from the death until so many of all"
        " clients have had an answer; most of it is the time until they ask. Requests, dials and"
        f" work: the backup's in its worst second. {size:,} clients simulated." + METHOD,
    )
    seen = {name: simulate(case, size) for name, case in cases.RECOVERY.items()}
    for name, each in seen.items():
        report.add(
            **_row(
                case=name,
                wait_p50=each.wait(50),
                wait_p99=each.wait(99),
                wait_p99_9=each.wait(99.9),
                served_50=each.served(50),
                served_99=each.served(99),
                served_99_9=each.served(99.9),
                failed_percent=each.failed,
                **each.most(0, 60),
            )
        )
    return report, seen


def spares(size: int) -> tuple[Report, dict[str, Seen]]:
    """Measure the load of the backup by warm spare connections."""
    report = Report(
        "fleet: a warm spare",
        "The primary is killed. Held is the number of open connections of clients to the backup"
        " before the death. Dials before is the mean number of new connections to the backup a"
        " second in the minute before it, health checks included, and work before is their"
        " mean work. Dials, work and wait are those of the first table. The backup ends an idle"
        f" connection after 75 s. {size:,} clients were simulated." + METHOD,
    )
    seen = {name: simulate(case, size) for name, case in cases.SPARES.items()}
    for name, each in seen.items():
        backup, most = each.sites[1], each.most(0, 60)
        report.add(
            **_row(
                policy=name,
                held=each.connections(1, -1, 0)[0],
                dials_before=each.mean(backup.dials, -60, 0),
                work_before=each.mean(backup.work, -60, 0) / USUAL,
                dials_s=most["dials_s"],
                work=most["work"],
                wait_p50=each.wait(50),
                wait_p99=each.wait(99),
                failed_percent=each.failed,
            )
        )
    return report, seen


def rooms(size: int) -> Report:
    """Measure the capacity that a backup needs."""
    report = Report(
        "fleet: room on the backup",
        "The primary is killed. Handshake: what a new TLS connection costs the backup, beside a"
        " request. Room: what it can do in a second, beside the usual requests. Failed: percent of"
        " the requests in two minutes, and in the last 30 s of them. Tries: endpoints that a"
        f" request went to. Probes: health checks of the backup in those 30 s, a second. {size:,}"
        " clients simulated." + METHOD,
    )
    for handshake in cases.HANDSHAKES:
        for room in cases.ROOMS:
            costs = Costs(handshake=handshake)
            seen = simulate(Case(OURS, capacity=(AMPLE, room), costs=costs, until=120.0), size)
            report.add(handshake=handshake, room=room, **_row(**_shortage(seen)))
    return report


def _shortage(seen: Seen) -> dict[str, float]:
    late = sum(n for second, n in seen.tally.failed_in.items() if second >= DEATH + 90)
    return {
        "wait_p50": seen.wait(50),
        "wait_p99": seen.wait(99),
        "failed_percent": seen.failed,
        "failed_late": 100 * late / (seen.size * 30 / seen.think),
        "tries": seen.tally.tries / max(1, seen.tally.asked_since),
        "probes_s": max(seen.mean(site.probes, 90, 120) for site in seen.sites[1:]),
    }


def short(size: int) -> Report:
    """Compare the remedies if the backups have too little capacity."""
    report = Report(
        "fleet: too little room",
        "The primary is killed. One backup with room for 1.2 of the usual requests, where a"
        " handshake costs as much as a request, is overrun by those who come to it, and could"
        " then bear the load; two with 0.45 each, where it costs half as much, cannot. No budget:"
        " every further attempt is free; budget=10: two of them, where the default allows 100."
        " Retry-After: what the backup turns away gets it. Columns as in the table above."
        f" {size:,} clients simulated." + METHOD,
    )
    for backups, case in cases.SHORT.items():
        for name, (policy, retry_after) in cases.REACTIONS.items():
            costs = case.costs._replace(retry_after=retry_after)
            seen = simulate(case._replace(habits=Habits(policy), costs=costs), size)
            report.add(backups=backups, case=name, **_row(**_shortage(seen)))
    return report


def order(size: int) -> Report:
    """Compare two backups in order of priority with two backups of equal priority."""
    report = Report(
        "fleet: two backups, in a row or side by side",
        "The primary is killed. In a row: priorities 0, 1, 2; side by side: 0, 1, 1. Room: of each"
        f" backup, beside the usual work. {size:,} clients simulated." + METHOD,
    )
    for room in (0.8, 1.1, 1.5, 2.0):
        for name, last in {"in a row": 2, "side by side": 1}.items():
            case = Case(OURS, capacity=(AMPLE, room, room), priorities=(0, 1, last), until=120.0)
            seen = simulate(case, size)
            shares = [seen.mean(site.requests, 90, 120) / USUAL for site in seen.sites[1:]]
            report.add(
                **_row(
                    room=room,
                    backups=name,
                    **_shortage(seen),
                    first_gets=shares[0],
                    second_gets=shares[1],
                )
            )
    return report


def returning(size: int) -> tuple[Report, dict[str, Seen]]:
    """Measure the return of clients to a primary that is back after two minutes."""
    report = Report(
        "fleet: the primary returns",
        "It was killed, and is back after 120 s. Probes: health checks of it in a second, at most,"
        " while it is dead and in the 40 s after its return; each is a handshake and a small"
        " request. Dials and work: its worst second from the return on. Home: seconds from the"
        " return until it has 50 and 99 % of its usual requests again. In step: all clients ask in"
        f" the same second, every {OURS.think:g} s. {size:,} clients simulated." + METHOD,
    )
    seen = {name: simulate(case, size) for name, case in cases.RETURN.items()}
    for name, each in seen.items():
        primary, back = each.sites[0], 120.0
        report.add(
            **_row(
                case=name,
                probes_s_dead=each.peak(primary.probes, 0, back),
                probes_s_back=each.peak(primary.probes, back, back + 40),
                dials_s=each.peak(primary.dials, back, 300),
                work=each.peak(primary.work, back, 300) / USUAL,
                home_50=_home(each, back, 0.5),
                home_99=_home(each, back, 0.99),
                failed_percent=each.failed,
            )
        )
    return report, seen


def _home(seen: Seen, back: float, share: float) -> float:
    """Return the seconds until a share of the usual requests of a period is back at the primary."""
    primary, period = seen.sites[0], int(seen.think)
    for second in range(int(back), 290):
        asked = seen.mean(primary.requests, second, second + period)
        probes = seen.mean(primary.probes, second, second + period)
        # The figure of one period varies by chance.
        if asked - probes >= share * USUAL * (1 - 2 / (seen.size**0.5)):
            return second - back
    return float("inf")


def quiet(size: int) -> Report:
    """Measure health checks without a fault, of clients that started together."""
    report = Report(
        "fleet: health checks in quiet times",
        "All clients start within one second, such as after a power cut, and ask nothing. Probes"
        " in a second that each endpoint gets at most: at the start, in the first hour without"
        f" it, and in the minutes after that hour. {size:,} clients simulated." + METHOD,
    )
    for name, chance in {"defaults": True, "no jitter": False}.items():
        habits = Habits(Policy(), chance=chance)
        case = Case(habits, until=3900.0, asking=False, born_within=1.0, fault=BLACK_HOLE)
        backup = simulate(case, size).sites[1]
        scale = FLEET / size
        rates = [backup.probes.get(second, 0) * scale for second in range(4260)]
        report.add(
            **_row(
                case=name,
                at_start=max(rates[:60]),
                first_hour=max(rates[60:3600]),
                after_an_hour=max(rates[3600:4200]),
                mean=sum(rates[600:4200]) / 3600,
            )
        )
    return report


def probing(size: int) -> Report:
    """Measure the number of health checks for each value of ``Policy.probe``."""
    report = Report(
        "fleet: health checks by Policy.probe",
        "Ten endpoints, one priority each. Quiet: health checks in a second, of all endpoints"
        " together, while all is well and clients ask nothing. Dead: the same in the time from 20"
        f" to 60 s after the primary is killed, while clients ask. {size:,} clients simulated."
        + METHOD,
    )
    for probe in PROBES:
        case = Case(Habits(Policy(probe=probe)), capacity=(AMPLE,) * 10, priorities=range(10))
        well = simulate(case._replace(asking=False, back=0.0, until=900.0), size)
        dead = simulate(case, size)
        report.add(
            **_row(
                probe=probe,
                quiet_s=sum(well.mean(site.probes, 300, 900) for site in well.sites),
                dead_s=sum(dead.mean(site.probes, 20, 60) for site in dead.sites),
                failed_percent=dead.failed,
            )
        )
    return report


def sizes(quick: bool) -> Report:
    """Measure how the number of simulated clients changes the figures."""
    report = Report(
        "fleet: what the number of simulated clients changes",
        "30 s of two cases. Black hole: one backup with room for everything. Overrun: the primary"
        " is killed, and two backups have room for 0.45 each, so that clients feel each other."
        " Sites are as much smaller as the fleet is. Seconds: of one core, here; the whole fleet"
        " takes 5 GB as well, so that only FLEET_WHOLE=1 in the environment asks for it.",
    )
    chosen_cases = {
        "black hole": (cases.RECOVERY["black hole; defaults"], SIZES),
        "overrun": (cases.SHORT["two with 0.45"], SIZES[:-1]),
    }
    for name, (case, chosen) in chosen_cases.items():
        for size in chosen[:1] if quick else chosen:
            if size == FLEET and not os.environ.get("FLEET_WHOLE"):
                continue
            began = time.process_time()
            seen = simulate(case._replace(until=30.0), size)
            report.add(
                **_row(
                    case=name,
                    clients=size,
                    wait_p50=seen.wait(50),
                    wait_p99=seen.wait(99),
                    failed_percent=seen.failed,
                    **seen.most(0, 30),
                    tries=seen.tally.tries / seen.tally.asked_since,
                    seconds=time.process_time() - began,
                )
            )
    return report


def polls(size: int) -> tuple[Report, dict[str, Polls]]:
    """Measure the cost of polling for the list."""
    report = Report(
        "fleet: asking for the list",
        "Usual: questions a second once all have started; worst: in the worst second before the"
        " edit (of those that start together, after their first second); after: in the worst"
        " second of the 30 s after an edit; again: in the worst one later. Told:"
        " seconds from the edit until so many clients have the new"
        " list. Turned away: long polls a second without a place. 100 workers with 300 µs for an"
        f" answer, or as said. {size:,} clients simulated, for {FLEET:,}.",
    )
    found: dict[str, Polls] = {}
    for name, polling in cases.POLLS.items():
        found[name] = fleet = Polls(polling, size, FLEET)
        fleet.run(1.2 * polling.interval + 30)
        edited, scale = int(fleet.edited), FLEET / size
        before = [fleet.asked.get(s, 0) for s in range(int(edited - polling.interval), edited)]
        worst = [fleet.asked.get(s, 0) for s in range(3, edited)]
        after = [fleet.asked.get(s, 0) for s in range(edited, edited + 30)]
        again = [fleet.asked.get(s, 0) for s in range(edited + 30, int(fleet.ends))]
        report.add(
            **_row(
                way=name,
                usual_s=scale * sum(before) / len(before),
                worst_s=scale * float(max(worst)),
                after_s=scale * float(max(after)),
                again_s=scale * float(max(again)),
                told_50=percentile(fleet.told, 50),
                told_99=percentile(fleet.told, 99),
                told_all=max(fleet.told) if len(fleet.told) == size else float("inf"),
                turned_away_s=scale
                * sum(fleet.turned_away.get(s, 0) for s in range(edited - 50, edited))
                / 50,
            )
        )
    return report, found


def reports(quick: bool) -> Iterator[Report]:
    """Run all benchmarks of this file; a full run also draws the plots of docs/scale.md."""
    size = QUICK if quick else SIZE
    dies, of_death = recovery(size)
    yield dies
    spare, of_spares = spares(size)
    yield spare
    yield rooms(size)
    yield short(size)
    yield order(size)
    returns, of_return = returning(size)
    yield returns
    yield quiet(size)
    yield probing(size)
    asking, of_polls = polls(size)
    yield asking
    yield sizes(quick)
    if not quick:
        from . import fleet_plots

        fleet_plots.draw(of_death, of_spares, of_return, of_polls)


if __name__ == "__main__":
    for finished in reports(options(__doc__ or "").quick):
        finished.print()
