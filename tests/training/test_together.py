import copy
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from processes import on_ranks
from torch import Tensor, nn

from tutelage.system.ranks import current
from tutelage.training.together import concatenated, parallel, whole, whole_batch


def test_alone_nothing_changes() -> None:
    part = torch.rand(3, 2, requires_grad=True)
    model = tiny.classifier()
    assert whole(part) is part
    assert concatenated(part) is part
    assert parallel(model) is model


def test_parts_of_unequal_length_are_put_together_in_order() -> None:
    def work() -> tuple[list[float], list[int]]:
        part = torch.arange(10.0)[current().share(10)]
        return concatenated(part).tolist(), concatenated(torch.ones(0, 4)).shape

    for joined, empty in on_ranks(3, work):
        assert joined == list(range(10))
        assert tuple(empty) == (0, 4)


def test_a_gradient_of_the_whole_flows_to_ones_own_part_alone() -> None:
    def work() -> Tensor:
        values = torch.arange(5.0)[current().share(5)].requires_grad_()
        (whole(values) ** 2).sum().backward()
        return values.grad

    assert torch.cat(on_ranks(2, work)).tolist() == [0.0, 2.0, 4.0, 6.0, 8.0]


def norm_and_gradients(x: Tensor, norm: nn.Module, target: Tensor, size: int) -> tuple[Tensor, ...]:
    """Output and gradients of a batch norm, this rank's summands, and its statistics."""
    x = x.clone().requires_grad_()
    with whole_batch([size]):
        out = norm(x)
    (whole(out) - target).square().sum().backward()
    return (
        out.detach(),
        x.grad,
        norm.weight.grad,
        norm.bias.grad,
        norm.running_mean,
        norm.running_var,
    )


@pytest.mark.parametrize("world", [2, 3])
def test_batch_norm_is_that_of_the_whole_batch(world: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = 1000 + torch.randn(7, 4, 5, 5, generator=generator).double()
    target = torch.randn(7, 4, 5, 5, generator=generator).double()
    norm = nn.BatchNorm2d(4).double()
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2.0, generator=generator)
    alone = norm_and_gradients(images, copy.deepcopy(norm), target, 7)

    def work() -> Any:
        return norm_and_gradients(images[current().share(7)], copy.deepcopy(norm), target, 7)

    ranks = on_ranks(world, work)
    for number in (0, 1):  # outputs and gradients of the images: each rank has its own
        torch.testing.assert_close(torch.cat([parts[number] for parts in ranks]), alone[number])
    for number in (2, 3):  # gradients of the weights: the ranks' add up
        total = sum(parts[number] for parts in ranks)
        torch.testing.assert_close(total, alone[number])
    for parts in ranks:
        torch.testing.assert_close(parts[4:], alone[4:])


def test_in_evaluation_a_norm_uses_what_it_has_learned() -> None:
    images = torch.rand(4, 4, 2, 2)
    norm = nn.BatchNorm2d(4).eval()

    def work() -> Tensor:
        with whole_batch([4]):
            out: Tensor = norm(images[current().share(4)])
        return out.detach()

    assert torch.equal(torch.cat(on_ranks(2, work)), norm(images).detach())


def noise(views: list[Tensor]) -> list[Tensor]:
    """Dropout, then timm's stochastic depth, of this rank's share of each view."""
    drop_path = pytest.importorskip("timm.layers.drop").drop_path
    torch.manual_seed(3)
    shares = [view[current().share(len(view))] for view in views]
    with whole_batch([len(view) for view in views]):
        dropped = F.dropout(torch.cat(shares), 0.5, training=True)
        noisy: Tensor = drop_path(dropped, 0.4, training=True)
    return list(noisy.split([len(share) for share in shares]))


@pytest.mark.parametrize("sizes", [[7], [7, 7], [7, 5], [7, 1]])
def test_noise_is_drawn_for_the_whole_batch(sizes: list[int]) -> None:
    views = [torch.rand(size, 6) for size in sizes]
    alone = torch.cat(noise(views))

    def work() -> tuple[list[Tensor], Tensor]:
        return noise(views), torch.get_rng_state()

    ranks = on_ranks(3, work)
    joined = torch.cat([torch.cat(shares) for shares in zip(*(r[0] for r in ranks), strict=True)])
    assert torch.equal(joined, alone)
    assert len({state.numpy().tobytes() for _, state in ranks}) == 1
    assert 0 < int((alone == 0).sum()) < alone.numel()


def test_gradients_of_the_ranks_make_that_of_one() -> None:
    batch = tiny.batches(1)[0]
    model = tiny.classifier().double()

    def gradient() -> np.ndarray:
        learner = parallel(copy.deepcopy(model).train())
        images = batch.images[current().share(len(batch))].double()
        with whole_batch([len(batch)]):
            logits = whole(learner(images))
        loss = F.cross_entropy(logits, batch.targets.double())
        (loss * current().world).backward()
        return torch.cat([p.grad.flatten() for p in learner.parameters()]).numpy()

    alone = gradient()
    for found in on_ranks(2, gradient):
        np.testing.assert_allclose(found, alone, rtol=1e-9, atol=1e-12)
