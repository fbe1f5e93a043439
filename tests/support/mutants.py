"""Files as a fault or an enemy leaves them: mutations of real ones, and what must bear them.

A mutant is made from the kind and the number alone, so that any that breaks something can be made
again: ``MUTANTS["image"](seeds, number)``.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import struct
import tarfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Seeds = Mapping[str, Mapping[str, bytes]]  # kind -> what it is -> file
EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
WORDS = (b"null", b"-1", b"0", b"1e999", b"NaN", b"[]", b"{}", b'""', b"true", b"9" * 11, b"\xff")
HEADER = 200  # bytes, where the fields are that say sizes and kinds
OPTIONS = {  # of what Pillow writes: mode, format, options
    "jpeg": ("RGB", "JPEG", {"quality": 85}),
    "progressive jpeg": ("RGB", "JPEG", {"progressive": True}),
    "cmyk jpeg": ("CMYK", "JPEG", {}),
    "png": ("RGB", "PNG", {}),
    "palette png": ("P", "PNG", {"transparency": 3}),
    "16-bit png": ("I;16", "PNG", {}),
    "alpha png": ("RGBA", "PNG", {}),
    "webp": ("RGB", "WEBP", {"quality": 80}),
    "lossless webp": ("RGBA", "WEBP", {"lossless": True}),
    "bmp": ("RGB", "BMP", {}),
    "palette bmp": ("P", "BMP", {}),
    "tiff": ("RGB", "TIFF", {}),
    "lzw tiff": ("RGB", "TIFF", {"compression": "tiff_lzw"}),
    "deflate tiff": ("RGBA", "TIFF", {"compression": "tiff_adobe_deflate"}),
    "jpeg tiff": ("RGB", "TIFF", {"compression": "jpeg"}),
    "float tiff": ("F", "TIFF", {}),
    "16-bit tiff": ("I;16", "TIFF", {}),
    "gif": ("P", "GIF", {}),
}
ANIMATED = {"mpo": "MPO", "animated gif": "GIF", "animated png": "PNG", "animated webp": "WEBP"}


def image_seeds(photos: np.ndarray) -> dict[str, bytes]:
    """Photos uint8 (N, H, W, 3) in every format and mode, with EXIF where it may be."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0a comment"
    found = {}
    for number, (name, (mode, kind, options)) in enumerate(OPTIONS.items()):
        photo = Image.fromarray(photos[number % len(photos)])
        if mode == "I;16":
            deep = np.asarray(photo.convert("L")).astype(np.uint16) * 257
            picture = Image.fromarray(deep)
        else:
            picture = photo.convert("RGB" if mode == "RGB" else mode)
        described = {} if kind in ("BMP", "GIF") else {"exif": exif}
        found[name] = _saved(picture, kind, **options, **described)
    first, *others = (Image.fromarray(photo) for photo in photos)
    for name, kind in ANIMATED.items():
        found[name] = _saved(first, kind, save_all=True, append_images=others[:3])
    return found


def _saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def manifest_seeds(images: list[bytes]) -> dict[str, bytes]:
    """Manifests of the images: with paths as CSV, with paths, bytes and pairs as Parquet."""
    import pyarrow as pa
    import pyarrow.ipc as ipc
    import pyarrow.parquet as pq

    count = len(images)
    labels = [("ant", "bee", None)[i % 3] for i in range(count)]
    splits = [("train", "val", "test")[i % 3] for i in range(count)]
    names = [f"{i}.img" for i in range(count)]
    text = io.StringIO()
    rows = zip(names, labels, splits, strict=True)
    csv.writer(text).writerows([("image", "label", "split"), *rows])
    found = {"csv": text.getvalue().encode()}
    classes = {"names": ["ant", "bee"], "_type": "ClassLabel"}
    features = {"info": {"features": {"image": {"_type": "Image"}, "label": classes}}}
    of_hub = {"huggingface": json.dumps(features)}
    pairs = [{"bytes": data, "path": None} for data in images]
    tables = {
        "paths": pa.table({"image": names, "label": labels, "split": splits}),
        "bytes": pa.table({"image": pa.array(images, pa.binary()), "label": labels}),
        "hub": pa.table({"image": pairs, "label": [i % 2 for i in range(count)]}, metadata=of_hub),
    }
    for name, table in tables.items():
        file = io.BytesIO()
        pq.write_table(table, file, row_group_size=5)
        found[name] = file.getvalue()
    file = io.BytesIO()
    with ipc.new_stream(file, tables["hub"].schema) as stream:
        stream.write_table(tables["hub"], max_chunksize=5)
    found["arrow"] = file.getvalue()
    return found


