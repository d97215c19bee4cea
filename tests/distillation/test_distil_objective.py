"""Block outputs and the whole objective on small models."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from gpusq.distillation import BlockOutputs, Objective, Weights
from gpusq.errors import UnsupportedModelError
from gpusq.models import load_model


class Pair(nn.Module):
    """A block that returns a tuple, as transformers' blocks may."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return torch.tanh(self.linear(x)), None


class Net(nn.Module):
    """Two tuple blocks and a head on images [B, 1, 2, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Pair(8), Pair(8)])
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for block in self.blocks:
            x = block(x)[0]
        out: Tensor = self.head(x)
        return out


BLOCKS = ("blocks.0", "blocks.1")


@pytest.fixture
def images() -> Tensor:
    return torch.randn(8, 1, 2, 4, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def labels() -> Tensor:
    return torch.arange(8) % 3


def twins(noise: float) -> tuple[Net, Net]:
    """(student, teacher), the student off by `noise`."""
    torch.manual_seed(4)
    teacher = Net()
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return student, teacher.requires_grad_(False)


def test_block_outputs_takes_the_first_of_a_tuple_and_forgets(images: Tensor) -> None:
    net = Net()
    with BlockOutputs(net, BLOCKS) as caught:
        net(images)
        taken = caught.take()
        assert list(taken) == list(BLOCKS)
        assert torch.equal(net.head(taken["blocks.1"]), net(images))
        caught.take()
        assert caught.take() == {}
    net(images)
    assert caught.outputs == {}
    assert not any(m._forward_hooks for m in net.modules())


def test_block_outputs_keep_gradients(images: Tensor) -> None:
    net = Net()
    with BlockOutputs(net, ("blocks.0",)) as caught:
        net(images)
        caught.take()["blocks.0"].sum().backward()
    assert net.blocks[0].linear.weight.grad is not None
    assert net.head.weight.grad is None


def test_a_block_without_a_tensor_is_refused(images: Tensor) -> None:
    class Named(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"x": x}

    net = nn.Sequential(Named())
    with BlockOutputs(net, ("0",)), pytest.raises(UnsupportedModelError, match="block 0 must return a tensor"):
        net(images)


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_block_outputs_of_transformers_are_hidden_states(family: str) -> None:
    loaded = load_model(f"new:{family}-test", seed=0)
    with BlockOutputs(loaded.module, loaded.blocks) as caught, torch.no_grad():
        loaded.module(torch.randn(3, *loaded.description.input_shape))
        taken = caught.take()
    assert tuple(taken) == loaded.blocks
    assert all(x.shape[0] == 3 and x.dim() >= 3 for x in taken.values())


def test_an_equal_student_has_no_soft_and_feature_loss(images: Tensor, labels: Tensor) -> None:
    student, teacher = twins(0.0)
    with Objective(student, teacher, BLOCKS, Weights()) as objective:
        total, parts = objective.loss(student, images, labels)
    assert float(parts["feature"]) == 0.0
    assert abs(float(parts["soft"])) < 1e-6
    assert float(parts["agreement"]) == 1.0
    assert float(total.detach()) == pytest.approx(float(parts["hard"]), rel=1e-5)


def test_total_is_the_weighted_sum_and_reaches_every_parameter(images: Tensor, labels: Tensor) -> None:
    student, teacher = twins(0.3)
    with Objective(student, teacher, BLOCKS, Weights(0.5, 2.0, 3.0, 4.0), {"blocks.0": 2.0}) as objective:
        total, parts = objective.loss(student, images, labels)
    expected = 0.5 * parts["hard"] + 2.0 * parts["soft"] + 3.0 * parts["feature"]
    assert float(parts["feature"]) > 0
    torch.testing.assert_close(total.detach(), expected)
    total.backward()
    assert all(p.grad is not None for p in student.parameters())
    assert all(p.grad is None for p in teacher.parameters())
    assert not any(part.requires_grad for part in parts.values())


@pytest.mark.parametrize("parts", [2, 4])
def test_gradients_of_parts_of_a_batch_average_to_those_of_the_whole(
    parts: int, images: Tensor, labels: Tensor
) -> None:
    student, teacher = twins(0.4)

    def gradient(x: Tensor, y: Tensor) -> Tensor:
        student.zero_grad()
        with Objective(student, teacher, BLOCKS, Weights()) as objective:
            objective.loss(student, x, y)[0].backward()
        return torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])

    whole = gradient(images, labels)
    pieces = [gradient(x, y) for x, y in zip(images.chunk(parts), labels.chunk(parts), strict=True)]
    torch.testing.assert_close(torch.stack(pieces).mean(0), whole, rtol=1e-4, atol=1e-5)


def test_factors_weigh_the_blocks(images: Tensor, labels: Tensor) -> None:
    student, teacher = twins(0.3)
    found = []
    for factors in ({"blocks.0": 1.0, "blocks.1": 0.0}, {"blocks.0": 0.0, "blocks.1": 1.0}, {}):
        with Objective(student, teacher, BLOCKS, Weights(), factors) as objective:
            found.append(float(objective.loss(student, images, labels)[1]["feature"]))
    assert found[0] + found[1] == pytest.approx(found[2])
    assert found[0] != found[1]


@pytest.mark.parametrize("given", [True, False])
def test_unsupervised_labels_are_the_teachers(given: bool, images: Tensor, labels: Tensor) -> None:
    student, teacher = twins(0.3)
    pseudo = teacher(images).argmax(dim=1)
    with Objective(student, teacher, BLOCKS, Weights(), supervised=False) as objective:
        _, parts = objective.loss(student, images, labels if given else None)
    with Objective(student, teacher, BLOCKS, Weights()) as objective:
        _, with_pseudo = objective.loss(student, images, pseudo)
        _, with_labels = objective.loss(student, images, labels)
    assert float(parts["hard"]) == float(with_pseudo["hard"])
    assert float(parts["hard"]) != float(with_labels["hard"])


def test_disagreeing_samples_are_gated_out(images: Tensor, labels: Tensor) -> None:
    student, teacher = twins(0.3)
    with torch.no_grad():
        student.head.bias.add_(torch.tensor([100.0, 0.0, 0.0]))
        teacher.head.bias.add_(torch.tensor([0.0, 100.0, 0.0]))
    with Objective(student, teacher, BLOCKS, Weights()) as objective:
        _, parts = objective.loss(student, images, labels)
        means = objective.block_means(student, images)
    assert float(parts["agreement"]) == 0.0
    assert float(parts["feature"]) == 0.0
    assert set(means) == set(BLOCKS)
    assert not any(float(x) for x in means.values())


def test_block_means_are_the_gated_block_losses(images: Tensor, labels: Tensor) -> None:
    student, teacher = twins(0.3)
    with Objective(student, teacher, BLOCKS, Weights()) as objective:
        _, parts = objective.loss(student, images, labels)
        means = objective.block_means(student, images)
    assert sum(float(x) for x in means.values()) == pytest.approx(float(parts["feature"]))


def test_without_gamma_no_block_is_watched(images: Tensor, labels: Tensor) -> None:
    student, teacher = twins(0.3)
    with Objective(student, teacher, BLOCKS, Weights(gamma=0.0)) as objective:
        assert not any(m._forward_hooks for m in student.modules())
        total, parts = objective.loss(student, images, labels)
    assert float(parts["feature"]) == 0.0
    assert torch.isfinite(total)


def test_a_learning_student_comes_closer_to_its_teacher(images: Tensor) -> None:
    student, teacher = twins(0.5)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
    found = []
    with Objective(student, teacher, BLOCKS, Weights(), supervised=False) as objective:
        for _ in range(60):
            optimizer.zero_grad()
            total, parts = objective.loss(student, images, None)
            total.backward()
            optimizer.step()
            found.append(float(parts["soft"]))
    assert found[-1] < 0.1 * found[0]
