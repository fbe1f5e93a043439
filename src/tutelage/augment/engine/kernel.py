"""The CPU kernel: one image at a time, compiled by numba, without the GIL.

It does what ``reference`` does, in this order: it compiles the tables, reads the needed part of the
canvas once through them into packed pixels, warps that row by row, and writes each row once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tutelage.augment.engine.kernel_colors import compile_tables, pack
from tutelage.augment.engine.reference import MOST_SAMPLES, POINT
from tutelage.augment.engine.simd import (
    BLOCK,
    add_tap,
    bilinear,
    convolve,
    count_up,
    four_taps,
    stream_channel,
    take_channel,
    three_taps,
    two_taps,
)

Array = NDArray[Any]
Line = tuple[float, float, float]

# Bytes of views that a cache may hold. Larger batches are written past the caches, as the processor
# would first read what is overwritten: two threads are 4 to 25% faster, smaller batches 20% slower.
CACHED = 2**25
_ZERO, _TOP = np.float32(0.0), np.float32(255.0)

_compiled = njit(nogil=True, cache=True)
# Functions called once a row are inlined: passing a dozen arrays would cost as much as their work.
_inline = njit(nogil=True, forceinline=True)


@_compiled
def render(
    images: Array,
    matrix: Array,  # float64 (B, 2, 3)
    upright: Array,  # bool (B,): views made by weights along rows and columns
    samples: Array,  # (B,) samples along each side of an output pixel, of the other views
    ops: Array,
    amounts: Array,
    color: Array,
    stencil: Array,
    window: Array,
    erase: Array,
    fill: Array,
    scale: Array,  # (3,) factor of a view's value 0..255
    shift: Array,  # (3,) what is added after that
    counter: Array,  # int64 (2,): the next image, and how many are done
    out: Array,  # float32 or uint8 (B, 3, h, w), written
) -> None:
    """Make views of images (B, H, W, 3) uint8; arguments without a comment are as in ``Plan``.

    Any number of threads may call this with the same arguments at once: each takes the next image
    that no other has taken. It is one long function because each part of it would need a dozen of
    its arrays, and numba passes them one by one.
    """
    height, width = images.shape[1:3]
    rows, columns = out.shape[2:]
    fine = MOST_SAMPLES * columns
    packed = np.zeros((height, 4 * width), np.uint8)
    tables = np.empty((3, 3, 256), np.float32)
    # Three rows for a stencil, and its result; a block may write beyond a row's end.
    ring = np.zeros((4, 4 * columns + BLOCK), np.float32)
    line = np.zeros(4 * max(width, fine), np.float32)
    index, part = np.empty(fine, np.int32), np.empty((2, fine), np.float32)
    column_first, row_first = np.empty(columns, np.int64), np.empty(rows, np.int64)
    column_weights = np.empty((columns, 4), np.float32)
    row_weights = np.empty((rows, 4), np.float32)
    row_taps = column_taps = 0
    streamed = out.nbytes > CACHED and columns % BLOCK == 0 and out.ctypes.data % 64 == 0
    i = count_up(counter, 0)
    while i < len(images):
        stage, mixed, late = compile_tables(
            images[i], ops[i], amounts[i], color[i], stencil[i], window[i], packed, tables
        )
        m = matrix[i]
        across = _line(m[0, 0], m[0, 1], m[0, 2], width, columns, rows)
        down = _line(m[1, 1], m[1, 0], m[1, 2], height, rows, columns)
        if upright[i]:
            column_taps, column_weights = _weigh(width, across, column_first, column_weights)
            row_taps, row_weights = _weigh(height, down, row_first, row_weights)
            x0, x1 = _span(column_first, column_taps)
            y0, y1 = _span(row_first, row_taps)
        else:
            x0, x1 = _needed(across, columns, rows, width)
            y0, y1 = _needed(down, rows, columns, height)
        pack(images[i], (x0, x1, y0, y1), mixed, tables, color[i], packed)
        sharpened = stage == 2 and rows > 2 and columns > 2
        clipped = _reaches_out(m)
        erased = erase[i, 2] > erase[i, 0]
        for y in range(rows + 1):
            if y < rows:
                row = ring[y % 3] if sharpened else ring[3]
                if upright[i]:
                    _sum_rows(packed, row_first[y], row_weights[y], row_taps, 4 * x0, 4 * x1, line)
                    _sum_columns(line, column_first, column_weights, column_taps, row)
                else:
                    _sample_row(
                        packed, across, down, y, samples[i], index, part, line, columns, row
                    )
            # A stencil needs the row below, so it works one row behind.
            done = y - 1 if sharpened else y
            if done < 0 or done == rows:
                continue
            if sharpened:
                _sharpen(ring, done, 0 < done < rows - 1, columns, stencil[i], ring[3])
            if late:
                _look_up(tables[2], columns, ring[3])
            if clipped:
                _fade(m, done, rows, columns, fill[i], ring[3])
            if erased:
                _erase(ring[3], done, rows, columns, erase[i], fill[i])
            _write(ring[3], done, columns, scale, shift, streamed, out[i])
        count_up(counter, 1)
        i = count_up(counter, 0)


@_compiled
def _line(own: float, other: float, shift: float, length: int, count: int, others: int) -> Line:
    """A canvas coordinate in pixel indices: its slopes along the view's axes, and its start.

    ``own`` and ``other`` are the matrix's factors of the same axis of the view and of its other
    axis, which have ``count`` and ``others`` pixels; the canvas has ``length``.
    """
    half = length / 2
    start = half * (own * (1 / count - 1) + other * (1 / others - 1) + shift + 1) - 0.5
    return own * length / count, other * length / others, start


@_compiled
def _weigh(length: int, line: Line, first: Array, weights: Array) -> tuple[int, Array]:
    """Antialiased weights of a line of ``length`` canvas pixels, as in ``resample.matrix``.

    Writes the index of each output pixel's first tap to ``first`` (count,), and its weights to
    ``weights`` (count, taps or more). Gives the number of taps, and the weights, in a larger array
    if there was too little room.
    """
    step, start = line[0], line[2]
    reach = max(1.0, abs(step))
    # No more than the canvas has pixels, however far the view shrinks it.
    most = 2 * int(min(reach, float(length))) + 4
    if most > weights.shape[1]:
        weights = np.empty((len(first), most), np.float32)
    limit = 0.999 * reach  # farther out the border pixel continues
    taps = 2
    for place in range(len(first)):
        center = min(max(start + step * place, -limit), length - 1 + limit)
        low = max(0, int(np.floor(center - reach)) + 1)
        high = min(length - 1, int(np.ceil(center + reach)) - 1)
        taps = max(taps, high + 1 - low)
        first[place] = low
    for place in range(len(first)):
        center = min(max(start + step * place, -limit), length - 1 + limit)
        first[place] = max(0, min(first[place], length - taps))
        total = 0.0
        for tap in range(taps):
            weight = max(0.0, 1.0 - abs(first[place] + tap - center) / reach)
            weights[place, tap] = weight
            total += weight
        for tap in range(taps):
            weights[place, tap] /= max(total, 1e-6)
    return taps, weights


@_compiled
def _span(first: Array, taps: int) -> tuple[int, int]:
    """From where to where the taps of a line reach; a mirrored view begins at the far end."""
    ends = first[0], first[len(first) - 1]
    return min(ends[0], ends[1]), max(ends[0], ends[1]) + taps


@_compiled
def _needed(line: Line, count: int, others: int, length: int) -> tuple[int, int]:
    """From where to where samples of the view may read the canvas along one axis."""
    own, other, start = line
    spread = (abs(own) + abs(other)) / 2 + 1
    ends = (own * (count - 1), other * (others - 1))
    low = start + min(ends[0], 0.0) + min(ends[1], 0.0) - spread
    high = start + max(ends[0], 0.0) + max(ends[1], 0.0) + spread
    first = min(max(int(np.floor(low)), 0), length - 2)
    return first, min(max(int(np.ceil(high)) + 2, first + 2), length)


@_inline
def _sum_rows(
    packed: Array, first: int, weights: Array, taps: int, start: int, end: int, line: Array
) -> None:
    """``line`` = the weighted sum of rows of packed pixels, from value ``start`` to ``end``."""
    one, two, p, q = packed[first], packed[first + 1], weights[0], weights[1]
    if taps == 3:
        three, r = packed[first + 2], weights[2]
        for k in range(np.uint64(start), np.uint64(end)):
            line[k] = p * np.float32(one[k]) + q * np.float32(two[k]) + r * np.float32(three[k])
        return
    for k in range(np.uint64(start), np.uint64(end)):
        line[k] = p * np.float32(one[k]) + q * np.float32(two[k])
    for tap in range(2, taps):
        more, r = packed[first + tap], weights[tap]
        for k in range(np.uint64(start), np.uint64(end)):
            line[k] += r * np.float32(more[k])


@_inline
def _sum_columns(line: Array, first: Array, weights: Array, taps: int, row: Array) -> None:
    """``row`` = each output pixel's weighted sum of pixels of a float line."""
    count, stride = weights.shape
    if taps == 2:
        for x in range(count):
            two_taps(line, 4 * first[x], weights, stride * x, row, 4 * x)
    elif taps == 3:
        for x in range(count):
            three_taps(line, 4 * first[x], weights, stride * x, row, 4 * x)
    else:
        for x in range(count):
            four_taps(line, 4 * first[x], weights, stride * x, row, 4 * x)
            for tap in range(4, taps):
                add_tap(line, 4 * (first[x] + tap), weights[x, tap], row, 4 * x)


