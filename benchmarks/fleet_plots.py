"""The plots of docs/scale.md, drawn from the results of a full run of the fleet."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot
from matplotlib.axes import Axes

from .fleet_polls import Polls
from .fleet_run import DEATH, FLEET, Seen

Polled = Mapping[str, Polls]

FOLDER = Path(__file__).parent.parent / "docs" / "scale"
_STYLES = ("-", "--", "-.", ":", (0, (1, 3)))


def draw(
    of_death: Mapping[str, Seen],
    of_spares: Mapping[str, Seen],
    of_return: Mapping[str, Seen],
    polls: Polled,
) -> None:
    """Write all plots."""
    mpl.use("Agg")
    FOLDER.mkdir(parents=True, exist_ok=True)
    _waits(of_death)
    _backup(of_death)
    _spares(of_spares)
    _herd(of_return)
    _told(polls)
    _asked(polls)


def _axes(title: str, x: str, y: str) -> Axes:
    axes: Axes = pyplot.subplots(figsize=(7.5, 3.8), dpi=100, layout="constrained")[1]
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    return axes


def _save(axes: Axes, name: str, legend: str = "best") -> None:
    axes.legend(fontsize=8, loc=legend)
    pyplot.savefig(FOLDER / f"{name}.png")
    pyplot.close()


def _share(values: Sequence[float], of: int) -> list[float]:
    return [100 * (number + 1) / of for number in range(len(values))]


def _waits(seen: Mapping[str, Seen]) -> None:
    axes = _axes(
        "The first request after the primary's death", "seconds until its answer", "% of clients"
    )
    for (name, each), style in zip(seen.items(), _STYLES, strict=False):
        waits = sorted(each.tally.waits)
        axes.step(
            [0.05, *waits], [0.0, *_share(waits, each.tally.hit)], linestyle=style, label=name
        )
    axes.set_xscale("log")
    axes.set_xticks([0.1, 0.2, 0.5, 1, 2, 5], labels=["0.1", "0.2", "0.5", "1", "2", "5"])
    _save(axes, "waits")


def _series(seen: Seen, counts: Mapping[int, float], begin: int, end: int) -> list[float]:
    return [seen.scale * counts.get(int(DEATH) + second, 0) / 1000 for second in range(begin, end)]


def _backup(seen: Mapping[str, Seen]) -> None:
    axes = _axes(
        "What the backup gets when the primary is killed",
        "seconds from the death",
        "thousands a second",
    )
    each, seconds = seen["killed; defaults"], range(-10, 60)
    backup = each.sites[1]
    curves: dict[str, Mapping[int, float]] = {
        "requests": backup.requests,
        "new connections": backup.dials,
        "work (a request is 1)": backup.work,
    }
    for name, counts in curves.items():
        axes.step(seconds, _series(each, counts, -10, 60), where="post", label=name)
    axes.set_ylim(bottom=0)
    _save(axes, "backup", "center right")


def _spares(seen: Mapping[str, Seen]) -> None:
    figure, rows = pyplot.subplots(
        2, 1, figsize=(7.5, 5.2), dpi=100, sharex=True, layout="constrained"
    )
    figure.suptitle("The backup, with and without warm spares; the primary dies at 0", fontsize=11)
    seconds = range(-60, 60)
    for (name, each), style in zip(seen.items(), _STYLES, strict=False):
        held = [number / 1000 for number in each.connections(1, -60, 60)]
        dials = _series(each, each.sites[1].dials, -60, 60)
        rows[0].step(seconds, held, where="post", linestyle=style, label=name)
        rows[1].step(seconds, dials, where="post", linestyle=style, label=name)
    rows[0].set_ylabel("open connections,\nthousands")
    rows[1].set_ylabel("new connections,\nthousands/s")
    rows[1].set_xlabel("seconds from the death")
    for axes in rows:
        axes.grid(alpha=0.3)
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=8)
    pyplot.savefig(FOLDER / "spares.png")
    pyplot.close()


def _herd(seen: Mapping[str, Seen]) -> None:
    figure, rows = pyplot.subplots(
        2, 1, figsize=(7.5, 5.2), dpi=100, sharex=True, layout="constrained"
    )
    figure.suptitle("The primary dies at 0 and is back at 120 s", fontsize=11)
    for name in ("each in its time; defaults", "each in its time; no dwelling"):
        each = seen[name]
        counts = _series(each, each.sites[0].requests, -20, 240)
        rows[0].step(range(-20, 240), counts, where="post", label=name)
    for name in ("each in its time; defaults", "in step; defaults", "in step; no jitter"):
        each = seen[name]
        counts = _series(each, each.sites[0].probes, -20, 240)
        rows[1].step(range(-20, 240), counts, where="post", label=name)
    rows[0].set_ylabel("requests and health\nchecks, thousands/s")
    rows[1].set_ylabel("health checks,\nthousands/s")
    rows[1].set_xlabel("seconds from the death")
    rows[1].set_yscale("symlog", linthresh=10)
    for axes in rows:
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    pyplot.savefig(FOLDER / "return.png")
    pyplot.close()


def _told(polls: Polled) -> None:
    axes = _axes("Who has the new list", "seconds from the edit", "% of clients")
    for name in ("long poll", "long poll, places for half", "every 60 s", "every 5 min"):
        told = sorted(polls[name].told)
        axes.step([0.1, *told], [0.0, *_share(told, len(told))], label=name)
    hourly = sorted(polls["every hour (default)"].told)
    axes.step([0.1, *hourly], [0.0, *_share(hourly, len(hourly))], label="every hour (default)")
    axes.set_xscale("log")
    axes.set_xlim(0.3, 5000)
    _save(axes, "told", "upper left")


def _asked(polls: Polled) -> None:
    axes = _axes(
        "Questions for the list around an edit", "seconds from the edit", "thousands a second"
    )
    for name in ("long poll", "long poll, places for half", "every 60 s"):
        fleet = polls[name]
        scale = FLEET / fleet.size / 1000
        first = int(fleet.edited)
        counts = [scale * fleet.asked.get(first + second, 0) for second in range(-20, 75)]
        axes.step(range(-20, 75), counts, where="post", label=name)
    axes.set_ylim(bottom=0)
    _save(axes, "asked")
