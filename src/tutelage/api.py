"""The verbs: what the command line calls, and Python callers too."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.config import make_config
from tutelage.data.catalog import Catalog
from tutelage.data.decode import decode
from tutelage.data.folder import as_text
from tutelage.data.open import Data, in_memory, is_in_memory, open_data
from tutelage.data.sources import read_file
from tutelage.deploy.answers import Prediction, answer, each_image, reason_of
from tutelage.deploy.samples import PARITY_IMAGES, noise_images, readable_images
from tutelage.stats.metrics import metrics
from tutelage.system.cores import cores
from tutelage.system.errors import TutelageError, need
from tutelage.system.ranks import env_int

# Of exported models, and what each is called in the model folder.
FORMATS = {"onnx": "model.onnx", "torch": "model.pt2", "timm": "timm", "hub": "hub"}
CALIBRATION_IMAGES = 128  # for int8
JUDGED_IMAGES = 512  # others, on which int8 is judged


def run(data: Data, out: Path | str, *, quiet: bool = False, **settings: Any) -> dict[str, Any]:
    """The whole chain on your images: teacher, student, ONNX, report.

    Args:
        data: a folder, a .csv or .parquet manifest, a data set of Hugging Face or torchvision, or
            several by their splits, as in ``{"train": a, "test": b, "unlabeled": c}``.
        out: the run folder; the same call continues a run that was cut off.
        quiet: print nothing.
        settings: any setting of ``tutelage run --help``, by name.

    Returns:
        The content of metrics.json.

    Raises:
        TutelageError: what was found, what was expected, and the mend.
        OSError: a file, which it names, cannot be read or written; the same call goes on.
    """
    return _train("run", *open_data(data), Path(out), settings, quiet=quiet)


def transfer(
    data: Data, out: Path | str, *, quiet: bool = False, **settings: Any
) -> dict[str, Any]:
    """A new head on a pretrained trunk: probe and transfer; the better one is ``teacher/``."""
    return _train("transfer", *open_data(data), Path(out), settings, quiet=quiet)


def self_train(
    data: Data, out: Path | str, *, quiet: bool = False, **settings: Any
) -> dict[str, Any]:
    """Probe, transfer and rounds of self-training on the pool; the result is ``teacher/``."""
    return _train("self-train", *open_data(data), Path(out), settings, quiet=quiet)


def distill(data: Data, out: Path | str, *, quiet: bool = False, **settings: Any) -> dict[str, Any]:
    """Distil the model folder ``teacher=`` into a small student, on images with and without label.

    A pool alone will do: the classes are the teacher's.
    """
    return _train("distill", *open_data(data), Path(out), settings, quiet=quiet)


def demo(
    out: Path | str = "tutelage-demo", *, quiet: bool = False, **settings: Any
) -> dict[str, Any]:
    """The whole chain on solar cells: functional or defective, from 20 labels a class."""
    from tutelage.data.demo import NOTES, solar_cells

    settings = {"labels_per_class": 20, **settings}
    return _train(
        "demo", solar_cells(), "elpv-dataset", Path(out), settings, notes=NOTES, quiet=quiet
    )


def augment(
    data: Data, out: Path | str, *, tune: bool = False, quiet: bool = False, **settings: Any
) -> dict[str, Any]:
    """Show what augmentation does to your images, and whether it helps to cover the unlabelled.

    Writes ``augment.html`` and ``augment.json`` into ``out``.

    Args:
        data: as for ``run``.
        out: the folder; the same call writes both files anew.
        tune: also search for the strong view that covers the unlabelled images best.
        quiet: print nothing.
        settings: any setting of ``tutelage augment --help``, by name.

    Returns:
        The content of augment.json.

    Raises:
        TutelageError: what was found, what was expected, and the mend.
    """
    for package in ("torch", "timm", "pyarrow", "jinja2", "matplotlib"):
        need(package, "train")
    from datetime import UTC, datetime

    from tutelage.chain import prepare
    from tutelage.explore import survey
    from tutelage.explore.page import render
    from tutelage.report.html import write_page

    config = make_config("augment", settings)
    catalog, told_data = open_data(data)
    tuned = tune or config.transfer.augment == "auto"
    with prepare.opened("augment", catalog, told_data, Path(out), config, quiet=quiet) as work:
        opened, folder, console = work
        done = survey.survey(opened, console, tuned=tuned)
    given = {**settings, "tune": tune or None}
    line = _command_line("augment", told_data, Path(out), given)
    created = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    content = {"command": line, "created": created, **survey.to_dict(done, catalog.names)}
    folder.write_json("augment.json", content)
    page = folder.path / "augment.html"
    write_page(render(survey.make_page(done, opened, line, created)), page)
    for name, cloud in content.get("clouds", {}).items():
        told = [
            f"{metric} {cloud[metric]['value']:.2f} [{cloud[metric]['low']:.2f}, "
            f"{cloud[metric]['high']:.2f}]"
            for metric in ("coverage", "density", "precision")
        ]
        console.say(f"  {name:<12} {'  '.join(told)}")
    console.say(content.get("verdict", f"not measured: {done.lack}"))
    if done.tuning is not None:
        console.say(f"search: {done.tuning.reason} ({done.tuning.seconds:.0f} s)")
    console.say(f"page: {page}")
    return content


def ladder(
    data: Data,
    out: Path | str,
    *,
    seeds: int = 5,
    arms: Sequence[str] | None = None,
    curve: Sequence[int] | None = None,
    hourly_price: float | None = None,
    quiet: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """What each stage buys on your data: the same arms on paired label draws, with intervals.

    Writes ``ladder.html`` and ``ladder.json`` into ``out``, anew after each draw from the second
    on, and a run folder for each seed.

    Args:
        data: as for ``run``, with test images.
        out: the folder; the same call goes on where it was cut off, also with more ``seeds``.
        seeds: label draws, at least 2: ``seed``, ``seed + 1``, and so on.
        arms: which of ``tutelage.ladder.arms.ARMS`` to train; None trains them all.
        curve: labels per class at which the unlabelled images are weighed, besides your own; empty
            for none; None for half and a quarter, or twice and four times as many.
        hourly_price: of this machine, to tell what each arm costs.
        quiet: print nothing.
        settings: any setting of ``tutelage ladder --help``, by name; ``minutes`` is for each seed.

    Returns:
        The content of ladder.json.

    Raises:
        TutelageError: what was found, what was expected, and the mend.
    """
    for package in ("torch", "timm", "pyarrow", "jinja2", "matplotlib", "onnx"):
        need(package, "train")
    from datetime import UTC, datetime

    from tutelage.ladder import curve as curves
    from tutelage.ladder import seeds as rungs
    from tutelage.ladder.page import render
    from tutelage.report.html import write_page

    config = make_config("ladder", settings)
    wanted = rungs.check_request(arms, seeds, config.data.seed)
    catalog, told = open_data(data)
    rungs.check_test(catalog)
    budgets = curves.check_budgets(curve, catalog, config.data.labels_per_class, wanted)
    given = {
        **settings,
        "seeds": seeds,
        "arms": None if arms is None else list(wanted),
        "curve": None if curve is None else list(budgets),
        "hourly_price": hourly_price,
    }
    words = _command_line("ladder", told, Path(out), given)
    for draws, folder, console in rungs.run_seeds(
        catalog, told, Path(out), config, wanted, seeds, budgets, quiet=quiet
    ):
        created = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        page = rungs.make_page(
            draws, catalog, config, command=words, created=created, price=hourly_price
        )
        content = rungs.to_dict(page)
        folder.write_json("ladder.json", content)
        path = folder.path / "ladder.html"
        write_page(render(page), path)
        if len(draws) < seeds:
            console.say(f"page of {len(draws)} draws so far: {path}")
    for change in content["differences"]:
        mean, low, high = (100 * part for part in (change["mean"], *change["ci95"]))
        console.say(
            f"  {change['arm']:<14} minus {change['minus']:<14} {mean:+5.1f} points "
            f"[{low:+.1f}, {high:+.1f}]  {change['verdict']}"
        )
    console.say(content["summary"])
    console.say(f"page: {path}")
    return content


def fit_catalog(
    command: str, catalog: Catalog, out: Path | str, settings: dict[str, Any]
) -> dict[str, Any]:
    """Run ``command`` on a catalog that was made in memory, quietly; return metrics.json.

    What the images are is part of the run's name, so that no other images' run is continued.
    """
    return _train(command, catalog, in_memory(catalog), Path(out), settings, quiet=True)


def _train(
    command: str,
    catalog: Catalog,
    data: str,
    out: Path,
    settings: dict[str, Any],
    *,
    notes: Sequence[str] = (),
    quiet: bool,
) -> dict[str, Any]:
    for package in ("torch", "timm", "pyarrow", "jinja2", "matplotlib", "onnx"):
        need(package, "train")
    from tutelage.chain.run import train

    return train(command, catalog, data, out, settings, notes=notes, quiet=quiet)


def _command_line(command: str, data: str, out: Path, settings: dict[str, Any]) -> str:
    """What repeats this run; of data in memory also what the images were."""
    from tutelage.data.runfolder import command_line

    what = f"  # DATA: {data}" if is_in_memory(data) else ""
    return command_line(command, data, str(out), settings) + what


def load_predictor(model: Path | str) -> tuple[tuple[str, ...], Any]:
    """Classes, and a function from uint8 RGB images to probabilities (N, K).

    An exported ``.onnx`` file (or a run folder with ``student.onnx``) needs only the base
    install; a model folder needs the extra ``train``.
    """
    opened = _open_model(Path(model))
    return opened.classes, opened.probabilities


def _open_model(path: Path, *, threads: int = 0) -> Any:
    """An ``OnnxModel`` with so many threads for a batch, or a ``TorchModel`` for a model folder."""
    path = _exported_file(path)
    if path.is_dir():
        need("torch", "train")
        from tutelage.deploy.graph import TorchModel
        from tutelage.models.folder import load_model

        return TorchModel(load_model(path))
    from tutelage.deploy.runtime import OnnxModel

    return OnnxModel(path, threads=threads)


def _exported_file(path: Path) -> Path:
    """The exported model of a run folder; any other path as it is."""
    if not (path.is_dir() and (path / "config.json").exists()):
        return path
    from tutelage.data.runfolder import RunFolder

    if "architecture" in RunFolder(path).read_json("config.json"):
        raise TutelageError(f"{path} is an export for timm; give the model that it was made from")
    ready = [f for f in (path / "student.onnx", path / "teacher" / "model.onnx") if f.exists()]
    if not ready:
        raise TutelageError(f"the run {path} is unfinished; repeat its command to continue it")
    return ready[0]


def exported_files(models: Sequence[Path | str]) -> list[Path]:
    """Exported files, in the place of a run folder those of its teacher and its student.

    Raises:
        TutelageError: a run folder without any, or a path that is no file.
    """
    files: list[Path] = []
    for model in map(Path, models):
        if _exported_file(model) == model:
            files.append(model)
            continue
        parts = ("teacher/model.onnx", "student.onnx", "student/model.int8.onnx")
        files += [file for part in parts if (file := model / part).exists()]
    if absent := [str(file) for file in files if not file.is_file()]:
        raise TutelageError(f"{absent[0]} is no exported model; tutelage export MODEL writes one")
    return files


def predict(
    model: Path | str, images: Sequence[Path | str], *, reject: bool = False
) -> tuple[list[Prediction], list[tuple[str, str]]]:
    """Classify image files.

    Args:
        model: an exported .onnx file, a model folder, or a run folder.
        images: files, or folders that are searched for images.
        reject: call images "unknown" whose energy lies above the model's threshold, which about
            95% of the labelled images stayed below when they were held out. The probabilities
            stay as they are. A class of that name makes it "(unknown)".

    Returns:
        The predictions in order, and (image, reason) of those that could not be read.

    Raises:
        TutelageError: no such model or image, or nothing to reject by.
    """
    opened = _open_model(Path(model), threads=1)
    if reject and opened.unknown_threshold is None:
        raise TutelageError(
            f"{model} has no threshold for unknown images: no label was held out while its teacher "
            "was made, or it is older than the threshold; train it again, with 2 or more labels "
            "per class (and export it again), or leave out --reject"
        )
    paths = _image_files(images)

    def look(path: Path) -> Prediction:
        name = as_text(str(path))
        (row,) = answer(opened, [name], [decode(read_file(path))], reject=reject)
        return row

    rows: list[Prediction] = []
    skipped: list[tuple[str, str]] = []
    for path, found in zip(paths, each_image(look, paths), strict=True):
        if isinstance(found, Prediction):
            rows.append(found)
        else:
            skipped.append((as_text(str(path)), reason_of(found)))
    return rows, skipped


def label(
    model: Path | str,
    images: Sequence[Path | str],
    out: Path | str,
    *,
    threshold: float = 0.95,
    accepted: Path | str | None = None,
    quiet: bool = False,
) -> dict[str, Any] | None:
    """Pseudo-label a pool, shard by shard; the same call continues what was cut off.

    Any number of processes may do so at the same time with the same arguments, on one machine or
    several that share ``out``: under torchrun, or started by hand.

    Args:
        model: an exported .onnx file, a run folder, or a model folder, which runs on the GPU
            ``LOCAL_RANK`` if there is one.
        images: tars, Parquet files, folders of images or of such shards, as paths or URLs;
            patterns with ``*`` and ``{000..099}`` stand for several.
        out: the folder of the labels, on a disk that all processes share.
        threshold: the probability that a pseudo-label needs to be accepted; 0.95 as in FixMatch
            (Sohn et al. 2020, arXiv:2001.07685).
        accepted: in the end, also write the accepted images to this manifest for ``run``: a .csv of
            paths, or a .parquet that holds the images, which shards need.
        quiet: print nothing.

    Returns:
        The content of ``label.json``; None when another process writes it.

    Raises:
        TutelageError: nothing to label, labels of another model in ``out``, a full disk, or shards
            that could not be read, after all others were labelled.
    """
    from tutelage.data.shards import find_shards
    from tutelage.deploy.accepted import check_manifest, write_accepted
    from tutelage.deploy.label_shards import label_shards
    from tutelage.system.console import Console

    if not 0 <= threshold <= 1:
        raise TutelageError(f"--threshold {threshold}: expected a probability, from 0 to 1")
    need("pyarrow", "train")
    inside = [p for p in map(Path, images) if Path(out).resolve().is_relative_to(p.resolve())]
    if inside:
        raise TutelageError(f"--out {out} lies in {inside[0]}, whose images are labelled; move it")
    path = _exported_file(Path(model))
    shards = find_shards(images)
    if accepted is not None:
        check_manifest(Path(accepted), shards)
    summary = label_shards(
        _engine(path),
        _digest_of(path),
        shards,
        Path(out),
        threshold=threshold,
        workers=max(1, cores() // env_int("LOCAL_WORLD_SIZE", 1)),
        rank=env_int("RANK", 0),
        world=env_int("WORLD_SIZE", 1),
        console=Console(quiet=quiet),
    )
    if summary is not None and accepted is not None:
        write_accepted(shards, Path(out), Path(accepted))
    if summary is not None and summary["failed"]:
        first, count = summary["failed"][0], len(summary["failed"])
        raise TutelageError(
            f"{count} of {len(shards)} shards could not be read (first: {first['shard']}: "
            f"{first['reason']}); the others are labelled. Mend {'it' if count == 1 else 'them'} "
            "and repeat the command, which tries them again"
        )
    return summary


def _engine(path: Path) -> Any:
    """A model as ``label_shards`` takes it."""
    from tutelage.deploy.label_shards import OnnxEngine

    if not path.is_dir():
        return OnnxEngine(_open_model(path, threads=1))
    need("torch", "train")
    import torch

    from tutelage.deploy.graph import TorchModel
    from tutelage.models.folder import load_model

    gpus = torch.cuda.device_count()  # several processes may share one, since decoding is slower
    device = f"cuda:{env_int('LOCAL_RANK', 0) % gpus}" if gpus else "cpu"
    return TorchModel(load_model(path), device)


def _digest_of(model: Path) -> str:
    """A digest of a model's files."""
    digest = hashlib.blake2b(digest_size=16)
    for file in (model / "model.json", model / "model.safetensors") if model.is_dir() else (model,):
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "blake2b").digest())
    return digest.hexdigest()


