from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from altermoma_ray.pruning import MaskHolder, Masks, count_sparsity, global_masks, prunable_weights

OPTIMIZERS = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-2, weight_decay=0.1),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1, amsgrad=True),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=1e-2, momentum=0.9, nesterov=True, weight_decay=0.1),
}


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))


def masks_of(model, sparsity):
    return global_masks({name: weight.detach().abs() for name, weight in prunable_weights(model).items()}, sparsity)


def backward(model, seed):
    generator = torch.Generator().manual_seed(seed)
    model.zero_grad()
    model(torch.randn(16, 6, generator=generator)).square().mean().backward()


def train(model, optimizer, holder, steps, seed=0):
    for step in range(steps):
        backward(model, seed + step)
        optimizer.step()
        if holder is not None:
            holder.after_step()


def assert_held(model, optimizer, masks):
    for name, mask in masks.items():
        parameter = model.get_parameter(name)
        assert (parameter[~mask] == 0).all()
        assert (parameter[mask] != 0).all()
        for value in optimizer.state[parameter].values():
            if torch.is_tensor(value) and value.shape == parameter.shape:
                assert (value[~mask] == 0).all()
                assert (value[mask] != 0).any()


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_pruned_weights_and_their_state_stay_zero(kind):
    model = make_model()
    optimizer = OPTIMIZERS[kind](model.parameters())
    train(model, optimizer, None, 3)  # state from before the pruning
    masks = masks_of(model, 0.75)
    holder = MaskHolder(model, masks, optimizer)
    assert_held(model, optimizer, masks)
    train(model, optimizer, holder, 5)
    assert_held(model, optimizer, masks)
    assert count_sparsity(model, masks) == masks.sparsity() == 0.75


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_kept_weights_train_as_a_network_without_the_others_would(kind):
    """Zeros in place of the pruned weights and their gradients, one step at a time, give the same kept weights."""
    model = make_model()
    other = copy.deepcopy(model)
    masks = masks_of(model, 0.5)
    optimizer, plain = OPTIMIZERS[kind](model.parameters()), OPTIMIZERS[kind](other.parameters())
    with torch.no_grad():
        for name, mask in masks.items():
            other.get_parameter(name).mul_(mask)
    holder = MaskHolder(model, masks, optimizer)
    for step in range(5):
        train(model, optimizer, holder, 1, seed=step)
        backward(other, step)
        for name, mask in masks.items():
            other.get_parameter(name).grad.mul_(mask)
        plain.step()
    for name, parameter in other.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), parameter, rtol=0, atol=0)


def test_gradients_are_masked_before_clipping_sees_them():
    model = make_model()
    masks = masks_of(model, 0.75)
    MaskHolder(model, masks)
    backward(model, 0)
    for name, mask in masks.items():
        gradient = model.get_parameter(name).grad
        assert (gradient[~mask] == 0).all()
        assert (gradient[mask] != 0).any()


def test_masks_hold_after_save_and_load():
    model = make_model()
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    masks = masks_of(model, 0.6)
    holder = MaskHolder(model, masks, optimizer)
    train(model, optimizer, holder, 3)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "masks": masks.to_tensors()}, file)
    train(model, optimizer, holder, 3, seed=3)

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = make_model()
    resumed.load_state_dict(saved["model"])
    resumed_optimizer = OPTIMIZERS["adamw"](resumed.parameters())
    resumed_optimizer.load_state_dict(saved["optimizer"])
    resumed_holder = MaskHolder(resumed, Masks.from_tensors(saved["masks"]), resumed_optimizer)
    train(resumed, resumed_optimizer, resumed_holder, 3, seed=3)
    assert_held(resumed, resumed_optimizer, masks)
    for name, parameter in model.named_parameters():
        assert torch.equal(resumed.get_parameter(name), parameter)


def test_foreign_state_and_weights_loaded_later_are_masked():
    dense = make_model()
    dense_optimizer = OPTIMIZERS["adam"](dense.parameters())
    train(dense, dense_optimizer, None, 3)
    model = make_model()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    masks = masks_of(model, 0.5)
    holder = MaskHolder(model, masks, optimizer)
    model.load_state_dict(dense.state_dict())
    optimizer.load_state_dict(dense_optimizer.state_dict())
    holder.after_step()
    train(model, optimizer, holder, 2)
    assert_held(model, optimizer, masks)


def test_update_prunes_further():
    model = make_model()
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    first, second = masks_of(model, 0.25), masks_of(model, 0.75)
    holder = MaskHolder(model, first, optimizer)
    train(model, optimizer, holder, 2)
    holder.update(second)
    train(model, optimizer, holder, 2)
    assert_held(model, optimizer, second)
    assert holder.masks is second
    assert len(model[0].weight._backward_hooks) == 1


def test_released_model_trains_freely():
    model = make_model()
    masks = masks_of(model, 0.75)
    with MaskHolder(model, masks):
        pass
    assert not model[0].weight._backward_hooks
    train(model, OPTIMIZERS["sgd"](model.parameters()), None, 1)
    assert count_sparsity(model, masks) < 0.75


def test_not_a_number_is_pruned_away():
    model = make_model()
    mask = torch.ones(8, 6, dtype=torch.bool)
    mask[0, 0] = False
    with torch.no_grad():
        model[0].weight[0, 0] = torch.nan
    MaskHolder(model, Masks({"0.weight": mask}))
    assert torch.isfinite(model[0].weight).all()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("0.weight", r"mask '0\.weight' has shape \(3,\), but the model's parameter has \(8, 6\)"),
        ("9.weight", r"mask '9\.weight' has shape \(3,\), but the model's parameter has none"),
    ],
)
def test_masks_of_another_model_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        MaskHolder(make_model(), Masks({name: torch.ones(3, dtype=torch.bool)}))
