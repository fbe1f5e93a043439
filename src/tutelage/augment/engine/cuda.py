"""The CUDA backend: two Triton kernels that do what ``reference`` does.

``_compile``, one program per image, composes the operations into tables and notes which parts the
image uses. ``_render``, one program per run of view pixels, warps, colours and writes them. The
kernels themselves decide what an image needs, so nothing waits for the device.

For the tests, both run on a CPU in Triton's interpreter (``TRITON_INTERPRET=1``), slowly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tutelage.augment.engine import reference
from tutelage.augment.ops import LUMA, TINY
from tutelage.augment.plan import COLOR_OPS, Plan
from tutelage.system.errors import TutelageError

if TYPE_CHECKING:  # triton has no types
    Pointer = Any
    Number = Any
    Lanes = Any

    def jit(function: Callable[..., Any]) -> Any:
        """A kernel, or a part of one."""
else:
    Pointer = Number = Lanes = tl.tensor
    jit = triton.jit

(_, _BRIGHTNESS, _GAMMA, _INVERT, _POSTERIZE, _SOLARIZE, _CONTRAST, _AUTOCONTRAST, _EQUALIZE,
 _SATURATION, _SHARPNESS, _BLUR) = map(tl.constexpr, range(len(COLOR_OPS)))  # fmt: skip
_RED, _GREEN, _BLUE = (tl.constexpr(weight) for weight in LUMA)
_TINY = tl.constexpr(TINY)
_LIMIT, _MOST = tl.constexpr(reference.BILINEAR_LIMIT), tl.constexpr(reference.MOST_SAMPLES)
_NEARLY, _POINT = tl.constexpr(reference.NEARLY), tl.constexpr(reference.POINT)

# What an image may need, a bit each; the table of stage s is 1 << s. Above the bits is ``side``.
_BEFORE, _BETWEEN, _AFTER, _MIXED, _STENCIL, _BEYOND, _ERASED = (
    tl.constexpr(1 << bit) for bit in range(7)
)
_COLORS = tl.constexpr(1 | 2 | 8)  # on the canvas
_SIDE = tl.constexpr(8)
_MIDDLE = tl.constexpr(4)  # of the nine places of a stencil

# The most pixels of a program, and the pixels of a thread: four keep enough loads on their way, and
# more would need too many registers.
_LANES, _PIXELS = 1024, 4
# How ``_compile`` counts: by few threads where canvases are small, since each has a program. With
# ``maxnreg`` twice as many programs share a processor.
_SMALL = {"LANES": 256, "num_warps": 4, "maxnreg": 128}
_LARGE = {"LANES": 1024, "num_warps": 16, "maxnreg": 128}
_LARGE_CANVAS = 4096  # pixels
# A product and a sum that are fused round once instead of twice, and so a table's value may fall on
# the other side of a step of a later table. Where fusing is harmless, ``tl.fma`` asks for it.
_STRICT = {"enable_fp_fusion": False}


def render(
    images: Tensor, plan: Plan, size: tuple[int, int], scale: Sequence[float],
    shift: Sequence[float], dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """Views (B, 3, h, w) of canvases (B, H, W, 3) uint8 on a GPU; see ``apply``."""
    _check_device(images)
    batch, height, width = images.shape[:3]
    views = images.new_empty((batch, 3, *size), dtype=dtype)
    if not views.numel():
        return views
    canvases, ops = images.contiguous(), plan.ops.contiguous()
    matrix, amounts, color, stencil, window, erase, fill = (
        part.to(torch.float32).contiguous()
        for part in (plan.matrix, plan.amounts, plan.color, plan.stencil, plan.window, plan.erase,
                     plan.fill)
    )  # fmt: skip
    levels = images.new_empty(batch, 2, 3, 256)
    after = images.new_empty(batch, 3, 256, dtype=torch.float32)
    frame = images.new_empty(batch, 8, dtype=torch.float64)
    needs = images.new_empty(batch, dtype=torch.int32)
    area = size[0] * size[1]
    lanes = min(_LANES, triton.next_power_of_2(area))
    normal = [tuple(map(float, values)) for values in (scale, shift)]
    counting = _LARGE if height * width > _LARGE_CANVAS else _SMALL
    with torch.cuda.device(images.device) if images.is_cuda else nullcontext():
        _compile[(batch,)](
            canvases, matrix, ops, amounts, color, stencil, window, erase, levels, after, frame,
            needs, height, width, *size, ops.shape[1], **counting, **_STRICT,
        )  # fmt: skip
        _render[(batch * triton.cdiv(area, lanes),)](
            canvases, matrix, color, stencil, erase, fill, levels, after, frame, needs,
            *normal, views, height, width, size[0], area, size[1], lanes,
            num_warps=max(1, lanes // (32 * _PIXELS)), **_STRICT,
        )  # fmt: skip
    return views


def _check_device(images: Tensor) -> None:
    if not images.is_cuda and isinstance(_render, triton.JITFunction):
        raise TutelageError(
            f"the CUDA backend got images on '{images.device}'; move images and plan to a GPU, "
            "or set TRITON_INTERPRET=1 before triton is imported to run its kernels on a CPU"
        )


@jit
def _compile(
    images: Pointer, matrix: Pointer, ops: Pointer, amounts: Pointer, color: Pointer,
    stencil: Pointer, window: Pointer, erase: Pointer,
    levels: Pointer, after: Pointer, frame: Pointer, needs: Pointer,
    height: Number, width: Number, rows: Number, columns: Number, count: Number,
    LANES: tl.constexpr,
) -> None:  # fmt: skip
    """Write what ``_render`` has to know of one image.

    That is its tables, ``levels`` (B, 2, 3, 256) of the canvas and ``after`` (B, 3, 256) of the
    view, its geometry ``frame`` (B, 8), and which of them it ``needs`` (B,): unused tables are not
    written. A table has four rows here, a power of two; the last is not used. LANES are the pixels
    counted at a time. It is a long function because Triton takes every pointer and size as an
    argument of its own.
    """
    i = tl.program_id(0)
    image = images + i.to(tl.int64) * height * width * 3
    color += i * 9
    stencil += i * 9
    levels += i * (2 * 3 * 256)
    parts = _parts(color, stencil, erase + i * 4)
    parts |= _frame(matrix + i * 6, frame + i * 8, height, width, rows, columns)
    channel, entry = tl.arange(0, 4)[:, None], tl.arange(0, 256)[None, :]
    identity = (entry + 0 * channel).to(tl.float32)
    table, stage, tables = identity, 0, 0
    for k in range(count):
        code, amount = tl.load(ops + i * count + k).to(tl.int32), tl.load(amounts + i * count + k)
        wanted = stage
        if code == _SATURATION:
            wanted = max(stage, 1)
        elif (code == _SHARPNESS) | (code == _BLUR):
            wanted = 2
        elif code != 0:
            if (code == _CONTRAST) | (code == _AUTOCONTRAST) | (code == _EQUALIZE):
                key = identity.to(tl.int32)
                if code == _EQUALIZE:
                    key = (table + _TINY).to(tl.int32)
                counts = _count(
                    image, levels, color, stencil, window + i * 4, key, stage, tables | parts,
                    height, width, LANES,
                )  # fmt: skip
                if code == _CONTRAST:
                    table = _contrast(table, amount, counts, channel)
                elif code == _AUTOCONTRAST:
                    table = _autocontrast(table, counts)
                else:
                    table = _equalize(table, key, counts)
            else:
                table = _pointwise(table, code, amount)
            tables = tables | (1 << stage)
        if wanted > stage:
            _keep(table, stage, tables, levels, after + i * (3 * 256))
            table, stage = identity, wanted
    _keep(table, stage, tables, levels, after + i * (3 * 256))
    tl.store(needs + i, tables | parts)


@jit
def _parts(color: Pointer, stencil: Pointer, erase: Pointer) -> Number:
    """The bits of those of mixer, stencil and erased box that change something."""
    place = tl.arange(0, 16)
    eye = tl.where(place % 4 == 0, 1.0, 0.0)
    mixer = tl.load(color + place, mask=place < 9, other=0.0)
    parts = tl.where(tl.load(stencil + _MIDDLE) != 1, _STENCIL, 0)
    box = (tl.load(erase + 2) > tl.load(erase)) & (tl.load(erase + 3) > tl.load(erase + 1))
    parts += tl.where(box, _ERASED, 0)
    mixed = tl.sum(((mixer != eye) & (place < 9)).to(tl.int32), 0) > 0
    return parts + tl.where(mixed, _MIXED, 0)


@jit
def _frame(
    matrix: Pointer, frame: Pointer,
    height: Number, width: Number, rows: Number, columns: Number,
) -> Number:  # fmt: skip
    """Write an image's geometry and return its bits and ``side``.

    ``frame`` holds the canvas's x at the view's first sample, its slopes along the view's x and y,
    half the width of the triangle that weighs its taps, and the same for the canvas's y.
    """
    xx, xy, x1 = tl.load(matrix), tl.load(matrix + 1), tl.load(matrix + 2)
    yx, yy, y1 = tl.load(matrix + 3), tl.load(matrix + 4), tl.load(matrix + 5)
    beyond = (tl.abs(xx) + tl.abs(xy) + tl.abs(x1) > 1 + 1e-5) | (
        tl.abs(yx) + tl.abs(yy) + tl.abs(y1) > 1 + 1e-5
    )
    upright = (xy == 0) & (yx == 0)
    side = 1
    if upright == 0:
        side = _side(xx, xy, yx, yy, height, width, rows, columns)
    _line(frame, xx, xy, x1, width, columns * side, rows * side, upright)
    _line(frame + 4, yy, yx, y1, height, rows * side, columns * side, upright)
    return (side << _SIDE) + tl.where(beyond, _BEYOND, 0)


@jit
def _side(
    xx: Number, xy: Number, yx: Number, yy: Number,
    height: Number, width: Number, rows: Number, columns: Number,
) -> Number:  # fmt: skip
    """``reference.samples``."""
    height, width = tl.cast(height, tl.float32), tl.cast(width, tl.float32)
    rows, columns = tl.cast(rows, tl.float32), tl.cast(columns, tl.float32)
    a, b = xx * tl.div_rn(width, columns), yx * tl.div_rn(height, columns)
    c, d = xy * tl.div_rn(width, rows), yy * tl.div_rn(height, rows)
    step = tl.maximum(tl.sqrt_rn(a * a + b * b), tl.sqrt_rn(c * c + d * d)) - _NEARLY
    side = tl.minimum(tl.ceil(step), 1.0 * _MOST)
    return tl.where(step > _LIMIT, side, 1.0).to(tl.int32)


@jit
def _line(
    frame: Pointer,
    own: Number, other: Number, shift: Number,
    length: Number, count: Number, others: Number, upright: Number,
) -> None:  # fmt: skip
    """Write one axis of ``frame``, in pixel indices of the canvas, ``length`` pixels long.

    It moves by ``own`` along the view's axis of ``count`` samples, by ``other`` along the other.
    """
    half = 0.5 * tl.cast(length, tl.float64)
    own, other, shift = own.to(tl.float64), other.to(tl.float64), shift.to(tl.float64)
    own_step, other_step = own / tl.cast(count, tl.float64), other / tl.cast(others, tl.float64)
    start = half * (own_step - own + other_step - other + shift + 1.0) - 0.5
    step = 2.0 * half * own_step
    reach = tl.where(upright, tl.maximum(tl.abs(step), 1.0), 1.0)
    tl.store(frame, start)
    tl.store(frame + 1, step)
    tl.store(frame + 2, 2.0 * half * other_step)
    tl.store(frame + 3, reach)


@jit
def _keep(table: Lanes, stage: Number, tables: Number, levels: Pointer, after: Pointer) -> None:
    """Write the table of a stage if it is used; all threads see it afterwards."""
    channel, entry = tl.arange(0, 4)[:, None], tl.arange(0, 256)[None, :]
    place, mask = channel * 256 + entry, (channel < 3) & (entry < 256)
    if (tables >> stage) & 1:
        if stage == 2:
            tl.store(after + place, table, mask=mask)
        else:
            tl.store(levels + stage * (3 * 256) + place, _round(table).to(tl.uint8), mask=mask)
    tl.debug_barrier()


@jit
def _count(
    image: Pointer, levels: Pointer, color: Pointer, stencil: Pointer, window: Pointer,
    key: Lanes, stage: Number, used: Number, height: Number, width: Number, LANES: tl.constexpr,
) -> Lanes:  # fmt: skip
    """(4, 256) counts of the window's grey levels, as they arrive at the stage's table.

    Grey level v of channel c counts as ``key[c, v]``.
    """
    x0, x1 = _before(tl.load(window), width), _before(tl.load(window + 2), width)
    y0, y1 = _before(tl.load(window + 1), height), _before(tl.load(window + 3), height)
    across = max(x1 - x0, 1)
    pixels = max(x1 - x0, 0) * max(y1 - y0, 0)
    first, last, seen = _MIDDLE, _MIDDLE + 1, used & (_BEFORE | _MIXED)
    if stage == 0:
        seen = 0
    if stage == 2:
        seen = used & _COLORS
    sharpened = (stage == 2) & ((used & _STENCIL) != 0) & (height > 2) & (width > 2)
    if sharpened:
        first, last = 0, 9
    channel = tl.arange(0, 4)[:, None]
    counts = tl.zeros((4, 256), tl.int32)
    for start in range(0, pixels, LANES):
        lane = start + tl.arange(0, LANES)
        mask = lane < pixels
        x, y = x0 + lane % across, y0 + lane // across
        inner = (x > 0) & (x < width - 1) & (y > 0) & (y < height - 1) & sharpened
        r, g, b = _zeros(LANES)
        for k in range(first, last):
            factor = tl.where(inner, tl.load(stencil + k), tl.where(k == _MIDDLE, 1.0, 0.0))
            u = tl.minimum(tl.maximum(x + (k % 3 - 1), 0), width - 1)
            v = tl.minimum(tl.maximum(y + (k // 3 - 1), 0), height - 1)
            r_k, g_k, b_k = _pixel(image + (v * width + u) * 3, levels, color, seen)
            r, g, b = r + factor * r_k, g + factor * g_k, b + factor * b_k
        counts += tl.where(channel == 0, _histogram(r, key, 0, mask, channel), 0)
        counts += tl.where(channel == 1, _histogram(g, key, 1, mask, channel), 0)
        counts += tl.where(channel == 2, _histogram(b, key, 2, mask, channel), 0)
    return counts


@jit
def _histogram(values: Lanes, key: Lanes, c: tl.constexpr, mask: Lanes, channel: Lanes) -> Lanes:
    """(1, 256) counts of one channel's values, each rounded and looked up in its row of ``key``."""
    row = tl.sum(tl.where(channel == c, key, 0), 0)
    found = tl.gather(row, _round(_clamp(values)).to(tl.int32), 0)
    return tl.histogram(found, 256, mask=mask)[None, :]


