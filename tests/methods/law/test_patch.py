"""An edit is stored small, applied exactly, and taken back to the last bit."""

from __future__ import annotations

import pytest
import torch

from evolvent.errors import DataError, ModelError
from evolvent.methods.law.patch import load_patches, make_patch, save_patches, undo

D, M = 24, 50


def matrices(rank: int, dtype: torch.dtype, scale: float = 1.0):
    generator = torch.Generator().manual_seed(rank)
    weight = torch.randn(D, M, generator=generator).to(dtype)
    weight[0, 0], weight[1, 1], weight[2, 2] = 0.0, -0.0, 1e-30
    left = torch.randn(D, rank, generator=generator, dtype=torch.float64) * scale
    return weight, left, torch.randn(rank, M, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("rank", "scale"), [(1, 1e-6), (5, 1.0), (D + 3, 30.0)])
def test_undo_restores_every_bit_of_every_type_from_disk(tmp_path, dtype, rank, scale):
    weight, left, right = matrices(rank, dtype, scale)
    patch, edited = make_patch("w", weight, left, right)
    save_patches(tmp_path / "p.safetensors", {"1": patch})
    stored = load_patches(tmp_path / "p.safetensors")["1"]
    restored = undo(stored, edited)
    assert restored.dtype == dtype
    assert torch.equal(restored.view(torch.uint8), weight.contiguous().view(torch.uint8))
    exact = left @ right
    assert (patch.delta - exact).norm() <= 1e-5 * exact.norm()
    assert torch.equal(edited, (weight.double() + stored.delta).to(dtype))


def test_the_product_of_the_factors_does_not_depend_on_the_order_of_the_sum():
    _, left, right = matrices(20, torch.float32)
    patch, _ = make_patch("w", torch.zeros(D, M), left, right)
    order = torch.randperm(patch.left.shape[1], generator=torch.Generator().manual_seed(1))
    shuffled = patch.left.double()[:, order] @ patch.right.double()[order]
    assert torch.equal(shuffled, patch.left.double() @ patch.right.double())
    b, a = patch.factors
    assert torch.equal(b @ a, patch.delta)


def test_other_weights_a_damaged_patch_and_another_file_are_refused(tmp_path):
    weight, left, right = matrices(3, torch.float32)
    patch, edited = make_patch("layer.weight", weight, left, right)
    with pytest.raises(ModelError, match=r"layer\.weight: these weights are not those"):
        undo(patch, weight)
    object.__setattr__(patch, "before", "0" * 64)
    with pytest.raises(ModelError, match="damaged"):
        undo(patch, edited)
    (tmp_path / "x.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(DataError, match=r"x\.safetensors"):
        load_patches(tmp_path / "x.safetensors")


def test_an_edit_that_overflows_the_type_is_refused():
    weight, left, right = matrices(2, torch.float16, 1e6)
    with pytest.raises(ModelError, match="not finite"):
        make_patch("w", weight, left, right)