@_inline
def _sample_row(
    packed: Array, across: Line, down: Line, y: int, samples: int, index: Array, part: Array,
    line: Array, count: int, row: Array,
) -> None:  # fmt: skip
    """One row of the view by bilinear samples of the canvas."""
    height, width = packed.shape[0], packed.shape[1] // 4
    fine, share = count * samples, np.float32(1.0 / (samples * samples))
    target = row if samples == 1 else line
    for repeat in range(samples):
        middle = y + (repeat + 0.5) / samples - 0.5
        offset = 0.5 / samples - 0.5
        x_start = across[2] + across[1] * middle + across[0] * offset
        y_start = down[2] + down[0] * middle + down[1] * offset
        x_step, y_step = across[0] / samples, down[1] / samples
        lines = (x_start, x_step), (y_start, y_step)
        _locate(lines, width, height, fine, index, part)
        for k in range(fine):
            at = np.int64(index[k])
            bilinear(packed, at, at + 4 * width, part[0, k], part[1, k], target, 4 * k)
        if samples > 1:
            if repeat == 0:
                for x in range(4 * count):
                    row[x] = 0.0
            for x in range(count):
                for k in range(samples):
                    add_tap(line, 4 * (samples * x + k), share, row, 4 * x)


@_compiled
def _locate(
    lines: tuple[tuple[float, float], tuple[float, float]], width: int, height: int, count: int,
    index: Array, part: Array,
) -> None:  # fmt: skip
    """Where ``count`` samples of a row lie, whose x and y have a start and a step in canvas pixels.

    Writes to ``index`` at which packed value the upper left of four pixels begins, and to ``part``
    the ways across and down from it. Only in a function of its own does LLVM make vector code.
    """
    across, down = lines
    last_x, last_y = np.int32(width - 2), np.int32(height - 2)
    for k in range(np.int32(count)):
        along = float(np.int32(k))
        u, v = across[0] + across[1] * along, down[0] + down[1] * along
        u, v = min(max(u, 0.0), width - 1.0), min(max(v, 0.0), height - 1.0)
        left, top = min(np.int32(u), last_x), min(np.int32(v), last_y)
        part[0, k], part[1, k] = u - left, v - top
        index[k] = np.int32(top * np.int32(4 * width) + np.int32(4) * left)


