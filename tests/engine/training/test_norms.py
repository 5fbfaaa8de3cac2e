"""Statistics of normalisation, taken anew over some batches and put back."""

from __future__ import annotations

import torch
from torch import nn

from altermoma_ray.engine.training.norms import exchange_statistics, retake_statistics
from altermoma_ray.testing.values import copied, differences


def test_statistics_are_means_over_the_batches_and_can_be_put_back():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2), nn.BatchNorm1d(2))
    batches = [torch.randn(5, 3) for _ in range(3)]
    for batch in batches:
        model.train()(batch)
    before, momentum = copied(model.state_dict()), model[1].momentum
    trained = exchange_statistics(model)
    retake_statistics(model, batches)
    features = [model[0](batch) for batch in batches]
    torch.testing.assert_close(model[1].running_mean, torch.stack([one.mean(0) for one in features]).mean(0))
    torch.testing.assert_close(model[1].running_var, torch.stack([one.var(0) for one in features]).mean(0))
    # Dropout is off: the second norm sees all of the first one's outputs.
    normed = [nn.functional.batch_norm(one, None, None, model[1].weight, model[1].bias, True) for one in features]
    expected = torch.stack([model[3](one).mean(0) for one in normed]).mean(0)
    torch.testing.assert_close(model[4].running_mean, expected)
    assert model[1].momentum == momentum
    told = exchange_statistics(model, trained)
    assert not differences(copied(model.state_dict()), before)
    exchange_statistics(model, told)
    torch.testing.assert_close(model[4].running_mean, expected)
