"""The verbs: what Python callers use, and what the command line is made from.

Each function is a command of ``tutelage.cli``, which takes its options from the signature and its
help from the docstring; what a docstring says after "In Python" is left out there. An argument
that a verb does not describe is described by ``run``, ``predict`` or the verb where it stands.
Every verb raises a TutelageError that says what was found, what was expected and what to do, and
an OSError for a file that cannot be read or written. Nothing heavy is imported before a verb is
called.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, Literal

from tutelage.config import RunConfig, TableConfig, make_config
from tutelage.system.errors import TutelageError, need_training

if TYPE_CHECKING:
    from tutelage.data.catalog import Catalog
    from tutelage.data.open import Data
    from tutelage.deploy.answers import Prediction
    from tutelage.deploy.images import Images

IMAGES, TORCH = "reading the images", "starting PyTorch"  # what a terminal shows meanwhile


def demo(
    out: Path | str = "tutelage-demo",
    *,
    data: Literal["digits", "solar-cells"] = "digits",
    quiet: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Try the whole pipeline on images that pip installed.

    With 10 labels of each class it learns to read handwritten digits. With ``solar-cells`` and 20
    labels of each class it learns to tell functional from defective cells.

    Args:
        out: the folder for all results; the same command continues a run that was cut off.
        data: which images.
    """
    from tutelage.data.demo import DEMOS
    from tutelage.data.runfolder import look

    shown = DEMOS[data]
    settings = {"labels_per_class": shown.labels_per_class, **settings}
    folder, known = look("demo", data, out, make_config("demo", settings), None, quiet=quiet)
    if known is not None:
        return known
    train = _started(folder, quiet=quiet)
    return train("demo", shown.catalog(), data, folder, settings, notes=shown.notes, quiet=quiet)


def run(
    data: Data, out: Path | str | None = None, *, quiet: bool = False, **settings: Any
) -> dict[str, Any]:
    """Train a classifier on your images: teacher, student, ONNX file and report.

    Args:
        data: a folder (``train/<class>/*``, ``unlabeled/**``, ``val/<class>/*``,
            ``test/<class>/*``; or only ``<class>/*``), the same as WebDataset tars
            (``train-*.tar``, ...), a .csv, .tsv, .jsonl or .parquet table with the columns image,
            label and split, a folder with such a table in it, one that Hugging Face wrote
            (``save_to_disk``, or the hub's Parquet files), or a file of labels from Label Studio,
            CVAT, COCO or Roboflow. In Python also a data set of Hugging Face or
            torchvision, or several by their splits, as in ``{"train": a, "test": b, "unlabeled":
            c}``.
        out: the folder for all results, by default a new one: runs/1, runs/2 and so on; the same
            command continues a run that was cut off.
        quiet: print nothing but errors.
        settings: In Python, any option of ``tutelage run --help``, by name.

    Returns:
        The content of metrics.json.

    Raises:
        TutelageError: what was found, what was expected, and what to do.
        OSError: a file, which the message names, cannot be read or written; repeat the call.
    """
    return _train("run", data, out, settings, quiet)


def transfer(
    data: Data, out: Path | str | None = None, *, quiet: bool = False, **settings: Any
) -> dict[str, Any]:
    """Train the teacher's first step: a new head on a pretrained trunk.

    First on the frozen trunk (probe), then with the training that the plan chooses (transfer); the
    better one is saved as ``teacher/``.
    """
    return _train("transfer", data, out, settings, quiet)


def self_train(
    data: Data, out: Path | str | None = None, *, quiet: bool = False, **settings: Any
) -> dict[str, Any]:
    """Train the teacher: transfer, then rounds of pseudo-labels.

    The pseudo-labels are for the unlabelled images. The result is saved as ``teacher/``.
    """
    return _train("self-train", data, out, settings, quiet)


def distill(
    data: Data, out: Path | str | None = None, *, quiet: bool = False, **settings: Any
) -> dict[str, Any]:
    """Train a small student of a finished teacher (``--teacher MODEL``).

    It learns from images with and without labels; images without any label are enough, since the
    teacher knows the classes.
    """
    return _train("distill", data, out, settings, quiet)


