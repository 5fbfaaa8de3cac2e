"""Cost tables: MACs are exact, times fall with widths and are found again where they follow the terms."""

from __future__ import annotations

import random
import time

import pytest
import torch
from torch import nn

from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.models.costs import CostTable, LayerCost, measure_costs
from altermoma_ray.models.costs.measuring import _timed, runs
from altermoma_ray.models.costs.segments import BEFORE, time_segments
from altermoma_ray.models.counting import count
from altermoma_ray.pruning.channels import cut, kept_entries, kept_shapes, kept_shares, trace

BATCH = torch.zeros(1, 3, 6, 6)


def chain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 16, 3), nn.Conv2d(16, 2, 2))


def forward(model):
    return model(BATCH)


@pytest.fixture(scope="module")
def toy():
    model = configuration("bevfusion-mit-toy").build().eval()
    return model, model.channel_couplings()


def drawn(couplings, seed):
    generator = random.Random(seed)
    return kept_shares(couplings, {coupling.name: generator.uniform(0.1, 1.0) for coupling in couplings})


def test_macs_of_any_widths_are_those_of_the_cut_model(toy, batch):
    (model, couplings), sample = toy, batch.samples(0, 1)
    table = measure_costs(model, couplings, lambda one: one(sample), rounds=0)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    for seed in range(2):
        kept = drawn(couplings, seed)
        small = cut(model, kept_entries(shapes, couplings, kept))
        assert table.macs(kept_shapes(shapes, couplings, kept)) == count(small, lambda one: one(sample)).macs
    assert table.macs(table.unpruned) == count(model, lambda one: one(sample)).macs
    assert table.measured_ms is None


def test_a_measured_table_reads_back_and_never_predicts_a_narrower_model_to_be_slower():
    model = chain().eval()
    couplings, steps = trace(model, forward), []
    table = measure_costs(model, couplings, forward, rounds=1, progress=lambda: steps.append(1))
    assert len(steps) == runs(1)
    assert CostTable.model_validate_json(table.model_dump_json()) == table
    assert table.measured_ms > 0
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    shares = [{coupling.name: share for coupling in couplings} for share in (0.1, 0.4, 0.7, 1.0)]
    found = [table.latency_ms(kept_shapes(shapes, couplings, kept_shares(couplings, one))) for one in shares]
    assert found == sorted(found)


def test_times_that_follow_the_terms_are_found_again():
    model = chain().eval()
    couplings = trace(model, forward)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    table = measure_costs(model, couplings, forward, rounds=0)
    widths = [shapes, *(kept_shapes(shapes, couplings, drawn(couplings, seed)) for seed in range(12))]

    def seconds(tensors):
        first, second = tensors["0.weight"], tensors["3.weight"]
        return {BEFORE: 0.001, "0": 0.002 + 0.03 * first[0] / 32, "3": 0.05 * second[0] * second[1] / 512, "4": 0.004}

    timed = _timed(table, widths, [seconds(tensors) for tensors in widths])
    other = kept_shapes(shapes, couplings, drawn(couplings, 99))
    assert timed.latency_ms(other) == pytest.approx(1000 * sum(seconds(other).values()), rel=1e-6)
    assert timed.fit_error < 1e-6


class Slow(nn.Linear):
    def forward(self, batch):
        begun = time.process_time()
        while time.process_time() < begun + 0.02:
            pass
        return super().forward(batch)


def test_segments_begin_with_a_layer_and_hold_all_time_up_to_the_next():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), Slow(2, 2), nn.Linear(2, 2)).eval()
    found = time_segments({"a": model}, ["0", "2", "3"], lambda one: one(torch.zeros(1, 2)), rounds=2)["a"]
    assert list(found) == [BEFORE, "0", "2", "3"]
    assert found["2"] > 0.02
    assert found["2"] > found["0"] + found["3"]
    assert not model[0]._forward_pre_hooks


def test_a_width_within_a_vector_costs_as_much_as_the_whole_vector():
    layer = LayerCost(tensor="a", shape=(32, 3), dims=(0,), terms=(0, 0, 0, 0, 4.0, 0, 0))
    assert layer.ms((17, 3)) == layer.ms((32, 3)) == 2 * layer.ms((16, 3)) == 4.0
