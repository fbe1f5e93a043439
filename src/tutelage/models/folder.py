"""A model on disk: ``model.safetensors`` and ``model.json``. No pickles.

Imports torch only to save or load one: what is no model is refused at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tutelage.system.errors import TutelageError
from tutelage.system.files import write_atomically
from tutelage.system.words import did_you_mean

if TYPE_CHECKING:
    from tutelage.models.classifier import Classifier

WEIGHTS, SPEC = "model.safetensors", "model.json"


def model_folders(names: str) -> list[str]:
    """The folders (one at least) of a setting that may name several, separated by commas."""
    if (Path(names) / SPEC).is_file():  # a folder's own name may have a comma
        return [names]
    return [name.strip() for name in names.split(",") if name.strip()] or [names]


def trained_teachers(names: str) -> list[str]:
    """The model folders that a student is to learn from; TutelageError if one is no model."""
    folders = model_folders(names)
    for folder in folders:
        if not (Path(folder) / SPEC).exists():
            raise TutelageError(
                f"distill needs a trained teacher, but {folder!r} is no model folder; "
                "give one, such as --teacher RUN/teacher, or several separated by commas"
                f"{'' if Path(folder).exists() else did_you_mean(folder)}"
            )
    return folders


def save_model(model: Classifier, folder: Path | str) -> None:
    """Write a model folder, made if needed; each file appears whole or not at all."""
    from safetensors.torch import save

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    # Weights first: a folder with model.json is complete.
    write_atomically(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    write_atomically(folder / SPEC, model.spec.to_json().encode())


def load_model(folder: Path | str) -> Classifier:
    """Read a model folder: on the CPU, in evaluation mode, bitwise what was saved."""
    from tutelage.models.spec import ModelSpec
    from tutelage.models.zoo import build, load_strictly, read_tensors

    folder = Path(folder)
    for name in (SPEC, WEIGHTS):
        if not (folder / name).is_file():
            raise TutelageError(
                f"{folder} is not a model folder: it has no {name}; "
                "give a folder that tutelage wrote, such as RUN/teacher or RUN/student"
            )
    try:
        spec = ModelSpec.from_json((folder / SPEC).read_text(encoding="utf-8"))
    except (TutelageError, UnicodeDecodeError) as error:
        raise TutelageError(f"{folder / SPEC}: {error}") from error
    try:
        model = build(spec)
    except TutelageError:
        raise
    except Exception as error:  # each of timm's architectures fails in its own way
        raise TutelageError(
            f"{folder / SPEC}: {spec.architecture} cannot be built as described: {error}"
        ) from error
    load_strictly(model, read_tensors(folder / WEIGHTS), str(folder / WEIGHTS))
    return model.eval()
