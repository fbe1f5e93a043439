import torch

from tutelage.training.batch import Batch


def test_to_moves_every_part_and_keeps_what_is_missing() -> None:
    images = torch.rand(2, 3, 4, 5)
    batch = Batch(images, torch.eye(2), torch.ones(2), weak=images + 1)
    moved = batch.to(torch.device("cpu"))
    assert moved.teacher_images == ()
    assert moved.strong is None
    torch.testing.assert_close(moved.weak, images + 1)
    torch.testing.assert_close(moved.targets, torch.eye(2))
    assert moved.images.is_contiguous(memory_format=torch.channels_last)
    assert moved.weights.is_contiguous()
    torch.testing.assert_close(moved.images, images)


def test_to_reaches_another_device() -> None:
    images = torch.rand(2, 3, 4, 5)
    moved = Batch(
        images, torch.eye(2), torch.ones(2), teacher_images=(images, images), strong=images
    ).to(torch.device("meta"))
    assert {t.device.type for t in (moved.images, moved.targets, moved.weights)} == {"meta"}
    assert [t.device.type for t in moved.teacher_images] == ["meta", "meta"]
    assert moved.strong is not None
    assert moved.strong.device.type == "meta"


def test_ids_move_as_the_whole_numbers_they_are() -> None:
    images = torch.rand(2, 3, 4, 5)
    batch = Batch(images, torch.eye(2), torch.ones(2), ids=torch.tensor([2, 7]))
    moved = batch.to(torch.device("cpu"))
    assert moved.ids is not None
    assert moved.ids.tolist() == [2, 7]
    assert moved.ids.dtype == torch.int64
    meta = batch.to(torch.device("meta")).ids
    assert meta is not None
    assert meta.device.type == "meta"
