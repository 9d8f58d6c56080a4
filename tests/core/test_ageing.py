"""The dictionary that forgets: by age, and the oldest when it is full."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tunowner.core.ageing import Ageing

LIMIT, AGE = 4, 10.0


def test_an_entry_is_gone_at_its_age() -> None:
    table = Ageing[str, int](LIMIT, AGE)
    table.put("a", 1, 100.0)
    assert table.get("a", 109.9) == 1
    assert table.get("a", 110.0) is None
    assert table.get("b", 100.0) is None


def test_putting_again_makes_it_young() -> None:
    table = Ageing[str, int](LIMIT, AGE)
    table.put("a", 1, 100.0)
    table.put("a", 2, 105.0)
    assert table.get("a", 114.0) == 2
    assert len(table) == 1


def test_the_oldest_goes_when_it_is_full() -> None:
    table = Ageing[int, int](LIMIT, AGE)
    for key in range(LIMIT + 1):
        table.put(key, key, 100.0)
    assert 0 not in table
    assert len(table) == LIMIT


def test_what_is_over_takes_no_room_after_the_next_put() -> None:
    table = Ageing[int, int](LIMIT, AGE)
    table.put(1, 1, 100.0)
    table.put(2, 2, 110.0)
    assert 1 not in table
    assert len(table) == 1


STEPS = st.lists(st.tuples(st.sampled_from(["put", "get"]), st.integers(0, 6), st.floats(0.0, 4.0)))


@given(STEPS)
def test_it_answers_as_a_list_of_all_puts_does(steps: list[tuple[str, int, float]]) -> None:
    now = 100.0
    puts: list[tuple[int, float, int]] = []
    table = Ageing[int, int](LIMIT, AGE)
    for number, (step, key, pause) in enumerate(steps):
        now += pause
        if step == "put":
            table.put(key, number, now)
            others = [put for put in puts if put[0] != key and now - put[1] < AGE]
            puts = [*others, (key, now, number)][-LIMIT:]
        alive = {at: value for at, time, value in puts if now - time < AGE}
        assert table.get(key, now) == alive.get(key)