def tar_seeds(images: list[bytes]) -> dict[str, bytes]:
    """WebDataset tars of the images with labels, in each of tar's dialects."""
    found = {}
    for name, kind in {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT,
                       "pax": tarfile.PAX_FORMAT}.items():  # fmt: skip
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=kind) as tar:
            for i, data in enumerate(images):
                of_key = {"jpg": data, "cls": b"1", "json": b'{"label": "ant"}'}
                for suffix, content in of_key.items():
                    folder = "ü" * 60 if kind != tarfile.USTAR_FORMAT else "u"
                    info = tarfile.TarInfo(f"{folder}/{i:03d}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        found[name] = file.getvalue()
    return found


def model_seeds(folder: Path) -> dict[str, bytes]:
    """The files of a small model folder and of its export, made in ``folder``."""
    import torch

    from tutelage.deploy.onnx import export_onnx
    from tutelage.models.folder import SPEC, WEIGHTS, save_model
    from tutelage.models.zoo import create, cut

    torch.manual_seed(0)
    options = {"canvas": 32, "input_size": 32, "weights": "none"}
    model = cut(create("test_efficientnet", ["ant", "bee"], **options), 3).eval()
    save_model(model, folder)
    export_onnx(model, folder / "model.onnx")
    return {name: (folder / name).read_bytes() for name in (SPEC, WEIGHTS, "model.onnx")}


def mutate(data: bytes, others: list[bytes], random: np.random.Generator) -> bytes:
    """One to three faults in a file's bytes; every other file's checksums are made right again."""
    for _ in range(random.integers(1, 4)):
        if data:
            data = FAULTS[random.integers(len(FAULTS))](data, others, random)
    return _checked(data) if random.random() < 0.5 else data


def _checked(data: bytes) -> bytes:
    """A PNG or a tar whose checksums hold, so that its readers look further than them."""
    changed = bytearray(data)
    at = 8
    while data.startswith(b"\x89PNG") and at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        changed[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    for at in range(0, len(data) - 511, 512):
        if data[at + 257 : at + 262] == b"ustar":
            rest = data[at : at + 148] + b" " * 8 + data[at + 156 : at + 512]
            changed[at + 148 : at + 156] = b"%06o\0 " % sum(rest)
    return bytes(changed[: len(data)])


def _flip(data: bytes, others: list[bytes], random: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for place in random.integers(len(data), size=random.integers(1, 20)):
        changed[place] ^= 1 << random.integers(8)
    return bytes(changed)


def _cut(data: bytes, others: list[bytes], random: np.random.Generator) -> bytes:
    return data[: random.integers(len(data))]


def _splice(data: bytes, others: list[bytes], random: np.random.Generator) -> bytes:
    other = others[random.integers(len(others))]
    return data[: random.integers(len(data))] + other[random.integers(len(other)) :]


def _header(data: bytes, others: list[bytes], random: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for place in random.integers(min(HEADER, len(data)), size=random.integers(1, 6)):
        changed[place] = random.integers(256)
    return bytes(changed)


def _repeat(data: bytes, others: list[bytes], random: np.random.Generator) -> bytes:
    start, end = sorted(random.integers(len(data) + 1, size=2))
    end = min(end, start + 4096)
    return data[:end] + data[start:end] * random.integers(1, 20) + data[end:]


def _remove(data: bytes, others: list[bytes], random: np.random.Generator) -> bytes:
    start = random.integers(len(data))
    return data[:start] + data[start + random.integers(1, 64) :]


def _length(data: bytes, others: list[bytes], random: np.random.Generator) -> bytes:
    """Write a number that a parser may take for a length or a count, mostly in the header."""
    near = min(HEADER, len(data)) if random.random() < 0.7 else len(data)
    kind = "<>"[random.integers(2)] + "HIQ"[random.integers(3)]
    most = 256 ** struct.calcsize(kind) - 1
    value = min(int(EXTREMES[random.integers(len(EXTREMES))]), most)
    place = random.integers(near)
    return data[:place] + struct.pack(kind, value) + data[place + struct.calcsize(kind) :]


def _digits(data: bytes, others: list[bytes], random: np.random.Generator) -> bytes:
    """Change a word or a number of a text, such as JSON."""
    word = WORDS[random.integers(len(WORDS))]
    found = [*re.finditer(rb"-?\d[\d.]*|\"[^\"]{0,40}\"", data[:20_000])]
    if not found:
        return data + word
    place = found[random.integers(len(found))]
    return data[: place.start()] + word + data[place.end() :]


FAULTS = (_flip, _cut, _splice, _header, _repeat, _remove, _length, _digits)


def mutant(seeds: Seeds, kind: str, number: int) -> tuple[str, bytes]:
    """What mutant ``number`` of a kind is called, and its bytes."""
    files = seeds[kind]
    name = [*files][number % len(files)]
    random = np.random.default_rng([sum(kind.encode()), number])
    return name, mutate(files[name], [*files.values()], random)


def try_image(name: str, data: bytes, folder: Path) -> str:
    """Read an image; return why not, or "" if it could be read."""
    from tutelage.data.decode import UnreadableImage, decode, read_size

    reason = ""
    for read in (read_size, decode):
        try:
            read(data)
        except UnreadableImage as error:
            reason = str(error) or "no reason"
    return reason


def try_manifest(name: str, data: bytes, folder: Path) -> str:
    """Read a manifest and its images."""
    from tutelage.data.open import read_catalog
    from tutelage.system.errors import TutelageError

    place = folder / ("m.csv" if name == "csv" else "train.parquet")
    whole: Path = place
    if name == "arrow":
        place, whole = folder / "set" / "a.arrow", folder / "set"
        whole.mkdir(exist_ok=True)
        (whole / "state.json").write_text('{"_data_files": [{"filename": "a.arrow"}]}')
    elif name != "bytes":
        for number in range(12):
            if not (picture := folder / f"{number}.img").exists():
                picture.write_bytes(_saved(Image.new("RGB", (3, 2)), "PNG"))
    place.write_bytes(data)
    try:
        catalog = read_catalog(whole)
    except TutelageError as error:
        return str(error) or "no reason"
    return _unreadable(catalog.source.read, len(catalog), folder)


def _unreadable(read: Callable[[int], bytes], count: int, folder: Path) -> str:
    """The first reason among images that cannot be had or decoded."""
    reasons = []
    for index in range(min(count, 100)):
        try:
            reasons.append(try_image("", read(index), folder))
        except OSError as error:
            reasons.append(str(error) or "no reason")
    return next(filter(None, reasons), "")


def try_tar(name: str, data: bytes, folder: Path) -> str:
    """Index a tar and read its images and labels."""
    from tutelage.data.tars import index_tar, label_of, read_member, tar_images
    from tutelage.system.errors import TutelageError

    file = io.BytesIO(data)
    try:
        members, refusals = index_tar(file, "pool.tar")
        found = tar_images(members)
        for _image, label in found:
            if label is not None:
                label_of(label, read_member(file, label))
    except TutelageError as error:
        return str(error) or "no reason"
    refused = [reason or "no reason" for _, reason in refusals]
    of_images = _unreadable(lambda i: read_member(file, found[i][0]), len(found), folder)
    return next(iter(refused), of_images)


def try_model(name: str, data: bytes, folder: Path) -> str:
    """Open a model folder or an exported file and ask it about an image."""
    from tutelage.deploy.graph import TorchModel
    from tutelage.deploy.runtime import OnnxModel
    from tutelage.models.folder import load_model
    from tutelage.system.errors import TutelageError

    whole = folder / "whole"
    if not whole.exists():
        whole.mkdir()
        model_seeds(whole)
    broken = folder / "broken"
    shutil.rmtree(broken, ignore_errors=True)
    shutil.copytree(whole, broken)
    (broken / name).write_bytes(data)
    image = np.zeros((40, 30, 3), dtype=np.uint8)
    try:
        exported = name.endswith(".onnx")
        opened: Any = OnnxModel(broken / name) if exported else TorchModel(load_model(broken))
        opened.probabilities([image])
    except TutelageError as error:
        return str(error) or "no reason"
    return ""


TRIES = {"image": try_image, "manifest": try_manifest, "tar": try_tar, "model": try_model}


def make_seeds(photos: np.ndarray, folder: Path) -> dict[str, dict[str, bytes]]:
    """Real files of every kind, of photos uint8 (N, H, W, 3); models are made in ``folder``."""
    images = image_seeds(photos)
    several = [*images.values()][:12]
    return {
        "image": images,
        "manifest": manifest_seeds(several),
        "tar": tar_seeds(several),
        "model": model_seeds(folder),
    }
