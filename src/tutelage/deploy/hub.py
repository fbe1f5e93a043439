"""Folders in the layout of the Hugging Face hub: for timm, and for tutelage itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import nn

from tutelage import pages
from tutelage._version import __version__
from tutelage.deploy.find import REFERENCE
from tutelage.deploy.graph import TorchModel
from tutelage.deploy.onnx import Parity, compare_answers, estimated_loss, export_onnx, parity
from tutelage.models.classifier import Classifier
from tutelage.models.folder import save_model
from tutelage.models.sizes import is_fixed, resize_body
from tutelage.models.zoo import timm_body
from tutelage.system.errors import TutelageError, need
from tutelage.system.files import is_taken, new_folder, write_atomically

TOLERANCE = 1e-4  # of a logit, relative to the largest where that is above 1
README = "README.md"


def export_timm(
    model: Classifier, folder: Path, images: Sequence[np.ndarray], origin: Path
) -> dict[str, Any]:
    """Write a folder that ``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads.

    The head is divided by the temperature, so the softmax of timm's logits is calibrated. If
    ``origin``, the model's own folder, lies in a run folder, the card has the run's figures.
    Returns how timm's model and ours agree on images, uint8 (H, W, 3), each with its own
    preprocessing: timm resizes once, tutelage to its canvas and then to the view.
    """
    import timm
    from timm.models import save_for_hf

    twin = _twin(model)
    with _export_folder(folder) as building:
        classes = list(model.spec.classes)
        fixed = is_fixed(twin)
        save_for_hf(
            twin,
            str(building),
            model_config={"label_names": classes},
            model_args={"img_size": model.spec.input_size} if fixed else None,
            safe_serialization=True,
        )
        write_atomically(building / README, _card(model, origin, "timm"))
        loaded = timm.create_model(f"local-dir:{building}", pretrained=True).eval()
        return _compare(model, loaded, images)


def export_hub(
    model: Classifier, folder: Path, images: Sequence[np.ndarray], origin: Path
) -> Parity:
    """Write a model folder with its ONNX file and a card; arguments as in ``export_timm``.

    The reference of ``watch`` goes with it if ``origin`` has one, and the card says what it is.
    """
    with _export_folder(folder) as building:
        save_model(model, building)
        export_onnx(model, building / "model.onnx")
        checked = parity(model, building / "model.onnx", images)
        reference = origin / REFERENCE
        if reference.is_file():
            write_atomically(building / REFERENCE, reference.read_bytes())
        card = _card(model, origin, "tutelage", watch=reference.is_file())
        write_atomically(building / README, card)
        return checked


def _twin(model: Classifier) -> Any:
    """The model as timm builds it, with our weights and preprocessing."""
    spec = model.spec
    why = [f"it is cut after {spec.cut} stages"] if spec.cut is not None else []
    if spec.members:
        why.append(f"it has {len(spec.members)} trunks")
    if spec.has_levels:
        why.append("its head also looks at middle stages")
    if why:
        raise _refusal(spec.architecture, " and ".join(why))
    twin = timm_body(spec.architecture, num_classes=len(spec.classes), input_size=spec.input_size)
    resize_body(twin, spec.input_size)
    head = twin.get_classifier()
    if not isinstance(head, nn.Linear) or head.weight.shape != model.head.weight.shape:
        raise _refusal(spec.architecture, "timm puts another kind of head on this architecture")
    (name,) = [name for name, module in twin.named_modules() if module is head]
    state = dict(model.trunk.state_dict())
    state[f"{name}.weight"] = model.head.weight.detach() / spec.temperature
    if head.bias is not None:
        state[f"{name}.bias"] = model.head.bias.detach() / spec.temperature
    twin.load_state_dict(state)
    twin.pretrained_cfg = {
        **twin.pretrained_cfg,
        "num_classes": len(spec.classes),
        "input_size": (3, spec.input_size, spec.input_size),
        "mean": spec.mean,
        "std": spec.std,
        "crop_pct": spec.crop_pct,
        "crop_mode": "center",
        "interpolation": "bilinear",
        # These are true only of the weights that training started from.
        **dict.fromkeys(("test_input_size", "test_crop_pct", "pool_size", "tag", "license")),
    }
    return twin.eval()


def _refusal(architecture: str, why: str) -> TutelageError:
    return TutelageError(
        f"timm cannot build this model of {architecture}: {why}. Export it with --format onnx or "
        "--format hub; or train one that timm knows: a teacher with --features last, or a whole "
        "student by name, such as --student mobilenetv3_small_100"
    )


@torch.no_grad()
def _compare(model: Classifier, loaded: Any, images: Sequence[np.ndarray]) -> dict[str, Any]:
    data: Any = need("timm.data", "train")  # only partly typed
    spec = model.spec
    size = spec.input_size
    views = torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    ours = model.eval()(views) / spec.temperature
    theirs = loaded((views - model.mean) / model.std)
    difference = float((ours - theirs).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(ours.abs().max())):
        raise _refusal(spec.architecture, f"its logits differ from timm's by {difference:.2g}")
    transform = data.create_transform(**data.resolve_data_config({}, model=loaded))
    seen = [transform(Image.fromarray(image))[None] for image in images]
    after = torch.cat([loaded(view).softmax(dim=-1) for view in seen]).numpy()
    before = TorchModel(model).probabilities(images)
    compared, _ = compare_answers(before, after)
    loss = estimated_loss(before, after)
    return {**asdict(compared), "max_logit_difference": difference, "loss": loss}


@contextmanager
def _export_folder(folder: Path) -> Iterator[Path]:
    """A neighbour to write into, which becomes ``folder`` once all went well."""
    if is_taken(folder):
        raise TutelageError(
            f"{folder} is there already and not empty; choose another --out, or remove it yourself"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(folder) as building:
        try:
            yield building
        except SafetensorError as error:  # how safetensors reports a failure of the disk
            if code := re.search(r"\(os error (\d+)\)", str(error)):
                raise OSError(int(code[1]), str(error)) from error
            raise
        for file in building.iterdir():
            file.chmod(0o644)  # safetensors makes them private


def _card(model: Classifier, origin: Path, library: str, *, watch: bool = False) -> str:
    """The README: metadata for the hub, how to load the model, and what its run says about it."""
    return pages.render(
        "hub.md.j2",
        library=library,
        spec=model.spec,
        version=__version__,
        watch=watch,
        run=_of_run(origin),
    )


def _of_run(origin: Path) -> dict[str, Any] | None:
    """The test figures and the card of a run, if the model folder lies in a run folder."""
    run = origin.resolve().parent
    card, figures = run / "MODEL_CARD.md", run / "metrics.json"
    if not (card.is_file() and figures.is_file()):
        return None
    kind = "final" if origin.resolve().name == "student" else "teacher"
    try:
        metrics = json.loads(figures.read_text(encoding="utf-8"))
        test = (metrics[kind] or {}).get("test")
        if test:
            low, high = test["accuracy_ci95"]
            test = {"n": test["n"], "accuracy": test["accuracy"], "low": low, "high": high}
        final = metrics["final"]["name"] if metrics["final"] else "final model"
        *_, body = card.read_text(encoding="utf-8").split("---\n", maxsplit=2)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise TutelageError(
            f"{figures} or {card.name} beside it is damaged ({error}); restore them, or give a "
            "copy of the model folder that lies outside the run"
        ) from error
    card_below = re.sub(r"^#", "##", body, flags=re.MULTILINE).rstrip("\n")
    return {"test": test, "final": final, "card": card_below}
