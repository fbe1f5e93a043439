import io
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
        packed = [
            pairs[:, 0] >> 4,
            (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8,
            pairs[:, 1] & 255,
        ]
        pixels = np.stack(packed, axis=1).astype(np.uint8).tobytes()
    else:
        pixels = values.astype(values.dtype.newbyteorder(order)).tobytes()
    tags = {
        256: width,
        257: height,
        258: bits,
        259: 1,
        262: photometric,
        273: 8,
        277: 1,
        278: height,
        279: len(pixels),
    }
    directory = b"".join(struct.pack(order + "HHII", tag, 4, 1, v) for tag, v in tags.items())
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8 + len(pixels))
    return head + pixels + struct.pack(order + "H", len(tags)) + directory + bytes(4)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_every_format_gives_the_same_picture(kind):
    data = encode(Image.fromarray(quadrants()), kind)
    assert_close(decode(data), quadrants(), kind)
    assert read_size(data) == (WIDTH, HEIGHT)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "MPO"])
def test_the_first_frame_page_or_photo_before_its_preview_counts(kind):
    first, second = Image.fromarray(quadrants()), Image.new("RGB", (WIDTH, HEIGHT), "black")
    data = encode(first, kind, save_all=True, append_images=[second])
    assert_close(decode(data), quadrants(), "JPEG" if kind == "MPO" else kind)


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


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone_once(kind, orientation):
    stored = np.ascontiguousarray(UPRIGHT_TO_STORED[orientation](quadrants()))
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert_close(decode(encode(Image.fromarray(stored), kind, exif=exif)), quadrants(), kind)


