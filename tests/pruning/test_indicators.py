"""DeCI and ReRI against a naive float64 reference written from AlterMOMA Eqs. 6, 10, 26, 34, 35."""

from __future__ import annotations

import copy
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from altermoma_ray.pruning import (
    Indicators,
    Reactivation,
    contribution,
    prunable_weights,
    redundancy,
)

BATCH = 8
SHORT = Reactivation(steps=2, learning_rate=1e-2)
LONG = Reactivation(steps=5, learning_rate=1e-2)
SLOW = Reactivation(steps=3, learning_rate=1e-3)


class TwoBranch(nn.Module):
    """A camera branch with batch norm and dropout, a lidar branch with layer norm, and a fusion with two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.camera = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 6)
        )
        self.lidar = nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Tanh(), nn.Linear(7, 6))
        self.fusion = nn.Sequential(nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 2))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, image, points, masked=frozenset()):
        self.calls += 1
        camera = image.new_zeros(len(image), 6) if "camera" in masked else self.camera(image)
        lidar = points.new_zeros(len(points), 6) if "lidar" in masked else self.lidar(points)
        return self.fusion(torch.cat([camera, lidar], dim=1))


def make_model(dtype=torch.float64):
    torch.manual_seed(3)
    model = TwoBranch()
    norm = model.camera[1]
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.uniform_(norm.bias, -0.5, 0.5)
    norm.running_mean.uniform_(-0.3, 0.3)
    norm.running_var.uniform_(0.5, 2)
    return model.to(dtype)


def make_batches(count, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = ((3, 4, 4), (5,), (2,))
    return [
        tuple(torch.randn(BATCH, *size, generator=generator, dtype=torch.float64).to(dtype) for size in sizes)
        for _ in range(count)
    ]


def loss_of(model, share=slice(None)):
    def loss(batch, masked):
        image, points, target = (part[share] for part in batch)
        if len(image) == 0:
            return None
        return (model(image, points, masked) - target).square().mean(dim=1).sum() / BATCH

    return loss


# The reference: explicit loops, a full copy of the model for every state, its own Adam, masks as zeroed parameters.


def reference_gradients(model, masked, batches):
    """Mean over batches of the gradient by parameter; the masked branch's parameters are zero and have none."""
    model = copy.deepcopy(model).double().eval()
    if masked:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.startswith(masked + "."):
                    parameter.zero_()
    total = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    for image, points, target in batches:
        model.zero_grad()
        output = model(image.double(), points.double())
        value = sum(((output[i] - target[i].double()) ** 2).mean() for i in range(len(target))) / len(target)
        value.backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None and (masked is None or not name.startswith(masked + ".")):
                total[name] += parameter.grad / len(batches)
    return total


def reference_reactivated(model, masked, batches, learning_rate, beta1=0.9, beta2=0.999, epsilon=1e-8):
    """θ_B: Adam (Kingma & Ba 2015, Algorithm 1), one batch a step, on everything that requires gradients."""
    model = copy.deepcopy(model).double()
    first = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    second = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for step, batch in enumerate(batches, start=1):
        gradients = reference_gradients(model, masked, [batch])
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if not parameter.requires_grad:
                    continue
                first[name] = beta1 * first[name] + (1 - beta1) * gradients[name]
                second[name] = beta2 * second[name] + (1 - beta2) * gradients[name] ** 2
                mean = first[name] / (1 - beta1**step)
                variance = second[name] / (1 - beta2**step)
                parameter -= learning_rate * mean / (variance.sqrt() + epsilon)
    return model


def reference_contribution(model, names, batches):
    gradients = reference_gradients(model, None, batches)
    return {name: (model.get_parameter(name).detach().double() * gradients[name]).abs() for name in names}


def reference_redundancy(model, names, masked, batches, reactivation_batches, setting, after=None):
    trained = reference_reactivated(model, masked, reactivation_batches[: setting.steps], setting.learning_rate)
    first = reference_gradients(model, masked, batches)
    second = reference_gradients(trained, masked, after or batches)
    weights = {name: model.get_parameter(name).detach().double() for name in names}
    return {name: (weights[name] * first[name] - weights[name] * second[name]).abs() for name in names}


def assert_close(found, expected, tolerance):
    """Relative to the largest value of each tensor."""
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].shape == value.shape
        assert value.max() > 0, name
        torch.testing.assert_close(found[name].double(), value, rtol=0, atol=tolerance * float(value.max()), msg=name)