@_compiled
def _sharpen(ring: Array, y: int, inner: bool, count: int, stencil: Array, row: Array) -> None:
    """A row of the view through its stencil; the outermost pixels are kept."""
    here = ring[y % 3]
    last = 4 * (count - 1)
    if inner:
        up, down = ring[(y - 1) % 3], ring[(y + 1) % 3]
        for k in range(4, last, BLOCK):
            convolve(up, here, down, stencil, k, row)
        for k in range(4):
            row[k], row[last + k] = here[k], here[last + k]
    else:
        for k in range(last + 4):
            row[k] = here[k]


@_compiled
def _look_up(table: Array, count: int, row: Array) -> None:
    """``colors.lookup`` of a row, in place."""
    for c in range(3):
        values = table[c]
        for x in range(count):
            value = row[4 * x + c]
            below = min(max(int(value), 0), 255)
            step = values[min(below + 1, 255)] - values[below]
            row[4 * x + c] = values[below] + step * (value - np.float32(below))


@_compiled
def _reaches_out(matrix: Array) -> bool:
    """``reference.reaching_out`` of one view."""
    across = abs(matrix[0, 0]) + abs(matrix[0, 1]) + abs(matrix[0, 2])
    down = abs(matrix[1, 0]) + abs(matrix[1, 1]) + abs(matrix[1, 2])
    return bool(across > 1 + 1e-5 or down > 1 + 1e-5)


