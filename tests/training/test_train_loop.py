"""The loop in one process: it learns, holds masks, resumes bit-equal, and refuses what is broken."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gpusq.errors import NonFiniteError, SparsityCheckError, UsageError
from gpusq.quantization import QuantizerSpec, calibrate, insert, quantizers, set_mode
from gpusq.sparsity import check_nm, mask_nm
from gpusq.training import Batch, Checkpoints, Settings, fit
from gpusq.training.loop import apply_masks, check_masks

IMAGES = 32
STEPS = 12
CHOSEN = Settings(STEPS, 8, 1e-2, checkpoint_every=2)


class KilledError(Exception):
    """Stands for a kill."""


class Net(nn.Module):
    """Two Linears with dropout, so that resuming must get the random numbers right too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 24), nn.Linear(24, 4)
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.dropout(self.first(x.flatten(1)).relu()))
        return out


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(IMAGES) % 4
    return torch.randn(IMAGES, 1, 4, 4, generator=generator) + labels.view(-1, 1, 1, 1), labels


def subject() -> tuple[Net, dict[str, Tensor]]:
    """A quantized net that learns its scales, and masks of both layers."""
    torch.manual_seed(1)
    net = Net()
    masks = {n: mask_nm(net.get_parameter(f"{n}.weight").detach().abs(), 2, 4) for n in ("first", "last")}
    specs = [QuantizerSpec(n, r, 0 if r == "weight" else None) for n in masks for r in ("weight", "input")]  # type: ignore[arg-type]
    insert(net, specs)
    calibrate(net.eval(), [data()[0]], "max")
    set_mode(net, "learn")
    return net, masks


def cross_entropy(model: nn.Module, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
    assert batch.labels is not None
    return nn.functional.cross_entropy(model(batch.images), batch.labels), {"extra": torch.tensor(1.0)}


def batch_of(indices: list[int], step: int) -> Batch:
    images, labels = data()
    return Batch(images[indices], labels[indices])


def killed_at(moment: int) -> object:
    def load(indices: list[int], step: int) -> Batch:
        if step == moment:
            raise KilledError
        return batch_of(indices, step)

    return load


def same(a: nn.Module, b: nn.Module) -> bool:
    mine, theirs = a.state_dict(), b.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[n], theirs[n]) for n in mine)


def trained(chosen: Settings = CHOSEN, checkpoints: Path | None = None, load: object = batch_of) -> Net:
    net, masks = subject()
    fit(net, cross_entropy, load, IMAGES, chosen, masks=masks, checkpoints=checkpoints)  # type: ignore[arg-type]
    return net


def test_the_loss_falls_and_progress_is_reported() -> None:
    net, masks = subject()
    told: list[tuple[int, int]] = []

    def report(done: int, total: int, values: Mapping[str, float]) -> None:
        told.append((done, total))
        assert set(values) == {"loss", "extra"}

    def whole_loss() -> float:
        with torch.no_grad():
            return float(cross_entropy(net.eval(), Batch(*data()))[0])

    apply_masks(net, masks)
    before = whole_loss()
    fit(net, cross_entropy, batch_of, IMAGES, Settings(85, 8, 1e-2), masks=masks, report=report)
    assert told == [(done, 85) for done in (10, 20, 30, 40, 50, 60, 70, 80, 85)]
    assert not net.training
    assert whole_loss() < 0.7 * before
    assert all(bool(q.log_gain.any()) for _, q in quantizers(net))