def test_orientation_of_a_compressed_tiff_and_of_16_bits():
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.rot90(quadrants())
    data = encode(
        Image.fromarray(np.ascontiguousarray(stored)), "TIFF", exif=exif, compression="tiff_lzw"
    )
    assert_close(decode(data), quadrants())
    deep = np.ascontiguousarray(np.rot90(ramp(np.uint16, 65535)))
    assert_close(
        decode(encode(Image.fromarray(deep), "PNG", exif=exif))[..., 0], ramp(int, 65535) >> 8
    )


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_ignored(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert_close(decode(encode(Image.fromarray(quadrants()), "PNG", exif=exif)), quadrants())


def test_damaged_exif_leaves_the_pixels_alone():
    data = encode(Image.fromarray(quadrants()), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff junk")
    assert_close(decode(data), quadrants(), "JPEG")


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk(kind):
    data = encode(
        Image.fromarray(quadrants()).convert("CMYK"),
        kind,
        **{"quality": 95} if kind == "JPEG" else {},
    )
    if kind == "JPEG":
        assert b"Adobe" in data  # Adobe's marker: the inks are stored inverted
    assert_close(decode(data), quadrants(), kind)


def test_ink_in_cmyk_darkens():
    ink = Image.new("CMYK", (8, 8), (0, 0, 0, 255))
    assert decode(encode(ink, "JPEG")).max() < 10
    assert decode(encode(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG")).min() > 245


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF"])
def test_palette(kind):
    image = Image.fromarray(quadrants()).convert("P", palette=Image.Palette.ADAPTIVE)
    assert_close(decode(encode(image, kind)), quadrants())


@pytest.mark.parametrize("transparency", [1, bytes([255, 0])])
def test_palette_transparency_becomes_white(transparency):
    image = Image.new("P", (4, 4), 0)
    image.putpalette([*RED, *GREEN])
    image.putpixel((2, 1), 1)
    expected = np.full((4, 4, 3), RED, np.uint8)
    expected[1, 2] = WHITE
    assert_close(decode(encode(image, "PNG", transparency=transparency)), expected)


def test_a_half_transparent_palette_is_mixed_with_white():
    image = Image.new("P", (4, 4), 0)
    image.putpalette([*RED, *GREEN])
    assert decode(encode(image, "PNG", transparency=bytes([128])))[0, 0].tolist() == [255, 127, 127]


def test_gif_transparency_becomes_white():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([*RED, *GREEN])
    assert_close(decode(encode(image, "GIF", transparency=1)), np.full((4, 4, 3), 255, np.uint8))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_composited_on_white(kind):
    rgba = np.dstack([quadrants(), np.full((HEIGHT, WIDTH), 255, np.uint8)])
    rgba[:, : WIDTH // 2, 3] = 0
    expected = quadrants()
    expected[:, : WIDTH // 2] = 255
    options = {"lossless": True} if kind == "WEBP" else {}
    assert_close(decode(encode(Image.fromarray(rgba), kind, **options)), expected)


def test_grey_with_alpha():
    image = Image.merge("LA", [Image.new("L", (5, 3), 40), Image.new("L", (5, 3), 0)])
    assert decode(encode(image, "PNG")).min() == 255
    image.putalpha(255)
    assert_close(decode(encode(image, "PNG")), np.full((3, 5, 3), 40, np.uint8))


@pytest.mark.parametrize(("mode", "key", "pixel"), [("L", 7, 7), ("RGB", RED, RED)])
def test_a_colour_key_becomes_white(mode, key, pixel):
    data = encode(Image.new(mode, (4, 4), pixel), "PNG", transparency=key)
    assert decode(data).min() == 255


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "GIF", "WEBP"])
def test_grey_becomes_three_equal_channels(kind):
    grey = ramp(np.uint8, 255)
    found = decode(encode(Image.fromarray(grey), kind))
    assert_close(found, np.dstack([grey] * 3), kind)
    assert kind == "WEBP" or (found == found[..., :1]).all()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF"])
def test_one_bit(kind):
    bits = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 3 == 0
    expected = np.dstack([bits.astype(np.uint8) * 255] * 3)
    assert_close(decode(encode(Image.fromarray(bits), kind)), expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("top", [65535, 4000])
def test_16_bit_grey_keeps_the_high_byte(kind, top):
    deep = ramp(np.uint16, top)
    found = decode(encode(Image.fromarray(deep), kind))
    assert_close(found, np.dstack([(deep >> 8).astype(np.uint8)] * 3))


def test_16_bit_tiff_of_both_byte_orders_and_polarities():
    deep = ramp(np.uint16, 65535)
    expected = np.dstack([(deep >> 8).astype(np.uint8)] * 3)
    assert_close(decode(tiff(deep, 16)), expected)
    assert_close(decode(tiff(deep, 16, order=">")), expected)
    assert_close(decode(tiff(deep, 16, photometric=0)), 255 - expected)


def test_12_bit_tiff_uses_its_own_range():
    deep = ramp(np.uint16, 4095)
    assert_close(decode(tiff(deep, 12)), np.dstack([(deep >> 4).astype(np.uint8)] * 3))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
@pytest.mark.parametrize(("low", "high"), [(0, 1_000_000), (-5, 5)])
def test_32_bit_values_go_from_their_minimum_to_their_maximum(dtype, low, high):
    values = (ramp(np.float64, high - low) + low).astype(dtype)
    scaled = (values.astype(float) - values.min()) / (float(values.max()) - values.min())
    found = decode(encode(Image.fromarray(values), "TIFF"))
    assert_close(found, np.dstack([np.rint(scaled * 255).astype(np.uint8)] * 3))


def test_float_with_nan_infinity_or_one_value():
    values = np.array([[0.0, 0.5, 1.0], [np.nan, np.inf, -np.inf]], np.float32)
    found = decode(encode(Image.fromarray(values), "TIFF"))
    assert found[..., 0].tolist() == [[0, 128, 255], [0, 0, 0]]
    same = np.full((3, 3), 0.7, np.float32)
    assert decode(encode(Image.fromarray(same), "TIFF")).max() == 0
    assert decode(encode(Image.fromarray(same * np.nan), "TIFF")).max() == 0


def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def flat_png(width, height, *before_pixels):
    """A black RGB PNG, of which a good part is zeros."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes((1 + 3 * width) * height))
    parts = [chunk(b"IHDR", head), *before_pixels, chunk(b"IDAT", rows), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_16_bit_colour_png():
    row = b"\0" + struct.pack(">6H", 0xFF00, 0x8000, 0, 0x0102, 0xFFFF, 0x7F00)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
    data += chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    assert decode(data).tolist() == [[[255, 128, 0], [1, 255, 127]]]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
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
    monkeypatch.setattr(decoding, "MAX_PIXELS", HEIGHT * WIDTH - 1)
    data = encode(Image.fromarray(quadrants()), "PNG")
    with pytest.raises(UnreadableImage, match=f"large: {WIDTH} x {HEIGHT} pixels, more than 959"):
        read(data)
    monkeypatch.setattr(decoding, "MAX_PIXELS", HEIGHT * WIDTH)
    read(data)


def test_the_photo_of_a_108_megapixel_phone_is_not_a_bomb():
    assert decoding.MAX_PIXELS > 12_000 * 9_000


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
    assert_close(decode(with_scans(20)), quadrants(), "JPEG")


def test_a_video_behind_a_photo_is_not_taken_for_its_scans():
    data = with_scans(1, tail=b"\0\2" + b"\xff\xda\0\2" * 1000)
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


def test_a_jpeg_with_as_much_metadata_as_profiles_and_previews_need_is_read():
    large = b"\xff\xe2\xff\xff" + b"\xff" * 65_533
    data = with_header(large * 300 + b"\xff\xe5\0\2" * 600 + b"\0" * 500 + b"\xff" * 500)
    assert_close(decode(data), quadrants(), "JPEG")


def test_a_video_of_many_segments_behind_a_photo_is_not_its_header():
    data = encode(Image.fromarray(quadrants()), "JPEG") + b"\xff\xe5\0\2" * 2000
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
