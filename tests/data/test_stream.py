"""Canvases decoded on demand are those of a store; blocks are shuffled as a pure function."""

import itertools
import threading
import time
import weakref
from collections import Counter

import numpy as np
import pytest

from tutelage.data import stream
from tutelage.data.stream import StreamedImages, windowed

SIDE, COUNT = 4, 50
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)


class Decoder:
    """Gives the canvases of ``PIXELS`` and counts; those of ``broken`` rows fail."""

    def __init__(self, broken=()):
        self.decoded, self.broken, self.lost = Counter(), set(broken), {}

    def __call__(self, row):
        self.decoded[row] += 1
        if row in self.broken:
            return np.zeros_like(PIXELS[0]), 1.0, "is damaged"
        return PIXELS[row], 1.0, ""

    def images(self):
        return StreamedImages(self, COUNT, SIDE, lambda row, why: self.lost.update({row: why}))


def parts(count=20, size=4, seed=0, n=COUNT):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, n, size) for _ in range(count)]


@pytest.fixture
def small(monkeypatch):
    """Buffers of ten canvases."""
    monkeypatch.setattr(stream, "BUFFER", 10 * SIDE * SIDE * 3)


@pytest.fixture(params=[True, False], ids=["meanwhile", "in turn"])
def meanwhile(request):
    return request.param


@pytest.fixture
def made(monkeypatch):
    """Weak references to every buffer that is made."""
    found = []
    fill = StreamedImages._fill

    def kept(self, plan, stop):
        filled = fill(self, plan, stop)
        if filled is not None:
            found.append(weakref.ref(filled[1][1]))
        return filled

    monkeypatch.setattr(StreamedImages, "_fill", kept)
    return found


# --- the place of a memory map


@pytest.mark.parametrize(
    "key",
    [
        *(3, -1, np.int64(7), slice(None), slice(5, 2), slice(40, None, 3)),
        *([4, 1], (np.array([3, 9]), slice(1, 4, 2), slice(None, 2))),
        *(np.array([3, 3, 0]), np.array([-1, 4]), np.arange(0), np.arange(COUNT) % 7 == 0),
    ],
    ids=str,
)
def test_it_is_indexed_as_a_memory_map_is(key):
    images = Decoder().images()
    np.testing.assert_array_equal(images[key], PIXELS[key])
    assert images[key].dtype == images.dtype == np.uint8
    assert images.shape == PIXELS.shape
    assert len(images) == COUNT


@pytest.mark.parametrize("key", [COUNT, -COUNT - 1, np.array([0, COUNT]), np.array([-COUNT - 1])])
def test_a_row_that_is_not_there_is_an_error(key):
    with pytest.raises(IndexError):
        Decoder().images()[key]


def test_what_is_handed_out_is_a_copy(small, meanwhile):
    images, batches = Decoder().images(), [np.arange(3)] * 3
    for rows, _ in zip(batches, images.ahead(batches, meanwhile=meanwhile), strict=True):
        images[rows][:] = 0
        np.testing.assert_array_equal(images[rows], PIXELS[:3])


def test_an_image_that_fails_is_black_and_named():
    decoder = Decoder(broken=[2])
    found = decoder.images()[np.array([1, 2])]
    np.testing.assert_array_equal(found, [PIXELS[1], np.zeros_like(PIXELS[0])])
    assert decoder.lost == {2: "is damaged"}


# --- ahead


def test_what_is_ahead_is_the_same_and_decoded_once_in_a_buffer(small, meanwhile):
    decoder = Decoder()
    images, batches = decoder.images(), parts()
    for rows, _ in zip(batches, images.ahead(batches, meanwhile=meanwhile), strict=True):
        before = decoder.decoded.copy()
        np.testing.assert_array_equal(images[rows], PIXELS[rows])
        assert all(decoder.decoded[row] - before[row] == 0 for row in {*rows} & {*before})
    assert sum(decoder.decoded.values()) < sum(map(len, batches))


def test_few_images_are_decoded_once(small, meanwhile):
    decoder = Decoder()
    rng = np.random.default_rng(0)
    images, batches = decoder.images(), [rng.permutation(5) for _ in range(60)]
    for rows, _ in zip(batches, images.ahead(batches, meanwhile=meanwhile), strict=True):
        images[rows]
    assert set(decoder.decoded.values()) == {1}


def test_buffers_grow_to_the_limit(small):
    sizes = [len(rows) for _, rows in Decoder().images()._plan(np.arange(1000).reshape(-1, 1))]
    assert sizes[:5] == [1, 2, 4, 8, 10]
    assert max(sizes) == 10
    assert sum(sizes) == 1000


def test_a_batch_beyond_the_limit_is_a_buffer_of_its_own(small):
    batches = parts(count=3, size=25)
    assert [count for count, _ in Decoder().images()._plan(batches)] == [1, 1, 1]


def test_at_most_two_buffers_are_in_memory(small, made, meanwhile):
    images = Decoder().images()
    most = 0
    ahead = images.ahead(itertools.cycle(parts()), meanwhile=meanwhile)
    for _ in itertools.islice(ahead, 60):
        time.sleep(0.003)  # for the thread to be ahead
        most = max(most, sum(ref() is not None for ref in made))
    assert len(made) > 20
    assert most == (2 if meanwhile else 1)
    ahead.close()
    assert not any(ref() is not None for ref in made)