def _image_files(images: Sequence[Path | str]) -> list[Path]:
    from tutelage.data.folder import image_files

    out: list[Path] = []
    for item in map(Path, images):
        if item.is_dir():
            found = image_files(item)
            if not found:
                raise TutelageError(f"no images in {item}")
            out += found
        elif item.exists():
            out.append(item)
        else:
            raise TutelageError(f"no such image or folder: {item}")
    return out


def evaluate(model: Path | str, data: Data, *, split: str = "test") -> dict[str, Any]:
    """Accuracy with its 95% interval and the other figures on one split of a data set.

    Args:
        model: an exported .onnx file, a model folder, or a run folder.
        data: as for ``run``; a single data set in memory is the split that is asked for.
        split: "test", "val" or "train".

    Returns:
        The figures of metrics.json, with ``skipped``, how many images cannot be read, and their
        ``reasons`` by name.

    Raises:
        TutelageError: the split has no labelled image, or classes the model does not know.
    """
    opened = _open_model(Path(model), threads=1)
    catalog, told = open_data(data, split=split)
    rows = np.flatnonzero((catalog.splits == split) & (catalog.labels >= 0))
    if not len(rows):
        found = ", ".join(sorted(set(catalog.splits.tolist())))
        raise TutelageError(f"{told} has no labelled '{split}' images; its splits are: {found}")
    unknown = {catalog.classes[k] for k in catalog.labels[rows]} - set(opened.classes)
    if unknown:
        raise TutelageError(
            f"the model does not know the classes {', '.join(sorted(unknown))}; "
            f"it knows {', '.join(opened.classes)}"
        )
    index = {name: k for k, name in enumerate(opened.classes)}

    def look(row: int) -> np.ndarray:
        probs: np.ndarray = opened.probabilities([decode(catalog.source.read(row))])[0]
        return probs

    probs: list[np.ndarray] = []
    labels: list[int] = []
    reasons: dict[str, str] = {}
    for at, seen in zip(rows, each_image(look, rows.tolist()), strict=True):
        if isinstance(seen, np.ndarray):
            probs.append(seen)
            labels.append(index[catalog.classes[catalog.labels[at]]])
        else:
            reasons[catalog.names[at]] = reason_of(seen)
    if not probs:
        raise TutelageError(f"none of the {len(rows)} '{split}' images of {told} can be read")
    figures = metrics(np.stack(probs), np.array(labels))
    assert figures is not None
    return {"split": split, **figures, "skipped": len(reasons), "reasons": reasons}


