"""Do processes under torchrun train as one does, and does their job outlive its workers?

python benchmarks/ranks.py --json benchmarks/results.json
python benchmarks/ranks.py --short

First, trainings of the default trunk in float64 with live norms, dropout and stochastic depth: on
labels with CutMix, online with FreeMatch, and distilled; by one process and by two and
four over gloo. The greatest relative difference of any weight or statistic is reported, and of any
metric. Then a whole ``tutelage run`` on two ranks, undisturbed, and again while one of the two is
killed at a random step of its trainings, ten times over: torchrun starts both anew, and in the end
metrics and weights must be those of the undisturbed job.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import results
from chain import PACKAGES
from tutelage import api
from tutelage.augment import RandAugment, Strong, Weak
from tutelage.config import TrainConfig
from tutelage.data.store import ImageStore
from tutelage.models.zoo import create
from tutelage.steps.distillation import DistillationStep
from tutelage.steps.online import make_online_step
from tutelage.steps.supervised import supervised_step
from tutelage.system.ranks import is_lead, joined
from tutelage.training.loader import Canvases, Examples, Loader, Views
from tutelage.training.loop import train

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from processes import on_ranks
from shapes import FINISHED, as_options, write_shapes
from trainings import Double

KINDS = ("supervised", "freematch", "distillation")
CPU = torch.device("cpu")
MOST_DIFFERENT = 1e-5
ZERO = 1e-4  # a norm below it
POLL_S = 0.01
LABELED, IMAGES, CLASSES = 12, 60, 3


def learn(kind: str, steps: int, size: int, trunk_name: str) -> tuple[dict[str, Any], list[Any]]:
    """Weights and statistics after ``steps`` steps, and the metrics of each."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (IMAGES, size, size, 3), dtype=np.uint8)
    everything = np.arange(IMAGES)
    store = ImageStore(images, np.ones(IMAGES, np.float32), everything >= 0, {}, size, False)
    targets = torch.eye(CLASSES)[torch.from_numpy(everything % CLASSES)]
    labels = Examples(everything[:LABELED], targets[:LABELED], torch.ones(LABELED))
    blank = torch.zeros(IMAGES - LABELED, CLASSES)
    pool = Examples(everything[LABELED:], blank, blank[:, 0])
    online = kind == "freematch"
    strong = Strong(augment=RandAugment(2, 9.0))
    if online:
        views = Views(Weak(), size, strong=strong)
    else:
        teachers = (size,) if kind == "distillation" else ()
        views = Views(strong, size, mix="cutmix", teacher_sizes=teachers)
    loader = Loader(
        Canvases(store, everything, CPU), labels, pool, views,
        batch_size=14, labeled_per_batch=5, seed=0,
    )  # fmt: skip
    names = ("a", "b", "c")
    torch.manual_seed(1)
    model = create(trunk_name, names, canvas=size, input_size=size, weights="none").double()
    model.unfreeze_trunk()
    model.set_noise(0.2, 0.1)
    step: Any = supervised_step
    if online:
        prior = torch.full((CLASSES,), 1 / CLASSES).double()
        step = make_online_step(
            kind, prior, n_pool=len(pool), steps=steps, threshold=0.95, hard=True
        )
    if kind == "distillation":
        teacher = create(trunk_name, names, canvas=size, input_size=size, weights="none").double()
        step = DistillationStep(teacher.eval(), 2.0, 0.7)
    torch.manual_seed(0)
    config = TrainConfig(steps, lr_head=3e-3, lr_trunk=3e-4, log_every=1)
    result = train(model, loader, Double(step), config, device=CPU)
    weights = {name: value.contiguous() for name, value in result.model.state_dict().items()}
    return weights, result.history


def worker(out: Path, steps: int, size: int, trunk_name: str) -> None:
    """Train each kind; the lead writes the results."""
    torch.set_num_threads(1)
    with joined():
        for kind in KINDS:
            weights, history = learn(kind, steps, size, trunk_name)
            if is_lead():
                save_file(weights, out / f"{kind}.safetensors")
                (out / f"{kind}.json").write_text(json.dumps(history))


def launch(world: int, words: list[str], *options: str) -> list[str]:
    """The command that starts ``world`` processes of ``words`` on this machine, or one alone."""
    if world == 1:
        return [sys.executable, *words]
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    return [sys.executable, *start, *options, *words]


