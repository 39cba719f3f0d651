"""In which order workers have seen the texts of a source without dates."""

from hypothesis import given
from hypothesis import strategies as st

from mop_config.server.state.sightings import Seen, Sighting


def after(*sightings: tuple[int, str, float, float]) -> tuple[list[float], list[Seen]]:
    """What each of (number, digest, began, now) is told, and what is known in the end."""
    seen: list[Seen] = []
    told = []
    for number, digest, began, now in sightings:
        at, seen = Sighting(number, digest, began).among(seen, now)
        told.append(at)
    return told, seen


def test_a_text_counts_from_its_first_sight() -> None:
    """Whoever comes later is told the same."""
    told, seen = after((5, "a", 1.0, 1.1), (5, "a", 1.05, 1.2), (5, "a", 9.0, 9.1))
    assert told == [1.1, 1.1, 1.1]
    assert seen == [Seen(5, "a", 1.1)]


def test_a_slow_worker_is_not_taken_for_a_restore() -> None:
    """It has read before the newer text was seen: its text is older, new to us or not."""
    told, seen = after((5, "a", 1.0, 1.1), (7, "c", 2.0, 2.1), (6, "b", 1.9, 2.2))
    assert 1.1 < told[2] < told[1] == 2.1
    assert [one.number for one in seen] == [5, 6, 7]
    told, seen = after((5, "a", 1.0, 1.1), (7, "c", 2.0, 2.1), (5, "a", 1.9, 2.2))
    assert told == [1.1, 2.1, 1.1]
    assert len(seen) == 2


def test_a_restore_is_news() -> None:
    """What was read after the newer text was seen is newer, whatever its number."""
    told, seen = after(
        (5, "a", 1.0, 1.1),
        (7, "c", 2.0, 2.1),
        (5, "a", 3.0, 3.1),  # restored
        (5, "a", 3.05, 3.2),  # another worker finds it so
        (6, "d", 4.0, 4.1),  # a number that was used before, for another text
        (7, "e", 5.0, 5.1),
    )
    assert told == [1.1, 2.1, 3.1, 3.1, 4.1, 5.1]
    assert [one.number for one in seen] == [5, 7, 5, 6, 7]


def test_a_clock_that_is_set_back() -> None:
    """The order stays."""
    told, _ = after((5, "a", 100.0, 100.1), (6, "b", 200.0, 50.0))
    assert told[1] > told[0]


@given(st.permutations(range(6)))
def test_any_order_of_arrival_gives_the_order_of_reading(order: list[int]) -> None:
    """Six workers that have read while nobody had noted anything yet."""
    _, seen = after(*((number, "x", 1.0, 10.0 + i) for i, number in enumerate(order)))
    assert [one.number for one in seen] == sorted(order)
    assert [one.at for one in seen] == sorted({one.at for one in seen})