@jit
def _before(edge: Number, length: Number) -> Number:
    """The number of pixels of a line whose centres lie before an edge, a fraction of the line."""
    length_f = length.to(tl.float32)
    guess = tl.maximum(tl.minimum(tl.floor(edge * length_f - 0.5), length_f), 0.0)
    more = (guess < length_f) & (tl.div_rn(guess + 0.5, length_f) < edge)
    return guess.to(tl.int32) + more.to(tl.int32)


@jit
def _pointwise(table: Lanes, code: Number, amount: Number) -> Lanes:
    """``ops.POINTWISE``."""
    value = table
    if code == _BRIGHTNESS:
        value = _clamp(table * amount)
    elif code == _GAMMA:
        # In double, whose library functions are exact enough to round as the reference does.
        base = tl.log2(tl.div_rn(table, 255.0).to(tl.float64))
        power = tl.exp2(amount.to(tl.float64) * base).to(tl.float32)
        value = _clamp(255.0 * tl.where(amount == 0, 1.0, power))
    elif code == _INVERT:
        value = 255.0 - table
    elif code == _POSTERIZE:
        bits = tl.minimum(tl.maximum(amount, -8.0), 8.0) + 8.0
        step = (1 << (16 - _round(bits).to(tl.int32))).to(tl.float32)
        kept = tl.floor(tl.div_rn(table + _TINY, step)) * step
        value = tl.where(step > 1, kept, table)
    elif code == _SOLARIZE:
        value = tl.where(tl.floor(table + _TINY) < amount, table, 255.0 - table)
    return value


