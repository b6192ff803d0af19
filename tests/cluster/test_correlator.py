"""What is told as an Event, and when: a clock that tests turn."""

from __future__ import annotations

from allocator.cluster.correlator import (
    BURST,
    MOST_SERIES,
    REPEAT_SECONDS,
    WRITES_PER_SECOND,
    EventCorrelator,
    EventSeries,
    ObjectEvent,
    Subject,
)


def event(
    pod: str = "web-0", reason: str = "Conflict", note: str = "8080/TCP is held twice", kind: str = ""
) -> ObjectEvent:
    subject = Subject(api_version="v1", kind="Pod", namespace="demo", name=pod, uid=f"uid-{pod}")
    return ObjectEvent(subject=subject, reason=reason, action="Observe", note=note, kind=kind)


def write(correlator: EventCorrelator, now: float) -> list[tuple[str, int, int]]:
    """Writes what is due: for each the Pod, how often it was seen, how often it was told before."""
    written = []
    for series in correlator.due(now):
        written.append((series.event.subject.name, series.count, series.told))
        correlator.written(series, series.count, series.event.note, now)
    return written


def test_the_first_is_told_at_once_and_repetitions_are_gathered_for_a_minute() -> None:
    correlator = EventCorrelator()
    for now in (0.0, 0.1, 0.2):
        correlator.add(event(), now)
    assert write(correlator, 1.0) == [("web-0", 3, 0)]

    correlator.add(event(), 2.0)
    assert write(correlator, REPEAT_SECONDS) == []
    assert correlator.has_pending()
    assert write(correlator, 1.0 + REPEAT_SECONDS) == [("web-0", 4, 3)]
    assert not correlator.has_pending()


def test_other_words_make_another_event_that_counts_from_one() -> None:
    correlator = EventCorrelator()
    correlator.add(event(note="held by a"), 0.0)
    write(correlator, 0.0)
    (first,) = correlator._series.values()
    name = first.name

    correlator.add(event(note="held by b"), 10.0)

    assert write(correlator, REPEAT_SECONDS) == [("web-0", 1, 0)]
    assert (first.name != name, first.first) == (True, 10.0)


def test_what_has_a_kind_is_one_event_whatever_its_words() -> None:
    correlator = EventCorrelator()
    for number in range(100):
        correlator.add(event(note=f"80 is {number} now", kind="OLD_NUMBER"), 0.0)
    correlator.add(event(note="80 moved", kind="PORT_MOVED"), 0.0)
    assert write(correlator, 0.0) == [("web-0", 100, 0), ("web-0", 1, 0)]

    correlator.add(event(note="80 is 100 now", kind="OLD_NUMBER"), 1.0)

    assert write(correlator, REPEAT_SECONDS) == [("web-0", 101, 100)]
    assert [one.event.note for one in correlator._series.values()] == ["80 moved", "80 is 0 now"]


def test_the_name_of_an_event_with_a_kind_follows_from_owner_and_kind() -> None:
    names = [[one.name for one in _told("OLD_NUMBER", "PORT_MOVED")] for _ in range(2)]

    assert names[0] == names[1]
    assert len(set(names[0])) == 2


def _told(*kinds: str) -> list[EventSeries]:
    correlator = EventCorrelator()
    for kind in kinds:
        correlator.add(event(kind=kind), 0.0)
    return list(correlator.due(0.0))


def test_reasons_of_one_pod_are_apart() -> None:
    correlator = EventCorrelator()
    correlator.add(event(reason="Conflict"), 0.0)
    correlator.add(event(reason="Unplaceable"), 0.0)

    assert len(write(correlator, 0.0)) == 2


def test_a_bad_day_is_told_slowly() -> None:
    correlator = EventCorrelator()
    for at in range(500):
        correlator.add(event(f"web-{at}"), 0.0)

    assert len(write(correlator, 0.0)) == BURST
    assert len(write(correlator, 1.0)) == WRITES_PER_SECOND
    assert len(write(correlator, 1000.0)) == BURST


def test_what_is_remembered_is_bounded_and_what_has_no_room_is_dropped() -> None:
    correlator = EventCorrelator()
    assert all(correlator.add(event(f"web-{at}"), 0.0) for at in range(MOST_SERIES))
    assert not correlator.add(event("one-too-many"), 0.0)

    write(correlator, 0.0)

    assert correlator.add(event("one-too-many"), 1.0)