def _train(
    command: str, data: Data, out: Path | str | None, settings: dict[str, Any], quiet: bool
) -> dict[str, Any]:
    began = time.monotonic()  # importing takes seconds, too
    config = make_config(command, settings)
    with _shown(IMAGES, quiet=quiet):
        from tutelage.data.runfolder import look
        from tutelage.data.split import check_labels
        from tutelage.models.folder import trained_teachers

        if command == "distill":
            trained_teachers(config.data.teacher)
        (catalog, name), decided = _open(data, config)
        folder, known = look(command, name, out, config, decided, quiet=quiet)
        if known is not None:
            return known
        if command != "distill":
            check_labels(decided)
    train = _started(folder, quiet=quiet)
    return train(command, catalog, name, folder, settings, quiet=quiet, began=began)


def _started(folder: Path, *, quiet: bool) -> Callable[..., dict[str, Any]]:
    """What trains, once PyTorch is there; it is said where the results go."""
    from tutelage.system.console import Console
    from tutelage.system.ranks import env_int

    need_training()
    Console(quiet=quiet or env_int("RANK", 0) > 0).say(f"starting; results: {folder}")
    with _shown(TORCH, quiet=quiet):
        from tutelage.chain.run import train

    return train


def _shown(doing: str, *, quiet: bool) -> AbstractContextManager[None]:
    """On a terminal, show what is being done meanwhile, which may take seconds."""
    from tutelage.system.progress import Progress
    from tutelage.system.ranks import env_int

    return Progress(shown=not quiet and env_int("RANK", 0) == 0).part(doing)


def _open(data: Data, config: RunConfig) -> tuple[tuple[Catalog, str], Catalog]:
    """The data and what it is called, and the data with what was decided about its images.

    Decisions that do not fit it are refused already here.
    """
    from tutelage.data.decisions import apply_decisions
    from tutelage.data.open import open_data

    opened = open_data(data, table=config.table)
    return opened, apply_decisions(opened[0], config.data.decisions)