@jit
def _contrast(table: Lanes, factor: Number, counts: Lanes, channel: Lanes) -> Lanes:
    """``ops.contrast``."""
    value = table.to(tl.float64)
    pixels = tl.maximum(tl.sum(counts, 1), 1).to(tl.float64)
    means = (tl.sum(value * counts.to(tl.float64), 1) / pixels)[:, None]
    red, green, blue = _RED * means, _GREEN * means, _BLUE * means
    means = tl.where(channel == 0, red, tl.where(channel == 1, green, blue))
    mean = tl.sum(tl.sum(tl.where(channel < 3, means, 0.0), 1), 0)
    return _clamp(mean + factor.to(tl.float64) * (value - mean)).to(tl.float32)


@jit
def _autocontrast(table: Lanes, counts: Lanes) -> Lanes:
    """``ops.autocontrast``."""
    value = table.to(tl.float64)
    low = tl.min(tl.where(counts > 0, value, float("inf")), 1)[:, None]
    high = tl.max(tl.where(counts > 0, value, float("-inf")), 1)[:, None]
    spread = high > low
    factor = 255.0 / tl.where(spread, high - low, 1.0)
    value = tl.where(spread, (value - tl.where(spread, low, 0.0)) * factor, value)
    return _clamp(value).to(tl.float32)