def test_the_next_buffer_is_filled_while_one_is_used(small):
    arrived = threading.Event()
    decoder = Decoder()

    def squash(row):
        if row == 7:
            arrived.set()
        return decoder(row)

    images = StreamedImages(squash, COUNT, SIDE, lambda *_: None)
    ahead = images.ahead([np.array([row]) for row in range(20)], meanwhile=True)
    for _ in range(2):  # buffers of rows 0; 1, 2; 3 to 6; 7 to 14
        next(ahead)
    assert not arrived.wait(0.05)
    for _ in range(2):
        next(ahead)
    assert arrived.wait(10), "row 7 should be decoded while 3 to 6 are used"
    ahead.close()


def test_in_turn_nothing_is_decoded_while_a_buffer_is_used(small):
    decoder = Decoder()
    ahead = decoder.images().ahead([np.array([row]) for row in range(20)], meanwhile=False)
    next(ahead)
    assert set(decoder.decoded) == {0}
    next(ahead)
    time.sleep(0.01)
    assert set(decoder.decoded) == {0, 1, 2}
    ahead.close()


def test_closing_ends_the_thread(small):
    before = threading.active_count()
    decoder = Decoder()
    images = decoder.images()
    images[np.arange(COUNT)]  # the decoding threads are there to stay
    pool = threading.active_count()
    ahead = images.ahead(itertools.cycle(parts()), meanwhile=True)
    next(ahead)
    assert threading.active_count() > pool >= before
    ahead.close()
    assert threading.active_count() == pool
    assert images._held is None


def test_a_second_one_meanwhile_holds_nothing(small, made, meanwhile):
    images = Decoder().images()
    outer = images.ahead([np.arange(5)], meanwhile=meanwhile)
    next(outer)
    fills = len(made)
    for rows, _ in zip(parts(), images.ahead(parts(), meanwhile=meanwhile), strict=False):
        np.testing.assert_array_equal(images[rows], PIXELS[rows])
    assert len(made) == fills
    outer.close()
    next(images.ahead(parts(), meanwhile=meanwhile))
    assert len(made) > fills


def test_an_error_of_the_decoder_reaches_who_waits(meanwhile):
    def squash(row):
        raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        next(
            StreamedImages(squash, COUNT, SIDE, lambda *_: None).ahead(parts(), meanwhile=meanwhile)
        )


# --- the order


SIZES = [(1, 1), (7, 3), (1000, 64), (1000, 999), (50_000, 3200), (4999, 3200)]


@pytest.mark.parametrize(("n", "window"), SIZES)
def test_every_pass_is_a_permutation(n, window):
    for seed in range(3):
        order = windowed(n, window, (seed, 0), np.arange(n))
        assert sorted(order) == list(range(n))


def test_any_entry_can_be_had_without_those_before_it():
    whole = windowed(5000, 640, (1, 2), np.arange(5000))
    stream._shuffled.cache_clear()
    some = np.random.default_rng(0).permutation(5000)[:200]
    np.testing.assert_array_equal(windowed(5000, 640, (1, 2), some), whole[some])


def test_seeds_and_passes_differ_and_the_same_seed_does_not():
    orders = [windowed(500, 64, seed, np.arange(500)) for seed in [(0, 0), (0, 1), (1, 0)]]
    assert not any(np.array_equal(a, b) for a, b in itertools.combinations(orders, 2))
    stream._windows.cache_clear()
    stream._shuffled.cache_clear()
    np.testing.assert_array_equal(windowed(500, 64, (0, 1), np.arange(500)), orders[1])


@pytest.mark.parametrize(("n", "window"), SIZES)
def test_a_window_is_whole_blocks_and_no_larger_than_asked_for(n, window):
    blocks, ends = stream._windows(n, window, (0,))
    sizes = np.diff([0, *ends])
    assert sizes.max() <= window
    assert ends[-1] == n
    assert sizes.min() >= min(n, window) // 3  # none is so short that it mixes little
    order = windowed(n, window, (0,), np.arange(n))
    block = stream._block(window)
    for part, begin, end in zip(blocks, [0, *ends], ends, strict=False):
        expected = {p for b in part for p in range(b * block, min(n, (b + 1) * block))}
        assert {*order[begin:end]} == expected


def test_a_window_joins_many_places_and_mixes_them():
    n, window = 100_000, 6400
    order = windowed(n, window, (0,), np.arange(n))
    (size, *_) = stream._windows(n, window, (0,))[1]
    places = np.unique(order[:size] // 50)
    assert len(places) == size // 50 > 100
    assert np.ptp(places) > 1800  # of 2,000: from all over the data
    neighbours = np.abs(np.diff(order[:size].astype(int))) == 1
    assert neighbours.mean() < 0.01


def test_an_entry_of_a_huge_pass_costs_little():
    order = windowed(10**9, 10**5, (0,), np.array([0, 10**9 - 1]))
    assert len({*order}) == 2