def export(
    model: Path | str,
    out: Path | str | None = None,
    *,
    format: str = "onnx",
    int8: bool = False,
    images: Data | None = None,
    max_loss: float = 0.01,
) -> dict[str, Any]:
    """Export a model folder for another program, checked against torch.

    Args:
        model: a model folder (``RUN/teacher``, ``RUN/student``).
        out: the file, or of the formats timm and hub the new folder; default ``model.onnx``,
            ``model.pt2``, ``timm`` or ``hub`` in the model folder.
        format: "onnx" or "torch" (a .pt2 file of ``torch.export``), both with the preprocessing
            inside; "timm" (a folder that ``timm.create_model`` loads) or "hub" (a model folder
            with its ONNX file and a card).
        int8: also quantise, calibrated on ``images``; the float file is kept where int8 is not
            faster, or loses more than ``max_loss``.
        images: data as for ``run``, to check and to calibrate on; None takes the training images
            of the run that the model folder lies in, or else generated pictures to check.
        max_loss: of accuracy, as estimated; 0.01 is one point.

    Returns:
        What was written and how well it agrees.

    Raises:
        TutelageError: no model there, the exported model differs from torch or cannot be had in
            this format, or there are no images to calibrate on.
    """
    if format not in FORMATS:
        raise TutelageError(f"format is {format!r}, expected one of {', '.join(FORMATS)}")
    if int8 and format != "onnx":
        raise TutelageError(f"int8 models are ONNX files; leave out --format {format} or --int8")
    for package in ("torch", "timm", "onnx"):
        need(package, "train")
    from tutelage.models.folder import load_model

    loaded = load_model(model)
    path = Path(out) if out is not None else Path(model) / FORMATS[format]
    own = _own_images(Path(model), images)
    if int8 and not own:
        raise TutelageError(
            f"int8 is calibrated on real images, but {model} lies in no run folder; "
            "give some with --images"
        )
    shown = own[:PARITY_IMAGES] or noise_images(loaded.spec.canvas)
    checked = _written(loaded, path, format, shown, Path(model))
    told = "training images" if own else "generated"
    result: dict[str, Any] = {"path": str(path), **dataclasses.asdict(checked), "images": told}
    if int8:
        from tutelage.deploy.onnx import quantize_onnx

        half = min(CALIBRATION_IMAGES, (len(own) + 1) // 2)
        quantized = quantize_onnx(
            path, path.with_suffix(".int8.onnx"), own[:half], own[half:], max_loss=max_loss
        )
        result["int8"] = {**dataclasses.asdict(quantized), "path": str(quantized.path)}
    return result


def _written(
    model: Any, path: Path, format: str, images: Sequence[np.ndarray], origin: Path
) -> Any:
    """Write a model in one of the ``FORMATS`` and compare what was written with torch."""
    from tutelage.deploy import hub, onnx, program

    if format == "timm":
        return hub.export_timm(model, path, images, origin)
    if format == "hub":
        return hub.export_hub(model, path, images, origin)
    if format == "torch":
        program.export_torch(model, path)
        return onnx.parity(model, path, images, lambda shown: program.probabilities(path, shown))
    onnx.export_onnx(model, path)
    return onnx.parity(model, path, images)


def _own_images(model: Path, images: Data | None) -> list[np.ndarray]:
    """Training images of a data set, or of the run that a model folder lies in, as files hold them.

    Drawn at random, always the same; unreadable ones are passed over. Empty without either, and
    where the run's data was in memory.
    """
    from tutelage.data.runfolder import catalog_of, has_data

    if images is None and not has_data(model.parent):
        return []
    catalog = catalog_of(model.parent) if images is None else open_data(images)[0]
    rows = np.random.default_rng(0).permutation(np.flatnonzero(catalog.splits == "train"))
    return list(readable_images(catalog, rows[: CALIBRATION_IMAGES + JUDGED_IMAGES]))


def review(
    run: Path | str, *, data: Data | None = None, port: int = 0, browser: bool = True
) -> None:
    """Show a run's beliefs on a local page, and save what a person decides about them.

    The page is served on the loopback address until Ctrl-C, to who has the printed address.
    Decisions go to ``decisions.jsonl`` in the run folder; ``--decisions RUN`` gives them to
    another run as labels.

    Args:
        run: a finished run's folder.
        data: what the run was made from, if that was a data set in memory.
        port: 0 for a free one.
        browser: open the page there.

    Raises:
        TutelageError: nothing to review, or the port is taken.
    """
    import secrets
    import webbrowser

    from tutelage.data.decisions import FILE, Decisions
    from tutelage.review.app import make_app
    from tutelage.review.items import open_run
    from tutelage.system.web import bound_socket, run_app

    folder = Path(run)
    items = open_run(folder) if data is None else open_run(folder, *open_data(data))
    with Decisions(folder / FILE) as decisions:
        listening = bound_socket("127.0.0.1", port)
        port = listening.getsockname()[1]
        token = secrets.token_urlsafe(24)
        address = f"http://127.0.0.1:{port}/?token={token}"
        app = make_app(items, decisions, title=str(folder), port=port, token=token)
        print(f"review: {address}", flush=True)
        print(f"decisions are saved in {decisions.path}; Ctrl-C stops", flush=True)
        if browser:
            webbrowser.open(address)
        run_app(app, listening)


def serve(
    model: Path | str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    threads: int | None = None,
    max_mb: float = 32.0,
    max_images: int = 64,
    timeout: float = 30.0,
) -> None:
    """Answer HTTP requests with an exported model's predictions, until Ctrl-C.

    Args:
        model: an exported .onnx file, or a run folder.
        host: loopback alone by default; there is no authentication.
        port: 0 for a free one.
        threads: requests computed at once; None takes all cores.
        max_mb: megabytes of a request, at most.
        max_images: in one request, at most.
        timeout: seconds from a request to its answer, at most.

    Raises:
        TutelageError: no exported model there, a limit out of range, or the port is taken.
    """
    from tutelage.deploy.openapi import Limits
    from tutelage.deploy.runtime import OnnxModel
    from tutelage.deploy.serve import make_app
    from tutelage.system.cores import cores
    from tutelage.system.web import bound_socket, run_app

    threads = cores() if threads is None else threads
    for name, value in (("threads", threads), ("max-images", max_images)):
        if value < 1:
            raise TutelageError(f"--{name} is {value}; it must be at least 1")
    if not (max_mb > 0 and timeout > 0):
        raise TutelageError(f"--max-mb {max_mb:g} and --timeout {timeout:g} must be more than 0")
    path = _exported_file(Path(model))
    opened = OnnxModel(path, threads=1)
    listening = bound_socket(host, port)
    limits = Limits(
        request_bytes=round(max_mb * 1e6),
        images=max_images,
        seconds=timeout,
        threads=threads,
        total_bytes=round(max(256.0, 2 * max_mb) * 1e6),
    )
    app = make_app(opened, path.name, limits)
    where = f"[{host}]" if ":" in host else host
    print(f"serving {path} on http://{where}:{listening.getsockname()[1]}/", flush=True)
    run_app(app, listening)
