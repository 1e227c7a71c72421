"""The ring buffer keeps order and never exceeds its capacity."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.gateway.speech.ring_buffer import RingBuffer


@given(
    capacity=st.integers(1, 64),
    moves=st.lists(st.tuples(st.booleans(), st.integers(0, 100)), max_size=80),
)
@settings(max_examples=200)
def test_it_is_a_queue_with_a_limit(capacity: int, moves: list[tuple[bool, int]]) -> None:
    ring, model, written = RingBuffer(capacity), list[float](), 0
    for is_write, count in moves:
        if is_write:
            samples = np.arange(written, written + count, dtype=np.float32)
            taken = ring.write(samples)
            assert taken == min(count, capacity - len(model))
            model += samples[:taken].tolist()
            written += taken
        else:
            assert ring.read(count).tolist() == model[:count]
            model = model[count:]
        assert ring.level == len(model)
        assert ring.space == capacity - len(model)
        assert ring.level <= ring.capacity == capacity


def test_what_was_read_does_not_change_when_the_ring_is_written_again() -> None:
    ring = RingBuffer(4)
    ring.write(np.ones(4, np.float32))
    taken = ring.read(4)
    ring.write(np.zeros(4, np.float32))
    assert taken.tolist() == [1, 1, 1, 1]
