import torch

from tutelage.training.batch import Batch


def test_every_part_moves_and_what_is_missing_stays_so() -> None:
    images = torch.rand(2, 3, 4, 5)
    parts = {"teacher_images": (images, images), "weak": images + 1, "ids": torch.tensor([2, 7])}
    batch = Batch(images, torch.eye(2), torch.ones(2), **parts)
    moved = batch.to(torch.device("cpu"))
    assert moved.strong is None
    assert torch.equal(moved.weak, images + 1)
    assert torch.equal(moved.targets, torch.eye(2))
    assert torch.equal(moved.ids, parts["ids"])
    assert moved.ids.dtype == torch.int64
    assert moved.images.is_contiguous(memory_format=torch.channels_last)
    away = batch.to(torch.device("meta"))
    everything = (away.images, away.targets, away.weights, away.weak, away.ids)
    assert {part.device.type for part in (*everything, *away.teacher_images)} == {"meta"}