def test_the_mask_holds_at_every_step() -> None:
    net, masks = subject()
    broken: list[int] = []

    def watching(model: nn.Module, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        broken.append(sum(check_nm(net.get_parameter(f"{n}.weight").detach(), 2, 4) for n in masks))
        return cross_entropy(model, batch)

    chosen = Settings(STEPS, 8, 1e-2, weight_decay=0.1)
    fit(net, watching, batch_of, IMAGES, chosen, masks=masks)
    check_masks(net, masks)
    assert broken == [0] * STEPS
    for name, mask in masks.items():
        assert torch.equal(net.get_parameter(f"{name}.weight") != 0, mask)


def test_without_masks_the_pattern_would_not_hold() -> None:
    net, _ = subject()
    fit(net, cross_entropy, batch_of, IMAGES, CHOSEN)
    assert check_nm(net.first.weight.detach(), 2, 4) > 0


def test_masked_weights_count_in_no_gradient_norm() -> None:
    """A huge masked weight and its gradient leave the clipped step of the others as it is."""

    def steep(model: nn.Module, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        loss, parts = cross_entropy(model, batch)
        hidden = torch.where(masks["first"], 0.0, net.first.weight).sum() * 1e6
        return loss + hidden, parts

    found = []
    for loss_of in (cross_entropy, steep):
        net, masks = subject()
        fit(net, loss_of, batch_of, IMAGES, Settings(2, 8, 1e-2), masks=masks)
        found.append(net)
    assert same(*found)


def test_check_masks_catches_sabotage() -> None:
    net, masks = subject()
    apply_masks(net, masks)
    check_masks(net, masks)
    row, column = (int(i) for i in torch.nonzero(~masks["last"])[0])
    with torch.no_grad():
        net.last.weight[row, column] = 1e-30
    with pytest.raises(SparsityCheckError, match=r"mask of last .* got 1 non-zero"):
        check_masks(net, masks)


def test_a_nan_loss_is_refused_with_its_step_and_never_kept(tmp_path: Path) -> None:
    def spoiled(indices: list[int], step: int) -> Batch:
        batch = batch_of(indices, step)
        return Batch(batch.images * float("nan"), batch.labels) if step == 5 else batch

    with pytest.raises(NonFiniteError, match="not finite at step 6"):
        trained(checkpoints=tmp_path, load=spoiled)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000000002", "step-000000004"]
    assert same(trained(checkpoints=tmp_path), trained())


def test_without_checkpoints_a_nan_loss_is_refused_within_ten_steps() -> None:
    def spoiled(indices: list[int], step: int) -> Batch:
        return Batch(torch.full((8, 1, 4, 4), float("nan")), torch.zeros(8, dtype=torch.int64))

    with pytest.raises(NonFiniteError, match="not finite at step 10"):
        trained(Settings(STEPS, 8), load=spoiled)


def test_a_frozen_model_is_refused() -> None:
    net = Net().requires_grad_(False)
    with pytest.raises(UsageError, match="trainable parameters"):
        fit(net, cross_entropy, batch_of, IMAGES, CHOSEN)


def test_the_same_settings_give_the_same_bits_and_another_seed_does_not() -> None:
    assert same(trained(), trained())
    assert not same(trained(), trained(Settings(STEPS, 8, 1e-2, seed=1)))
    trained(Settings(1, 8, seed=2**62))


@pytest.mark.parametrize("moments", [(1,), (2,), (3, 4, 11), (5, 5, 5), tuple(range(2, 12))])
def test_resumed_after_any_kill_the_bits_are_those_of_an_undisturbed_run(
    moments: tuple[int, ...], tmp_path: Path
) -> None:
    for moment in moments:
        with pytest.raises(KilledError):
            trained(checkpoints=tmp_path, load=killed_at(moment))
    started: list[int] = []

    def noting(indices: list[int], step: int) -> Batch:
        started.append(step)
        return batch_of(indices, step)

    assert same(trained(checkpoints=tmp_path, load=noting), trained())
    assert started[0] == moments[-1] // 2 * 2
    assert len(list(tmp_path.iterdir())) <= 2


def filled(directory: Path) -> list[Path]:
    """Two checkpoints of this run, after steps 4 and 6."""
    with pytest.raises(KilledError):
        trained(checkpoints=directory, load=killed_at(7))
    return sorted(directory.iterdir())


def restored(directory: Path) -> int:
    """The step from which a run goes on; the run must end with the right bits."""
    steps: list[int] = []

    def noting(indices: list[int], step: int) -> Batch:
        steps.append(step)
        return batch_of(indices, step)

    assert same(trained(checkpoints=directory, load=noting), trained())
    return steps[0]


@pytest.mark.parametrize("part", ["tensors.safetensors", "state.json"])
@pytest.mark.parametrize("how", ["missing", "torn", "empty", "flipped"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(part: str, how: str, tmp_path: Path) -> None:
    older, newer = filled(tmp_path)
    assert (older.name, newer.name) == ("step-000000004", "step-000000006")
    file = newer / part
    content = bytearray(file.read_bytes())
    content[-3] ^= 0x10
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes({"torn": bytes(content[: len(content) // 2]), "empty": b"", "flipped": bytes(content)}[how])
    assert restored(tmp_path) == 4


def test_with_both_damaged_it_starts_anew(tmp_path: Path) -> None:
    for folder in filled(tmp_path):
        (folder / "tensors.safetensors").write_bytes(b"no")
    assert restored(tmp_path) == 0


def test_leftovers_of_a_kill_while_writing_do_no_harm(tmp_path: Path) -> None:
    filled(tmp_path)
    part = tmp_path / ".part-8"
    part.mkdir()
    (part / "tensors.safetensors").write_bytes(b"half")
    assert restored(tmp_path) == 6


@pytest.mark.parametrize("other", [{"seed": 1}, {"learning_rate": 1e-3}, {"steps": STEPS + 1}, {"batch_size": 4}])
def test_another_runs_checkpoint_is_passed_over(other: dict[str, int], tmp_path: Path) -> None:
    chosen = Settings(**{"steps": STEPS, "batch_size": 8, "learning_rate": 1e-2, "checkpoint_every": 2} | other)  # type: ignore[arg-type]
    with pytest.raises(KilledError):
        trained(chosen, tmp_path, killed_at(7))
    assert restored(tmp_path) == 0


def test_another_thread_count_is_another_run(tmp_path: Path) -> None:
    filled(tmp_path)
    torch.set_num_threads(1)
    assert restored(tmp_path) == 0


def test_checkpoint_interval_does_not_make_another_run(tmp_path: Path) -> None:
    filled(tmp_path)
    net = trained(Settings(STEPS, 8, 1e-2, checkpoint_every=5), tmp_path)
    assert same(net, trained())


def test_later_checkpoints_of_another_run_do_not_push_out_our_own(tmp_path: Path) -> None:
    for folder in filled(tmp_path):
        state = json.loads((folder / "state.json").read_text())
        (folder / "state.json").write_text(json.dumps(state | {"run": {"seed": "other"}}))
        shutil.move(folder, tmp_path / f"step-{int(folder.name[5:]) + 900:09d}")
    with pytest.raises(KilledError):
        trained(checkpoints=tmp_path, load=killed_at(5))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000000002", "step-000000004"]
    assert restored(tmp_path) == 4


def test_save_and_restore_give_every_bit_back(tmp_path: Path) -> None:
    net, _ = subject()
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], fused=True)
    for _ in range(3):
        cross_entropy(net, batch_of(list(range(8)), 0))[0].backward()
        optimizer.step()
    kept = Checkpoints(tmp_path, {"a": 1})
    kept.save(3, net, optimizer)
    twin, _ = subject()
    other = torch.optim.AdamW([p for p in twin.parameters() if p.requires_grad], fused=True)
    assert kept.restore(twin, other) == 3
    assert same(net, twin)
    for mine, theirs in zip(
        optimizer.state_dict()["state"].values(), other.state_dict()["state"].values(), strict=True
    ):
        assert mine.keys() == theirs.keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(mine[k], theirs[k]) for k in mine)
    assert Checkpoints(tmp_path, {"a": 2}).restore(twin, other) == 0
    assert Checkpoints(tmp_path / "nothing", {"a": 1}).restore(twin, other) == 0


def test_checkpoints_hold_safetensors_and_json_only(tmp_path: Path) -> None:
    for folder in filled(tmp_path):
        assert sorted(p.name for p in folder.iterdir()) == ["state.json", "tensors.safetensors"]
        content = (folder / "tensors.safetensors").read_bytes()
        assert content[8:9] == b"{"
        json.loads((folder / "state.json").read_text())


def test_bf16_training_leaves_a_float32_model() -> None:
    torch.manual_seed(0)
    net = Net()
    fit(net, cross_entropy, batch_of, IMAGES, Settings(2, 8, precision="bf16"))
    x = data()[0]
    expected = net.last(net.first(x.flatten(1)).relu())
    assert torch.equal(net(x), expected)