@_compiled
def _fade(matrix: Array, y: int, rows: int, count: int, fill: Array, row: Array) -> None:
    """Blend a row with the fill by the fraction of each output pixel that lies outside."""
    half_x = max(abs(matrix[0, 0]) / count + abs(matrix[0, 1]) / rows, POINT)
    half_y = max(abs(matrix[1, 0]) / count + abs(matrix[1, 1]) / rows, POINT)
    middle = (2 * y + 1) / rows - 1
    start_x = matrix[0, 1] * middle + matrix[0, 2]
    start_y = matrix[1, 1] * middle + matrix[1, 2]
    low_x, high_x = _clear(start_x, matrix[0, 0], 1 - half_x, count)
    low_y, high_y = _clear(start_y, matrix[1, 0], 1 - half_y, count)
    low, high = max(low_x, low_y), min(high_x, high_y)
    for x in range(count):
        if x == low and low < high:
            break
        _fade_pixel(x, matrix, start_x, start_y, half_x, half_y, count, fill, row)
    for x in range(max(high, 0) if low < high else count, count):
        _fade_pixel(x, matrix, start_x, start_y, half_x, half_y, count, fill, row)


@_compiled
def _clear(start: float, slope: float, room: float, count: int) -> tuple[int, int]:
    """From where to where a row's coordinate stays within ``room`` of the canvas's middle."""
    if room < 0:  # a pixel of the view is larger than the canvas
        return 0, 0
    if slope == 0:
        return (0, count) if abs(start) <= room else (0, 0)
    ends = (-room - start) / slope, (room - start) / slope
    low, high = min(ends[0], ends[1]), max(ends[0], ends[1])
    low, high = min(max(low, -1.0), 2.0), max(min(high, 1.0), -2.0)  # so that an integer holds them
    first = int(np.ceil(((low + 1) * count - 1) / 2))
    return first, int(np.floor(((high + 1) * count - 1) / 2)) + 1


@njit(nogil=True, cache=True, inline="always")
def _fade_pixel(
    x: int, matrix: Array, start_x: float, start_y: float, half_x: float, half_y: float,
    count: int, fill: Array, row: Array,
) -> None:  # fmt: skip
    here = (2 * x + 1) / count - 1
    u, v = start_x + matrix[0, 0] * here, start_y + matrix[1, 0] * here
    share = np.float32(_overlap(u, half_x) * _overlap(v, half_y))
    for c in range(3):
        row[4 * x + c] = fill[c] + share * (row[4 * x + c] - fill[c])


@njit(nogil=True, cache=True, inline="always")
def _overlap(center: float, half: float) -> float:
    length = min(center + half, 1.0) - max(center - half, -1.0)
    return min(max(length / (2 * half), 0.0), 1.0)


@_compiled
def _erase(row: Array, y: int, rows: int, count: int, erase: Array, fill: Array) -> None:
    """Fill the part of a row whose pixels' centres lie in the erased box."""
    height = np.float32(np.float32(y + 0.5) / np.float32(rows))
    if not erase[1] <= height < erase[3]:
        return
    for x in range(count):
        if erase[0] <= np.float32(np.float32(x + 0.5) / np.float32(count)) < erase[2]:
            for c in range(3):
                row[4 * x + c] = fill[c]


@_inline
def _write(
    row: Array, y: int, count: int, scale: Array, shift: Array, streamed: bool, out: Array
) -> None:
    """Normalise a row and put it where it belongs, channel by channel.

    Nothing else is done here: beside other writes to the row, LLVM makes this half as fast.
    """
    whole = count - count % BLOCK
    for c in range(3):
        factor, term = scale[c], shift[c]
        line = out[c, y]
        if streamed:
            for x in range(0, whole, BLOCK):
                stream_channel(row, 4 * x + c, factor, term, line, x)
        else:
            for x in range(0, whole, BLOCK):
                take_channel(row, 4 * x + c, factor, term, line, x)
        half = np.float32(0.5) if line.itemsize == 1 else _ZERO  # a uint8 is cut off, not rounded
        for x in range(whole, count):
            line[x] = min(max(row[4 * x + c], _ZERO), _TOP) * factor + term + half
