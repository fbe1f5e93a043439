"""A model on disk: ``model.safetensors`` and ``model.json``. No pickles."""

from __future__ import annotations

from pathlib import Path

from tutelage.models.classifier import Classifier
from tutelage.models.given import SPEC, WEIGHTS
from tutelage.models.spec import ModelSpec
from tutelage.models.zoo import build, load_strictly, read_tensors
from tutelage.system.errors import TutelageError
from tutelage.system.files import write_atomically


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
    """Read a model folder: on the CPU, in evaluation mode, bitwise what was saved.

    Raises:
        TutelageError: no model there, another format version, a description that no model can be
            built from, or tensors that are missing, foreign, of the wrong shape or not finite.
    """
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