def augment(
    data: Data,
    out: Path | str | None = None,
    *,
    quiet: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """See what augmentation does to your images.

    The page also shows whether augmentation helps to cover the unlabelled images. Writes the page,
    ``augment.html``, and its figures, ``augment.json``, into the folder ``--out``; the same command
    writes both anew.

    Args:
        out: the folder for the page and its figures, by default a new one: runs/1, runs/2 and so
            on.

    Returns:
        The content of augment.json.
    """
    config = make_config("augment", settings)
    with _shown(IMAGES, quiet=quiet):
        opened, _ = _open(data, config)
    need_training()
    with _shown(TORCH, quiet=quiet):
        from tutelage.explore.survey import augment

    folder = None if out is None else Path(out)
    return augment(config, opened, folder, settings, quiet=quiet)


def suggest(
    data: Data,
    out: Path | str | None = None,
    *,
    budget: int,
    classes: Sequence[str] | None = None,
    port: int = 0,
    browser: bool = True,
    quiet: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Choose the images to label first, and label them on a page.

    Writes the list, ``suggested.csv``, and a contact sheet, ``suggested.html``, into the folder
    ``--out``. With ``--classes`` the page of ``tutelage review`` then opens for labelling, until
    Ctrl-C. Labels are saved there at once as ``decisions.jsonl``; ``tutelage run DATA --decisions
    OUT`` learns from them.

    Args:
        data: as for ``tutelage run``; also a folder that holds nothing but images. Those that have
            labels count, too: what is suggested is what they leave out.
        out: the folder for the list, the sheet and the labels, by default a new one: runs/1, runs/2
            and so on. The same command goes on there: what was chosen stays, and a larger
            ``--budget`` adds to it.
        budget: how many images to label.
        classes: names of the classes; with them the page opens, where more can be typed in.

    Returns:
        The content of suggest.json.
    """
    config = make_config("suggest", settings)
    with _shown(IMAGES, quiet=quiet):
        from tutelage.explore.request import check_request

        if budget < 1:
            raise TutelageError(f"--budget is {budget}, expected at least 1 image to label")
        opened, _ = _open(data, config)
        check_request(*opened, classes or ())
    need_training()
    with _shown(TORCH, quiet=quiet):
        from tutelage.explore.suggest import suggest

    return suggest(
        config,
        opened,
        data,
        None if out is None else Path(out),
        settings,
        budget=budget,
        classes=classes,
        port=port,
        browser=browser,
        quiet=quiet,
    )


def ladder(
    data: Data,
    out: Path | str,
    *,
    seeds: int = 5,
    arms: Sequence[str] | None = None,
    curve: Sequence[int] | None = None,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    quiet: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Measure what each stage gains on your data, over several draws of labels.

    The same arms are trained on every draw, so their differences are paired. Test images are
    needed. Writes a page, ``ladder.html``, and its figures, ``ladder.json``, into the folder
    ``--out``, anew after each draw from the second on.

    Args:
        out: the folder for the page, its figures and a run folder for each seed; the same command
            continues a ladder that was cut off, also with more ``--seeds``.
        seeds: how many draws of labels, at least 2; their seeds are ``--seed``, the next one, and
            so on, and each draw is planned for ``--minutes``.
        arms: which arms to train, of scratch, augment, probe, fine-tune, transfer, self-train,
            student-alone, student, no-augmentation, no-transfer, no-self-train; all by default.
            Without self-train there are no rounds, and the student learns from transfer.
        curve: at which numbers of labels per class, besides your own, to measure what the
            unlabelled images are worth; by default half and a quarter of your number and, if there
            are that many, twice and four times it; or none. In Python, an empty sequence for none.
        engine: train one draw after the other in this process, or each draw as a task of a Ray
            cluster (pip install "tutelage[ray]"), whose nodes must all see the images and the
            folder ``--out``.

    Returns:
        The content of ladder.json.

    Raises:
        TutelageError: also when draws of a cluster were lost, after the page of the others was
            written.
    """
    from tutelage.ladder.request import check_data, check_request
    from tutelage.system.engines import asked_cluster

    config = make_config("ladder", settings)
    check_request(arms, seeds, config.data.seed)
    cluster = asked_cluster(engine, address)
    with _shown(IMAGES, quiet=quiet):
        opened, decided = _open(data, config)
        check_data(decided)
    need_training()
    with _shown(TORCH, quiet=quiet):
        from tutelage.ladder.command import ladder

    return ladder(
        config,
        opened,
        Path(out),
        settings,
        seeds=seeds,
        arms=arms,
        curve=curve,
        cluster=cluster,
        quiet=quiet,
    )


def evaluate(
    model: Path | str,
    data: Data,
    *,
    split: Literal["train", "val", "test"] = "test",
    image_column: str | None = None,
    label_column: str | None = None,
    image_root: Path | str | None = None,
) -> dict[str, Any]:
    """Measure a model's accuracy on labelled images.

    Args:
        split: the images to evaluate on; all that are labelled where nothing in DATA says a split.
            In Python, a single data set in memory is taken for this split.
        image_column: the column of a table that names the images, as for ``tutelage run``.
        label_column: the column of the classes.
        image_root: the folder that the table's paths start from.

    Returns:
        The figures of metrics.json, with ``threshold``, the decision threshold that the model keeps
        (CLASS=P), or None, ``skipped``, how many images cannot be read, and their ``reasons`` by
        name, and ``notes`` on how the data was read.

    Raises:
        TutelageError: the split has no labelled image, or classes the model does not know.
    """
    from tutelage.data.open import open_data
    from tutelage.deploy.find import find_model, open_model
    from tutelage.deploy.predict import evaluate

    found = find_model(model)
    table = TableConfig(image_column, label_column, str(image_root) if image_root else None)
    catalog, name = open_data(data, split, table)
    return evaluate(open_model(found), catalog, name, split=split)


def predict(
    model: Path | str,
    images: Images,
    *,
    out: Path | str | None = None,
    reject: bool = False,
    threshold: str | None = None,
) -> tuple[list[Prediction], list[tuple[str, str]]]:
    """Classify images.

    Args:
        model: a run folder (its student, if it has one), a model folder (such as RUN/student or
            RUN/teacher) or an exported .onnx file.
        images: image files, folders that are searched for images, patterns ("photos/*.jpg", "**"),
            tables and other data that ``tutelage run`` reads, addresses (https://..., s3://...), or
            - for stdin: the names of images, one a line, or one image. In Python one of these or
            several, also PIL images and arrays of uint8, (H, W, 3) or (H, W).
        out: write the predictions to this new .csv, .jsonl or .parquet file.
        reject: call images that look like none of the classes "unknown". About 5% of the images
            that do belong to a class are called so, too. Their probabilities stay as they are, and
            if there is a class "unknown", they are called "(unknown)".
        threshold: a decision threshold, CLASS=P: call an image by this class when its probability
            is at least P, and by the likeliest other class when it is less, as in
            ``defective=0.3``. Without it the model's own threshold counts, if it was exported with
            one, or else the likeliest class.

    Returns:
        The predictions in order, and (image, reason) of the images that could not be read.

    Raises:
        TutelageError: no such model or image, or a model that cannot reject.
    """
    from tutelage.deploy.predict import predict

    to = None if out is None else Path(out)
    return predict(Path(model), images, to, reject=reject, threshold=threshold)


def pseudo_label(
    model: Path | str,
    images: Sequence[Path | str] | Path | str,
    out: Path | str,
    *,
    threshold: float = 0.95,
    accepted: Path | str | None = None,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    share: str | None = None,
    quiet: bool = False,
) -> dict[str, Any] | None:
    """Label a pool of any size with a model, in shards.

    Several machines that share the folder ``--out`` can do it together: as a Ray cluster, or as
    processes that are given a ``--share`` each. Those of torchrun share it by themselves.

    Args:
        model: as for ``tutelage predict``. A model folder uses torch, if that is installed, and
            the GPU ``LOCAL_RANK``, if there is one.
        images: .tar or .parquet shards, folders of images or of such shards, as paths or URLs
            (``s3://...``); patterns with ``*`` and ``{000..099}`` stand for several.
        out: the folder for the labels, also as a URL (``s3://...``); the same command continues
            work that was cut off.
        threshold: probability that a pseudo-label needs to be accepted; the default is that of
            FixMatch (Sohn et al. 2020, arXiv:2001.07685).
        accepted: at the end also write the accepted images to this manifest, for tutelage run: a
            .csv of paths, or a .parquet that holds the images (shards need that).
        engine: local labels in this process. With ray each shard is a task of a Ray cluster, whose
            nodes must all see ``--out`` and the images.
        address: of the Ray cluster, HOST:PORT; by default that of ``RAY_ADDRESS``, one that runs on
            this machine, or one that is started for this command alone.
        share: label only part i of n of the shards, such as 1/4; other processes label 2/4, 3/4 and
            4/4, and the last one to end writes what is written once for all.

    Returns:
        The content of label.json; None while shards of other shares are not labelled.

    Raises:
        TutelageError: nothing to label, labels of another model in ``out``, a full disk, or shards
            that could not be read, after all others were labelled.
    """
    from tutelage.deploy.pseudo_label import pseudo_label

    return pseudo_label(
        Path(model),
        images,
        out,
        threshold=threshold,
        accepted=accepted,
        engine=engine,
        address=address,
        share=share,
        quiet=quiet,
    )


def export(
    model: Path | str,
    out: Path | str | None = None,
    *,
    images: Data | None = None,
    max_loss: float = 0.01,
    threshold: str | None = None,
    format: Literal["onnx", "torch", "timm", "hub"] = "onnx",
    portable: bool = False,
    view: bool = False,
    int8: bool = False,
    web: Path | str | None = None,
) -> dict[str, Any]:
    """Write a model for other programs, checked against torch.

    Args:
        model: a model folder, such as RUN/student, or a run folder, which stands for its student
            or, without one, its teacher.
        out: the file or, for timm and hub, the new folder; by default ``model.onnx``,
            ``model.pt2``, ``timm`` or ``hub`` in the model folder.
        images: images to check and calibrate on, as a folder or manifest; by default the training
            images of the run that the model lies in or, to check only, generated pictures.
        max_loss: the estimated accuracy that int8 may lose; 0.01 is one point.
        threshold: a decision threshold, CLASS=P, that the exported model keeps: predict and serve
            call an image by this class when its probability is at least P, and by the likeliest
            other class when it is less. The format timm has no place for one.
        format: onnx, an ONNX file with the preprocessing inside; torch, a .pt2 file of
            torch.export with the preprocessing inside; timm, a folder for timm.create_model; hub, a
            model folder with its ONNX file and a card.
        portable: also write model.portable.onnx, for runtimes that do not resize as onnxruntime
            does: OpenVINO, OpenCV, MNN, tract.
        view: also write model.view.onnx, whose host resizes: for ncnn, LiteRT, CoreML. With each of
            these two comes golden/, ten of the images with the answers to them.
        int8: also write an ONNX file with 8-bit numbers, calibrated on the images, with its
            description and, from the images of the run, what tutelage watch compares with; the
            usual file is kept if that is not faster, or loses more than --max-loss.
        web: instead, a new folder with a page that runs the exported file in the browser, with
            onnxruntime-web beside it (33 MB are fetched once), for any plain web server; pictures
            do not leave the browser.

    Returns:
        What was written and how well it agrees.

    Raises:
        TutelageError: no model there, the model cannot be exported in this format or then differs
            from torch, or there are no images to calibrate on.
    """
    from tutelage.deploy.export import export, model_folder

    result = export(
        Path(model),
        None if out is None else Path(out),
        format=format,
        beside={"portable": portable, "view": view, "int8": int8},
        web=None if web is None else Path(web),
        images=images,
        max_loss=max_loss,
        threshold=threshold,
    )
    if "int8" in result and result["int8"]["kept"] == "int8":
        from tutelage.watch.reference import add_int8_reference

        add_int8_reference(model_folder(Path(model)), result)
    return result


def review(
    run: Path | str,
    *,
    data: Data | None = None,
    export: Literal["label-studio", "cvat", "csv"] | None = None,
    out: Path | str | None = None,
    port: int = 0,
    browser: bool = True,
) -> None:
    """Look at a run's doubtful images on a local page, and correct them.

    After ``tutelage suggest`` this is the page where the suggested images are labelled.

    The page is served to this machine alone, until Ctrl-C, and opens only with the address that is
    printed. Decisions are saved as ``decisions.jsonl`` in the run folder; another run takes them as
    labels with ``--decisions RUN``. With ``--export`` no page opens: the images, with the model's
    answers and all labels and decisions, are written to a file for another tool, and
    ``tutelage run FILE`` learns from what comes back.

    Args:
        run: the folder of a finished run, or of ``tutelage suggest``.
        data: In Python, what the run was made from, if that was a data set in memory.
        export: write a file for Label Studio, for CVAT, or for a spreadsheet.
        out: that file, by default in the run folder. Images that lie in no file of their own, as in
            a Parquet file, are written to a folder beside it.
        port: port of the page; 0 takes a free one.
        browser: open the page in a browser.
    """
    from tutelage.review.app import open_items, review

    if export is not None:
        from tutelage.review.export import export as write

        write(Path(run), open_items(Path(run), data), export, None if out is None else Path(out))
        return
    if out is not None:
        raise TutelageError("--out is the file of an export; say which with --export")
    review(Path(run), data=data, port=port, browser=browser)


def serve(
    model: Path | str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    threads: int | None = None,
    max_mb: float = 32.0,
    max_images: int = 64,
    timeout: float = 30.0,
    watch: Path | str | None = None,
    quiet: bool = False,
) -> None:
    """Answer HTTP requests with a model's predictions, until Ctrl-C.

    The address that is printed shows a page on which pictures are dropped and answered.

    Args:
        model: an exported .onnx file, or a run or model folder that has one.
        host: address to serve on. The default answers this machine alone, and there is no
            authentication.
        port: port to serve on; 0 takes a free one.
        threads: how many requests are computed at once; by default one for each core.
        max_mb: largest request, in megabytes.
        max_images: how many images a request may hold.
        timeout: how many seconds an answer may take.
        watch: a folder to which a few numbers of each answered image are added, but no image;
            ``tutelage watch MODEL FOLDER`` compares them.
        quiet: print no line for each request.
    """
    from tutelage.deploy.serve import serve

    open_file = None
    if watch is not None:
        from tutelage.watch.record import RecordingModel

        open_file = partial(RecordingModel, folder=Path(watch))
    serve(
        Path(model),
        host=host,
        port=port,
        threads=threads,
        max_mb=max_mb,
        max_images=max_images,
        timeout=timeout,
        quiet=quiet,
        open_file=open_file,
    )


def bench(
    models: Sequence[Path | str] | Path | str,
    *,
    threads: int = 1,
    size: int | None = None,
    runs: int = 50,
) -> dict[str, Any]:
    """Measure the latency, memory and size of models.

    Latency is measured for one image and for 32 at once.

    Args:
        models: exported .onnx files, model folders that have one, or run folders, which stand for
            all of their exported models.
        threads: how many threads compute a batch.
        size: side of the images in pixels; each model's canvas by default.
        runs: how many runs are timed.

    Returns:
        What ``tutelage.deploy.bench.bench_model`` returns.
    """
    from tutelage.deploy.bench import bench_model
    from tutelage.deploy.find import exported_files

    several = [models] if isinstance(models, str | Path) else models
    return bench_model(exported_files(several), threads=threads, size=size, runs=runs)


def watch(
    model: Path | str,
    images: Images,
    *,
    reference: Data | None = None,
    out: Path | str | None = None,
    false_alarms: float = 0.05,
    budget: int = 50,
) -> dict[str, Any]:
    """Tell whether images still look like those that a model was made for.

    Compares what the model answers, what it sees in the images, how many look like none of the
    classes, and how sharp, bright and colourful they are, and estimates the shares of the classes
    and today's accuracy without labels. Exits with 3 if there is an alarm.

    Args:
        model: an exported .onnx file, or a run or model folder that has one.
        images: as for ``tutelage predict``, at least 20, or the folder of ``tutelage serve
            --watch``, or some of its files; one call is one look.
        reference: images like those that the model was made for, but that it did not learn from:
            a folder or table as for ``tutelage run``, of which the test images count, or else the
            val images, or else all. By default what the run kept of such images in the model's
            folder.
        out: a new folder for the page, ``watch.html``, its figures, ``watch.json``, and the images
            to label first, ``to_label.csv``. Without it nothing is written.
        false_alarms: the probability that a look raises an alarm, of whatever kind, though nothing
            has changed.
        budget: how many images to list for labelling.

    Returns:
        The content of watch.json.
    """
    from tutelage.watch.command import watch

    return watch(
        Path(model),
        images,
        None if out is None else Path(out),
        reference=reference,
        false_alarms=false_alarms,
        budget=budget,
    )


def teachers() -> list[dict[str, Any]]:
    """List the networks to start from, with sizes, times and licences.

    Returns:
        For each its ``name`` (for ``--teacher``), ``status`` ("installed" by pip, "cached" from the
        hub on this machine, or "offered" by it), ``weights`` (timm's tag), ``licence`` of these and
        its ``terms``, ``parameters``, ``size`` (side in pixels of the planned views),
        ``milliseconds`` (a view on one core) and ``use``; what is not known is None.
    """
    from tutelage.models.teachers import list_teachers

    return list_teachers()


VERBS: dict[str, FunctionType] = {
    name: verb
    for name, verb in globals().items()
    if isinstance(verb, FunctionType) and verb.__module__ == __name__ and name[0] != "_"
}
"""The functions of this module by name: the commands, and what ``tutelage`` offers in Python."""