@jit
def _equalize(table: Lanes, key: Lanes, counts: Lanes) -> Lanes:
    """``ops.equalize``; the counts are those of ``key``, the table's values as grey levels."""
    entry = tl.arange(0, 256)[None, :]
    pixels = tl.sum(counts, 1)[:, None]
    lightest = tl.max(tl.where(counts > 0, entry, 0), 1)[:, None]
    top = tl.sum(tl.where(entry == lightest, counts, 0), 1)[:, None]
    step = (pixels - top) // 255
    darker = tl.cumsum(counts, 1) - counts
    flat = tl.minimum((darker + step // 2) // tl.maximum(step, 1), 255)
    return tl.where(step > 0, tl.gather(flat, key, 1).to(tl.float32), table)


@jit
def _render(
    images: Pointer, matrix: Pointer, color: Pointer, stencil: Pointer,
    erase: Pointer, fill: Pointer, levels: Pointer, after: Pointer, frame: Pointer, needs: Pointer,
    scale: Number, shift: Number, views: Pointer,
    height: Number, width: Number, rows: Number, area: Number,
    COLUMNS: tl.constexpr, LANES: tl.constexpr,
) -> None:  # fmt: skip
    """Write LANES neighbouring pixels of one view (3, rows, COLUMNS) of ``area`` rows x COLUMNS.

    One loop serves all geometry. A pixel is the mean of ``side`` x ``side`` samples; a sample is
    the weighted sum of taps under a triangle along each axis. An upright view has one sample, whose
    triangle widens where it minifies; any other view has 2 x 2 taps per sample. A view with a
    stencil needs the stencil's nine places, any other only the middle one. It is a long function
    for the same reason as ``_compile``.
    """
    runs = tl.cdiv(area, LANES)
    i = tl.program_id(0) // runs
    lane = (tl.program_id(0) % runs) * LANES + tl.arange(0, LANES)
    # Keep a thread's pixels apart: Triton would give it four in a row for the sake of the store,
    # and then every tap would be exchanged between threads.
    lane = tl.max_contiguous(lane, 1)
    x, y = lane % COLUMNS, lane // COLUMNS
    image = images + i.to(tl.int64) * height * width * 3
    color, stencil, frame = color + i * 9, stencil + i * 9, frame + i * 8
    levels, after = levels + i * (2 * 3 * 256), after + i * (3 * 256)
    need = tl.load(needs + i)
    side = need >> _SIDE
    reach_u, reach_v = tl.load(frame + 3).to(tl.float32), tl.load(frame + 7).to(tl.float32)
    taps_u, taps_v = _taps(reach_u, width), _taps(reach_v, height)
    first, last = _MIDDLE, _MIDDLE + 1
    sharpened = ((need & _STENCIL) != 0) & (rows > 2) & (COLUMNS > 2)
    if sharpened:
        first, last = 0, 9
    inner = sharpened & (x > 0) & (x < COLUMNS - 1) & (y > 0) & (y < rows - 1)
    r, g, b = _zeros(LANES)
    for k in range(first, last):
        factor = tl.where(inner, tl.load(stencil + k), tl.where(k == _MIDDLE, 1.0, 0.0))
        for s in range(side * side):
            # In double: a table after a stencil would multiply an error of the coordinates.
            column = ((x + (k % 3 - 1)) * side + s % side).to(tl.float64)
            row = ((y + (k // 3 - 1)) * side + s // side).to(tl.float64)
            u = tl.load(frame) + tl.load(frame + 1) * column + tl.load(frame + 2) * row
            v = tl.load(frame + 4) + tl.load(frame + 5) * row + tl.load(frame + 6) * column
            left, near_u, share_u = _first(u, width, reach_u, taps_u)
            top, near_v, share_v = _first(v, height, reach_v, taps_v)
            share = factor * share_u * share_v / (side * side)
            for tap_v in range(taps_v):
                part = share * _weight(near_v, tap_v, reach_v)
                line = (top + tap_v) * width + left
                for tap_u in range(taps_u):
                    w = part * _weight(near_u, tap_u, reach_u)
                    place = image + (line + tap_u) * 3
                    r_t, g_t, b_t = _pixel(place, levels, color, need)
                    r, g, b = tl.fma(w, r_t, r), tl.fma(w, g_t, g), tl.fma(w, b_t, b)
    covered = tl.full((LANES,), 1.0, tl.float32)
    if need & _BEYOND:
        covered = _cover(matrix + i * 6, x, y, COLUMNS, rows)
        covered *= _cover(matrix + i * 6 + 3, x, y, COLUMNS, rows)
    if need & _ERASED:
        covered = tl.where(_erased(erase + i * 4, x, y, COLUMNS, rows), 0.0, covered)
    red, green, blue = tl.load(fill + i * 3), tl.load(fill + i * 3 + 1), tl.load(fill + i * 3 + 2)
    out, mask = views + i.to(tl.int64) * 3 * area + lane, lane < area
    _write(r, after, need, red, covered, scale[0], shift[0], out, mask)
    _write(g, after + 256, need, green, covered, scale[1], shift[1], out + area, mask)
    _write(b, after + 512, need, blue, covered, scale[2], shift[2], out + 2 * area, mask)


@jit
def _taps(reach: Number, length: Number) -> Number:
    """The most pixels under a triangle of this half-width."""
    return tl.minimum(tl.ceil(2 * reach).to(tl.int32), length)


@jit
def _first(at: Lanes, length: Number, reach: Number, taps: Number) -> tuple[Lanes, Lanes, Lanes]:
    """The first tap of coordinates ``at``: its pixel, its distance, and a factor for all taps.

    The factor makes the taps' weights add up to 1.
    """
    # Farther out the border pixel continues; a stencil may look there.
    limit = 0.999 * reach.to(tl.float64)
    at = tl.minimum(tl.maximum(at, -limit), tl.cast(length, tl.float64) - 1.0 + limit)
    pixel = tl.floor(at - reach.to(tl.float64)).to(tl.int32) + 1
    pixel = tl.minimum(tl.maximum(pixel, 0), length - taps)
    near = (pixel.to(tl.float64) - at).to(tl.float32)
    share = tl.full(near.shape, 1.0, tl.float32)
    if reach > 1:
        total = tl.zeros(near.shape, tl.float32)
        for tap in range(taps):
            total += _weight(near, tap, reach)
        share = 1.0 / tl.maximum(total, 1e-6)
    else:
        near = tl.minimum(tl.maximum(near, -1.0), 0.0)  # the border pixels continue
    return pixel, near, share


@jit
def _weight(near: Lanes, tap: Number, reach: Number) -> Lanes:
    """The triangle's height at a tap."""
    return tl.maximum(tl.fma(-tl.abs(near + tap), 1.0 / reach, 1.0), 0.0)


@jit
def _erased(box: Pointer, x: Lanes, y: Lanes, COLUMNS: tl.constexpr, rows: Number) -> Lanes:
    """Whether the pixels' centres lie in the box x0, y0, x1, y1."""
    across = tl.div_rn(x.to(tl.float32) + 0.5, tl.cast(COLUMNS, tl.float32))
    down = tl.div_rn(y.to(tl.float32) + 0.5, tl.cast(rows, tl.float32))
    inside = (across >= tl.load(box)) & (across < tl.load(box + 2))
    return inside & (down >= tl.load(box + 1)) & (down < tl.load(box + 3))


@jit
def _cover(row: Pointer, x: Lanes, y: Lanes, COLUMNS: tl.constexpr, rows: Number) -> Lanes:
    """The fraction of each pixel on the canvas along the axis of this matrix row."""
    by_x, by_y, shift = tl.load(row), tl.load(row + 1), tl.load(row + 2)
    across, down = 1.0 / COLUMNS, 1.0 / tl.cast(rows, tl.float32)
    center = by_x * ((2 * x + 1) * across - 1.0) + by_y * ((2 * y + 1) * down - 1.0) + shift
    half = tl.maximum(tl.abs(by_x) * across + tl.abs(by_y) * down, _POINT)
    overlap = tl.minimum(center + half, 1.0) - tl.maximum(center - half, -1.0)
    return tl.minimum(tl.maximum(overlap / (2.0 * half), 0.0), 1.0)


@jit
def _write(
    value: Lanes, after: Pointer, need: Number, fill: Number, covered: Lanes,
    scale: Number, shift: Number, out: Pointer, mask: Lanes,
) -> None:  # fmt: skip
    """One channel's last steps: the table after the stencil, fill and erased box, and scale."""
    value = _clamp(value)
    if need & _AFTER:
        below = tl.minimum(value.to(tl.int32), 254)
        low = tl.load(after + below)
        value = low + (tl.load(after + below + 1) - low) * (value - below.to(tl.float32))
    if need & (_BEYOND | _ERASED):
        value = tl.where(covered < 1.0, _clamp(tl.fma(covered, value - fill, fill)), value)
    value = tl.fma(value, scale, shift)
    if out.dtype.element_ty == tl.uint8:
        value = _round(_clamp(value))
    tl.store(out, value.to(out.dtype.element_ty), mask=mask)


@jit
def _pixel(
    place: Pointer, levels: Pointer, color: Pointer, need: Number
) -> tuple[Lanes, Lanes, Lanes]:
    """The channels of canvas pixels as the warp sees them.

    They pass what they ``need`` of before -> color -> between, each in grey levels.
    """
    r = tl.load(place).to(tl.int32)
    g = tl.load(place + 1).to(tl.int32)
    b = tl.load(place + 2).to(tl.int32)
    if need & _BEFORE:
        r, g, b = _look_up(r, g, b, levels)
    if need & _MIXED:
        r, g, b = _mix(r, g, b, color)
    if need & _BETWEEN:
        r, g, b = _look_up(r, g, b, levels + 3 * 256)
    return r.to(tl.float32), g.to(tl.float32), b.to(tl.float32)


@jit
def _look_up(r: Lanes, g: Lanes, b: Lanes, levels: Pointer) -> tuple[Lanes, Lanes, Lanes]:
    """Grey levels through a table (3, 256) uint8."""
    r = tl.load(levels + r).to(tl.int32)
    g = tl.load(levels + 256 + g).to(tl.int32)
    b = tl.load(levels + 512 + b).to(tl.int32)
    return r, g, b


@jit
def _mix(red: Lanes, green: Lanes, blue: Lanes, color: Pointer) -> tuple[Lanes, Lanes, Lanes]:
    """Grey levels after the channels are mixed."""
    r, g, b = red.to(tl.float32), green.to(tl.float32), blue.to(tl.float32)
    one = tl.load(color) * r + tl.load(color + 1) * g + tl.load(color + 2) * b
    two = tl.load(color + 3) * r + tl.load(color + 4) * g + tl.load(color + 5) * b
    three = tl.load(color + 6) * r + tl.load(color + 7) * g + tl.load(color + 8) * b
    one, two, three = _round(_clamp(one)), _round(_clamp(two)), _round(_clamp(three))
    return one.to(tl.int32), two.to(tl.int32), three.to(tl.int32)


@jit
def _clamp(value: Lanes) -> Lanes:
    return tl.minimum(tl.maximum(value, 0.0), 255.0)


@jit
def _round(value: Lanes) -> Lanes:
    """The nearest whole number (a half goes to the even one), for 0 <= value < 2^22."""
    return (value + 12582912.0) - 12582912.0  # 1.5 * 2^23: the sum holds no fraction


@jit
def _zeros(LANES: tl.constexpr) -> tuple[Lanes, Lanes, Lanes]:
    zero = tl.zeros((LANES,), tl.float32)
    return zero, zero, zero