def quiet_environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def difference(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """The greatest ``|a - b| / |b|`` of any tensor, in the Euclidean norm.

    Some are 0 but for rounding, such as the mean before a norm that has no shift yet; of these the
    absolute difference counts.
    """
    floating = [name for name, value in theirs.items() if value.is_floating_point()]
    ratios = [
        (ours[name] - theirs[name]).norm() / theirs[name].norm().clamp_min(ZERO)
        for name in floating
    ]
    return float(max(ratios))


def compare() -> dict[str, Any]:
    """How far the weights and metrics of two and four processes are from those of one."""
    steps, size, name = 50, 64, "tf_efficientnet_lite0"
    worlds = (1, 2, 4)
    with tempfile.TemporaryDirectory() as folder:
        for world in worlds:
            out = Path(folder) / str(world)
            out.mkdir()
            words = [__file__, "--worker", str(out), str(steps), str(size), name]
            subprocess.run(launch(world, words), check=True, env=quiet_environment())
        found: dict[str, Any] = {}
        for kind in KINDS:
            alone = load_file(Path(folder) / "1" / f"{kind}.safetensors")
            told = json.loads((Path(folder) / "1" / f"{kind}.json").read_text())
            for world in worlds[1:]:
                out = Path(folder) / str(world)
                history = json.loads((out / f"{kind}.json").read_text())
                apart = [
                    abs(ours[key] - theirs[key]) / max(abs(theirs[key]), 1e-12)
                    for ours, theirs in zip(history, told, strict=True)
                    for key in theirs
                ]
                weights = difference(load_file(out / f"{kind}.safetensors"), alone)
                found[f"{kind}, {world} ranks"] = {"weights": weights, "metrics": max(apart)}
    return {"trunk": name, "steps": steps, "relative_difference": found}


def workers(agent: int) -> list[int]:
    """The processes that torchrun started."""
    try:
        children = Path(f"/proc/{agent}/task/{agent}/children").read_text()
    except OSError:
        return []
    return [int(pid) for pid in children.split()]


def saved_steps(out: Path) -> dict[str, int]:
    """The newest saved step of each training that is under way."""
    found: dict[str, int] = {}
    for path in (out / "stages").glob(".*.trainings/*/*.safetensors"):
        place = str(path.parent.relative_to(out))
        found[place] = max(found.get(place, 0), int(path.name.partition("-")[0]))
    return found


def kills(command: list[str], out: Path, times: int, rng: random.Random) -> Iterator[str]:
    """Run the job and kill one of its workers at random saved steps; yields where."""
    with subprocess.Popen(command, env=quiet_environment()) as job:
        while job.poll() is None and times:
            before = saved_steps(out)
            wanted = rng.randint(1, 5)  # steps further, in whatever training comes
            while job.poll() is None:
                now = saved_steps(out)
                further = {p: n for p, n in now.items() if n >= before.get(p, 0) + wanted}
                if further and (pids := workers(job.pid)):
                    os.kill(rng.choice(pids), signal.SIGKILL)
                    times -= 1
                    place, step = next(iter(further.items()))
                    yield f"{place} at step {step}"
                    while set(workers(job.pid)) & set(pids) and job.poll() is None:
                        time.sleep(POLL_S)
                    break
                time.sleep(POLL_S)
        if job.wait() != 0:
            raise SystemExit(f"the job ended with {job.returncode}")


def figures(out: Path) -> Any:
    """metrics.json without the seconds that stages took."""
    content = json.loads((out / "metrics.json").read_text())
    for entry in [*content["stages"], content["final"], content["teacher"]]:
        entry.pop("seconds", None)
    return content


def killed(short: bool, seed: int) -> dict[str, Any]:
    """Whether a job whose workers are killed ends as an undisturbed one does."""
    settings = {**FINISHED, "checkpoint_seconds": 0.0}
    rng = random.Random(seed)
    times = 1 if short else 10
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["TUTELAGE_CACHE"] = str(folder / "cache")
        data = write_shapes(folder / "data")
        runs = [folder / "undisturbed", folder / "killed"]
        words = ["run", str(data), "--out", str(runs[1]), *as_options(settings)]
        restarts = f"--max-restarts={times + 2}"
        command = launch(2, ["-m", "tutelage", *words], restarts, "--monitor-interval=0.2")
        torch.set_num_threads(1)
        on_ranks(2, lambda: api.run(data, runs[0], **settings))
        places = list(kills(command, runs[1], times, rng))
        weights = "student/model.safetensors"
        same = (runs[0] / weights).read_bytes() == (runs[1] / weights).read_bytes()
        return {
            "killed": places,
            "same_metrics": figures(runs[0]) == figures(runs[1]),
            "same_weights": same,
        }


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        out, steps, size, name = sys.argv[2:]
        worker(Path(out), int(steps), int(size), name)
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--short", action="store_true", help="one kill; the tests compare tiny trunks"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the kills")
    parser.add_argument("--json", type=Path, help="append the result to this file's list")
    options = parser.parse_args()
    result = {
        **results.provenance("ranks", PACKAGES),
        **({} if options.short else compare()),
        **killed(options.short, options.seed),
    }
    print(json.dumps(result, indent=2))
    results.append(result, options.json)
    apart = result.get("relative_difference", {}).values()
    worst = max((max(each.values()) for each in apart), default=0.0)
    wanted = 1 if options.short else 10
    if worst > MOST_DIFFERENT or len(result["killed"]) != wanted:
        raise SystemExit(f"the ranks differ by {worst:.1e}, after {len(result['killed'])} kills")
    if not (result["same_metrics"] and result["same_weights"]):
        raise SystemExit("the killed job ended differently from the undisturbed one")


if __name__ == "__main__":
    main()
