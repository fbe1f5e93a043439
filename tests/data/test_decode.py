import io
import itertools
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from tutelage.data import decode as decoding
from tutelage.data.decode import UnreadableImage, decode, read_size

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
HEIGHT, WIDTH = 24, 40
LOSSY = {"JPEG", "WEBP"}


def encode(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def quadrants(height=HEIGHT, width=WIDTH):
    """Four coloured quarters, so that every flip and turn shows."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = RED
    pixels[: height // 2, width // 2 :] = GREEN
    pixels[height // 2 :, : width // 2] = BLUE
    pixels[height // 2 :, width // 2 :] = WHITE
    return pixels


def ramp(dtype, top):
    return np.linspace(0, top, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(dtype)


def assert_close(found, expected, kind="PNG"):
    assert found.dtype == np.uint8
    assert found.shape == expected.shape
    difference = np.abs(found.astype(int) - expected.astype(int))
    # Chroma subsampling smears the borders of the quarters: judge their insides.
    assert np.median(difference) <= (6 if kind in LOSSY else 0)
    assert np.mean(difference > (12 if kind in LOSSY else 0)) < (0.2 if kind in LOSSY else 1e-9)


def tiff(values, bits, *, photometric=1, order="<"):
    """An uncompressed one-channel TIFF, for the kinds that Pillow cannot write."""
    height, width = values.shape
    if bits == 12:
        pairs = values.reshape(-1, 2).astype(int)
        middle = (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8
        packed = np.stack([pairs[:, 0] >> 4, middle, pairs[:, 1] & 255], axis=1)
        pixels = packed.astype(np.uint8).tobytes()
    else:
        pixels = values.astype(values.dtype.newbyteorder(order)).tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric}
    tags |= {273: 8, 277: 1, 278: height, 279: len(pixels)}
    directory = b"".join(struct.pack(order + "HHII", tag, 4, 1, v) for tag, v in tags.items())
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8 + len(pixels))
    return head + pixels + struct.pack(order + "H", len(tags)) + directory + bytes(4)


def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def flat_png(width, height, *before_pixels):
    """A black RGB PNG, of which a good part is zeros."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes((1 + 3 * width) * height))
    parts = [chunk(b"IHDR", head), *before_pixels, chunk(b"IDAT", rows), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


UPRIGHT_TO_STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: np.rot90(a, -1),
}
ALL = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")


def turned(pixels, orientation, kind="PNG", **options):
    """A file that says it must be turned to show these pixels."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = UPRIGHT_TO_STORED.get(orientation, UPRIGHT_TO_STORED[1])(pixels)
    return encode(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **options)


def scaled(values):
    """Grey levels from the least to the greatest value."""
    low, high = float(values.min()), float(values.max())
    return np.rint((values.astype(float) - low) / (high - low) * 255).astype(np.uint8)


def shown():
    """What each kind of file shows: (name, bytes, pixels (H, W, 3) or grey (H, W), its format)."""
    picture, black = Image.fromarray(quadrants()), Image.new("RGB", (WIDTH, HEIGHT), "black")
    for kind in ALL:
        yield "format", encode(picture, kind), quadrants(), kind
        yield "grey", encode(Image.fromarray(ramp(np.uint8, 255)), kind), ramp(np.uint8, 255), kind
    for kind in ("GIF", "PNG", "WEBP", "TIFF", "MPO"):  # the first frame, page or photo
        data = encode(picture, kind, save_all=True, append_images=[black])
        yield "frames", data, quadrants(), "JPEG" if kind == "MPO" else kind
    for kind, orientation in itertools.product(("JPEG", "PNG", "WEBP", "TIFF"), range(1, 9)):
        yield f"turn {orientation}", turned(quadrants(), orientation, kind), quadrants(), kind
    for orientation in (0, 9, 65535):  # there is no such
        yield f"turn {orientation}", turned(quadrants(), orientation), quadrants(), "PNG"
    compressed = turned(quadrants(), 6, "TIFF", compression="tiff_lzw")
    yield "turned and compressed", compressed, quadrants(), "TIFF"
    deep = ramp(np.uint16, 65535)
    yield "turned and 16 bits", turned(deep, 6), deep >> 8, "PNG"
    junk = b"Exif\0\0II*\0\xff\xff\xff\xff junk"
    yield "damaged EXIF", encode(picture, "JPEG", exif=junk), quadrants(), "JPEG"
    # Adobe's marker in a JPEG says that the inks are stored inverted.
    yield "CMYK", encode(picture.convert("CMYK"), "JPEG", quality=95), quadrants(), "JPEG"
    yield "CMYK", encode(picture.convert("CMYK"), "TIFF"), quadrants(), "TIFF"
    palette = picture.convert("P", palette=Image.Palette.ADAPTIVE)
    bits = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 3 == 0
    for kind in ("PNG", "GIF", "BMP", "TIFF"):
        yield "palette", encode(palette, kind), quadrants(), kind
        yield "one bit", encode(Image.fromarray(bits), kind), bits * np.uint8(255), kind
    two = Image.new("P", (4, 4), 0)
    two.putpalette([*RED, *GREEN])
    mixed = np.full((4, 4, 3), (255, 127, 127))
    yield "half transparent", encode(two, "PNG", transparency=bytes([128])), mixed, "PNG"
    two.putpixel((2, 1), 1)
    expected = np.full((4, 4, 3), RED)
    expected[1, 2] = WHITE
    for clear, kind in ((1, "PNG"), (bytes([255, 0]), "PNG"), (1, "GIF")):
        yield f"palette, {clear} clear", encode(two, kind, transparency=clear), expected, kind
    rgba = np.dstack([quadrants(), np.full((HEIGHT, WIDTH), 255, np.uint8)])
    rgba[:, : WIDTH // 2, 3] = 0
    half = quadrants()
    half[:, : WIDTH // 2] = 255
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        yield "alpha", encode(Image.fromarray(rgba), kind, **options), half, "PNG"
    for alpha, level in ((0, 255), (255, 40)):
        grey = Image.merge("LA", [Image.new("L", (5, 3), 40), Image.new("L", (5, 3), alpha)])
        yield f"grey, alpha {alpha}", encode(grey, "PNG"), np.full((3, 5), level), "PNG"
    for mode, key in (("L", 7), ("RGB", RED)):
        data = encode(Image.new(mode, (4, 4), key), "PNG", transparency=key)
        yield f"{mode}, a colour clear", data, np.full((4, 4), 255), "PNG"
    for kind, top in itertools.product(("PNG", "TIFF"), (65535, 4000)):
        values = ramp(np.uint16, top)
        yield f"16 bits to {top}", encode(Image.fromarray(values), kind), values >> 8, kind
    yield "16 bits", tiff(deep, 16), deep >> 8, "TIFF"
    yield "16 bits, big end first", tiff(deep, 16, order=">"), deep >> 8, "TIFF"
    yield "16 bits, white is 0", tiff(deep, 16, photometric=0), 255 - (deep >> 8), "TIFF"
    yield "12 bits", tiff(ramp(np.uint16, 4095), 12), ramp(np.uint16, 4095) >> 4, "TIFF"
    for dtype, (low, high) in itertools.product((np.int32, np.float32), ((0, 1e6), (-5, 5))):
        values = (ramp(np.float64, high - low) + low).astype(dtype)
        data = encode(Image.fromarray(values), "TIFF")
        yield f"{dtype.__name__} from {low}", data, scaled(values), "TIFF"
    odd = np.array([[0.0, 0.5, 1.0], [np.nan, np.inf, -np.inf]], np.float32)
    same = np.full((3, 3), 0.7, np.float32)
    for name, values, levels in (
        ("odd values", odd, [[0, 128, 255], [0, 0, 0]]),
        ("one value", same, np.zeros((3, 3))),
        ("no value", same * np.nan, np.zeros((3, 3))),
    ):
        yield name, encode(Image.fromarray(values), "TIFF"), np.array(levels), "TIFF"
    row = b"\0" + struct.pack(">6H", 0xFF00, 0x8000, 0, 0x0102, 0xFFFF, 0x7F00)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
    data += chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    yield "16 bits of colour", data, np.array([[[255, 128, 0], [1, 255, 127]]]), "PNG"


@pytest.mark.parametrize(
    ("data", "expected", "kind"),
    [pytest.param(*of, id=f"{name}, {of[2]}, {i}") for i, (name, *of) in enumerate(shown())],
)
def test_a_file_shows_what_a_viewer_shows(data, expected, kind):
    found = decode(data)
    grey = expected.ndim == 2
    assert_close(found, np.dstack([expected] * 3) if grey else expected, kind)
    assert not grey or kind == "WEBP" or (found == found[..., :1]).all()
    assert {*read_size(data)} == {*expected.shape[:2]}  # before it is turned


def test_ink_in_cmyk_darkens():
    for black, levels in ((255, range(10)), (0, range(246, 256))):
        ink = decode(encode(Image.new("CMYK", (8, 8), (0, 0, 0, black)), "JPEG"))
        assert {*ink.ravel().tolist()} <= {*levels}


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.9])
def test_a_truncated_file_has_a_reason(kind, kept):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), kind)
    with pytest.raises(UnreadableImage, match=r"damaged|not a JPEG"):
        decode(data[: int(len(data) * kept)])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"\0" * 400, "not a JPEG"),
        (b"<html>404 not found</html>", "not a JPEG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a JPEG"),
        (b"GIF89a" + bytes(7) + b";", "not a JPEG|no pixels|damaged"),
    ],
)
def test_what_is_no_image_has_a_reason(data, reason):
    with pytest.raises(UnreadableImage, match=reason):
        decode(data)
    with pytest.raises(UnreadableImage):
        read_size(data)


@pytest.mark.parametrize("read", [decode, read_size])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(read):
    data = bytearray(encode(Image.new("1", (64, 64)), "BMP"))
    struct.pack_into("<ii", data, 18, 50_000, 50_000)
    with pytest.raises(UnreadableImage, match="large"):
        read(bytes(data))


@pytest.mark.parametrize("read", [decode, read_size])
def test_an_image_that_pillow_only_warns_of_is_refused_with_its_size(monkeypatch, read):
    assert decoding.MAX_PIXELS > 12_000 * 9_000  # phones make such photos
    monkeypatch.setattr(decoding, "MAX_PIXELS", HEIGHT * WIDTH - 1)
    data = encode(Image.fromarray(quadrants()), "PNG")
    with pytest.raises(UnreadableImage, match=f"large: {WIDTH} x {HEIGHT} pixels, more than 959"):
        read(data)
    monkeypatch.setattr(decoding, "MAX_PIXELS", HEIGHT * WIDTH)
    read(data)


@pytest.mark.parametrize(
    "bomb",
    [
        chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(50_000_000))),
        chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(50_000_000))),
        chunk(b"iTXt", b"x\0\1\0\0\0" + zlib.compress(bytes(50_000_000))),
        chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(900_000))) * 80,
    ],
    ids=["iCCP", "zTXt", "iTXt", "many zTXt"],
)
def test_metadata_that_unpacks_to_a_thousand_times_its_size_is_refused(bomb):
    with pytest.raises(UnreadableImage, match=r"too large|Too much memory"):
        decode(flat_png(4, 4, bomb))


def with_scans(count, *, tail=b""):
    """A progressive JPEG whose last scan is there ``count`` times."""
    data = encode(Image.fromarray(quadrants()), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + scan * (count - 1) + b"\xff\xd9" + tail


def test_a_jpeg_of_thousands_of_scans_is_refused():
    with pytest.raises(UnreadableImage, match="more than 100 scans"):
        decode(with_scans(2000))
    # Few scans, of which a video behind the photo seems to have more.
    for data in (with_scans(20), with_scans(1, tail=b"\0\2" + b"\xff\xda\0\2" * 1000)):
        assert_close(decode(data), quadrants(), "JPEG")


def with_header(extra):
    """A JPEG with these bytes between its first marker and the rest."""
    data = encode(Image.fromarray(quadrants()), "JPEG")
    return data[:2] + extra + data[2:]


@pytest.mark.parametrize(
    "extra",
    [
        b"\xff\xe5\0\2" * 1100,
        b"\xff\xe5\0\x06abcd" * 1100,
        b"\xff\xd8" * 1100,  # markers without a length
        b"\xff\xd9\xff\xff" * 1100,
        b"\xff\xc8\xff\xf0" * 550,
        b"\xff\xe0\0\2" + b"\0" * 150_000,  # bytes that Pillow passes over one by one
        b"\xff" * 150_000,
        b"\xff\xe0\0\2" + b"\xff\0" * 75_000,
    ],
)
def test_a_jpeg_whose_header_is_endless_is_refused_before_it_is_walked(monkeypatch, extra):
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("Pillow walks it"))
    for data in (with_header(extra), with_header(extra)[: len(extra)]):  # also one without an end
        for read in (decode, read_size):
            with pytest.raises(UnreadableImage, match="1,000 segments or 100,000 stray bytes"):
                read(data)


def test_a_jpeg_with_profiles_and_previews_or_a_video_behind_it_is_read():
    large = b"\xff\xe2\xff\xff" + b"\xff" * 65_533
    profiles = large * 300 + b"\xff\xe5\0\2" * 600 + b"\0" * 500 + b"\xff" * 500
    for data in (with_header(profiles), with_header(b"") + b"\xff\xe5\0\2" * 2000):
        assert_close(decode(data), quadrants(), "JPEG")


def test_large_images_are_decoded_one_at_a_time(monkeypatch):
    monkeypatch.setattr(decoding, "LARGE_PIXELS", 0)
    busy, most = 0, 0
    rgb = decoding._rgb

    def counted(image):
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        time.sleep(0.01)
        busy -= 1
        return rgb(image)

    monkeypatch.setattr(decoding, "_rgb", counted)
    data = encode(Image.fromarray(quadrants()), "PNG")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(decode, [data] * 8))
    assert most == 1


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF"])
def test_a_single_pixel_and_extreme_ratios(kind, size):
    assert decode(encode(Image.new("RGB", size, WHITE), kind)).shape == (size[1], size[0], 3)


def test_a_lack_of_memory_is_the_images_fault(monkeypatch):
    def exhausted(image):
        raise MemoryError

    monkeypatch.setattr(decoding, "_rgb", exhausted)
    with pytest.raises(UnreadableImage, match="more memory than there is"):
        decode(encode(Image.fromarray(quadrants()), "PNG"))


def test_hundreds_of_frames_cost_no_more_than_the_first():
    frames = [Image.new("L", (4, 4), i % 2 * 255) for i in range(500)]
    for kind in ("GIF", "TIFF"):
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
        began = time.perf_counter()
        assert decode(data).max() == 0
        assert time.perf_counter() - began < 2


def test_tiff_directories_in_a_circle():
    data = bytearray(tiff(ramp(np.uint16, 65535), 16))
    at = struct.unpack_from("<I", data, 4)[0]
    struct.pack_into("<I", data, at + 2 + 12 * struct.unpack_from("<H", data, at)[0], at)
    assert decode(bytes(data)).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(
    ("kind", "plugin"),
    [("EPS", "EpsImagePlugin"), ("ICO", "IcoImagePlugin"), ("PPM", "PpmImagePlugin"),
     ("TGA", "TgaImagePlugin"), ("PCX", "PcxImagePlugin"), ("PDF", "PdfImagePlugin")],
)  # fmt: skip
def test_other_decoders_of_pillow_are_never_reached(kind, plugin, monkeypatch):
    data = encode(Image.fromarray(quadrants()), kind)
    Image.init()

    def reached(*arguments):
        raise SystemExit(f"{plugin} was asked")  # no Exception, so that nothing catches it

    for name in set(Image.OPEN) - {*decoding.FORMATS}:
        monkeypatch.setitem(Image.OPEN, name, (reached, reached))
    with pytest.raises(UnreadableImage, match=r"^the file is not a JPEG"):
        decode(data)


def test_random_damage_never_raises_anything_else():
    random = np.random.default_rng(1)
    reasons = []
    noise = Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8))
    for kind in ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"]:
        whole = np.frombuffer(encode(noise, kind), np.uint8)
        for _ in range(60):
            damaged = whole.copy()
            places = random.integers(0, min(len(damaged), 400), size=8)
            damaged[places] = random.integers(0, 256, size=8)
            try:
                assert decode(damaged.tobytes()).shape[2] == 3
            except UnreadableImage as error:
                reasons.append(str(error))
    assert len(reasons) > 50
    assert all(reasons)


def test_the_pixels_may_be_written():
    pixels = decode(encode(Image.fromarray(quadrants()), "PNG"))
    pixels[:] = 7
    assert pixels.max() == 7