def scored_names(model, masked=None):
    return [name for name in prunable_weights(model) if masked is None or not name.startswith(masked + ".")]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_contribution_is_eq_6(dtype, tolerance):
    model, batches = make_model(dtype), make_batches(3, dtype)
    names = scored_names(model)
    found = contribution(model, names, loss_of(model), batches)
    assert_close(found, reference_contribution(model, names, batches), tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("masked", ["lidar", "camera"])
def test_redundancy_is_eqs_10_26_34_35(masked, dtype, tolerance):
    model, batches, reactivation = make_model(dtype), make_batches(3, dtype), make_batches(5, dtype, seed=1)
    names = scored_names(model, masked)
    found = redundancy(model, names, loss_of(model), masked, batches, reactivation, [LONG, SLOW, SHORT])
    assert set(found) == {LONG, SLOW, SHORT}
    for setting, weights in found.items():
        expected = reference_redundancy(model, names, masked, batches, reactivation, setting)
        assert_close(weights, expected, tolerance)


def test_redundancy_to_the_letter_takes_the_last_reactivation_batch():
    model, batches, reactivation = make_model(), make_batches(2), make_batches(5, seed=1)
    names = scored_names(model, "lidar")
    found = redundancy(
        model,
        names,
        loss_of(model),
        "lidar",
        batches,
        reactivation,
        [replace(SHORT, gradient="last-batch"), replace(LONG, gradient="last-batch")],
    )
    for setting, weights in found.items():
        last = [reactivation[setting.steps - 1]]
        expected = reference_redundancy(model, names, "lidar", batches, reactivation, setting, after=last)
        assert_close(weights, expected, 1e-9)


def test_frozen_weights_are_scored_but_not_reactivated():
    model, batches, reactivation = make_model(), make_batches(2), make_batches(5, seed=1)
    for parameter in model.camera.parameters():
        parameter.requires_grad_(False)
    names = scored_names(model, "lidar")
    found = redundancy(model, names, loss_of(model), "lidar", batches, reactivation, [LONG])
    frozen = reference_reactivated(model, "lidar", reactivation, LONG.learning_rate).requires_grad_(True)
    first = reference_gradients(make_model(), "lidar", batches)
    second = reference_gradients(frozen, "lidar", batches)
    expected = {name: (model.get_parameter(name).detach() * (first[name] - second[name])).abs() for name in names}
    assert_close(found[LONG], expected, 1e-9)
    assert not any(parameter.requires_grad for parameter in model.camera.parameters())


def state_of(model):
    return (
        {key: value.clone() for key, value in model.state_dict().items()},
        [parameter.requires_grad for parameter in model.parameters()],
        [module.training for module in model.modules()],
    )


def assert_untouched(model, state, gradient):
    tensors, flags, modes = state_of(model)
    assert flags == state[1]
    assert modes == state[2]
    for key, value in state[0].items():
        assert torch.equal(tensors[key], value), key
    assert model.fusion[0].weight.grad is gradient
    assert model.lidar[0].weight.grad is None


def test_model_is_left_as_it_was_found():
    model, batches = make_model(), make_batches(5)
    model.train()
    model.lidar.eval()
    model.camera[0].bias.requires_grad_(False)
    gradient = model.fusion[0].weight.grad = torch.ones_like(model.fusion[0].weight)
    before = state_of(model)
    redundancy(model, scored_names(model, "lidar"), loss_of(model), "lidar", batches, batches, [LONG, SLOW])
    assert_untouched(model, before, gradient)
    assert torch.equal(gradient, torch.ones_like(gradient))


def test_model_is_restored_when_the_loss_is_not_finite():
    model, batches, reactivation = make_model(), make_batches(2), make_batches(5, seed=1)
    reactivation[3][2][0] = torch.nan
    gradient = None
    before = state_of(model)
    with pytest.raises(
        FloatingPointError, match=r"loss with lidar masked is nan at reactivation step 4 \(learning rate"
    ):
        redundancy(model, scored_names(model, "lidar"), loss_of(model), "lidar", batches, reactivation, [LONG])
    assert_untouched(model, before, gradient)


def test_not_finite_scoring_batch_is_named():
    model, batches = make_model(), make_batches(3)
    batches[1][2][0] = torch.inf
    with pytest.raises(FloatingPointError, match=r"loss of the intact model is inf at scoring batch 2 of 3"):
        contribution(model, scored_names(model), loss_of(model), batches)


def test_not_finite_gradient_is_named():
    model, batches = make_model(), make_batches(1)

    def loss(batch, masked):
        return (model.fusion[2].weight * 0).sqrt().sum() + loss_of(model)(batch, masked)

    with pytest.raises(FloatingPointError, match=r"gradient of 'fusion\.2\.weight' of the intact model is not finite"):
        contribution(model, scored_names(model), loss, batches)


def test_norms_keep_their_statistics_so_training_mode_makes_no_difference():
    batches = make_batches(2)
    results = []
    for training in (True, False):
        model = make_model().train(training)
        results.append(contribution(model, scored_names(model), loss_of(model), batches))
    for name, value in results[0].items():
        assert torch.equal(value, results[1][name])


def test_settings_with_one_learning_rate_share_a_trajectory():
    model, batches, reactivation = make_model(), make_batches(2), make_batches(5, seed=1)
    calls = []

    def loss(batch, masked):
        calls.append(masked)
        return loss_of(model)(batch, masked)

    redundancy(model, scored_names(model, "lidar"), loss, "lidar", batches, reactivation, [SHORT, LONG, SLOW])
    before, after, steps = 2, 3 * 2, 5 + 3
    assert calls == [frozenset({"lidar"})] * (before + after + steps)


def test_results_own_their_memory():
    model, batches = make_model(), make_batches(1)
    found = redundancy(model, scored_names(model, "lidar"), loss_of(model), "lidar", batches, batches * 2, [SHORT])
    for value in found[SHORT].values():
        assert value.untyped_storage().nbytes() == value.numel() * value.element_size()


def score_all(model, loss, batches, reactivation, reduce):
    deci = contribution(model, scored_names(model), loss, batches, reduce=reduce)
    reri = {
        masked: redundancy(
            model, scored_names(model, masked), loss, masked, batches, reactivation, [SHORT, LONG], reduce=reduce
        )[LONG]
        for masked in ("lidar", "camera")
    }
    return Indicators(contribution=deci, redundancy=reri)


def score_with_threads(workers, dtype):
    """Each worker in a thread: its own model, an uneven share of every batch, and a sum that waits for all."""
    batches, reactivation = make_batches(3, dtype), make_batches(5, dtype, seed=1)
    bounds = [0, *[BATCH - workers + rank + 1 for rank in range(workers)]] if workers < 4 else [0, 5, 5, 7, 8]
    barrier = threading.Barrier(workers)
    posted = [None] * workers
    calls = [0] * workers
    results = [None] * workers
    models = [make_model(dtype) for _ in range(workers)]

    def work(rank):
        def reduce(tensors):
            calls[rank] += 1
            posted[rank] = [tensor.clone() for tensor in tensors]
            barrier.wait()
            for index, tensor in enumerate(tensors):
                tensor.copy_(sum(other[index] for other in posted))
            barrier.wait()

        model = models[rank]
        loss = loss_of(model, slice(bounds[rank], bounds[rank + 1]))
        results[rank] = score_all(model, loss, batches, reactivation, reduce).to_tensors()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert calls == [1 + 2 * (1 + 5 + 2)] * workers  # one sum a quantity, one a reactivation step
    for other in results[1:]:
        assert all(torch.equal(other[key], value) for key, value in results[0].items())
    return results[0]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("workers", [2, 4])
def test_workers_agree_with_one(workers, dtype, tolerance):
    assert_close(score_with_threads(workers, dtype), score_with_threads(1, torch.float64), tolerance)


def gloo_worker(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)

    def reduce(tensors):
        for tensor in tensors:
            torch.distributed.all_reduce(tensor)

    model = make_model()
    share = slice(0, 3) if rank == 0 else slice(3, BATCH)
    found = score_all(model, loss_of(model, share), make_batches(3), make_batches(5, seed=1), reduce)
    Path(folder, f"{rank}.safetensors").write_bytes(save(found.to_tensors()))
    torch.distributed.barrier()  # none leaves while the other still talks
    torch.distributed.destroy_process_group()


def test_two_processes_agree_with_one(tmp_path):
    torch.multiprocessing.spawn(gloo_worker, args=(str(tmp_path),), nprocs=2)
    ranks = [load((tmp_path / f"{rank}.safetensors").read_bytes()) for rank in range(2)]
    assert all(torch.equal(ranks[0][key], ranks[1][key]) for key in ranks[0])
    expected = score_with_threads(1, torch.float64)
    assert_close({key: ranks[0][key] for key in expected}, expected, 1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": []}, "there are no weights to score"),
        ({"names": ["camera.9.weight"]}, "no parameter 'camera.9.weight': take the names from prunable_weights"),
        ({"batches": []}, "scoring needs at least one batch, but got none"),
        ({"reactivation_batches": []}, "reactivation of 2 steps needs as many batches, but got 0"),
    ],
)
def test_bad_arguments_are_explained(change, message):
    model, batches = make_model(), make_batches(2)
    arguments = {"names": ["fusion.0.weight"], "batches": batches, "reactivation_batches": batches, **change}
    with pytest.raises(ValueError, match=message):
        redundancy(model, loss=loss_of(model), masked="lidar", settings=[SHORT], **arguments)
