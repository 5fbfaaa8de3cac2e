from __future__ import annotations

import itertools

from altermoma_ray.engine.training.loop import FineTuningBatches, training_batches
from altermoma_ray.workloads.nusc import RECIPES

RECIPE = RECIPES["bevfusion-mit-toy"]


def tokens(batches):
    return [batch.tokens for batch in batches]


def test_kept_batches_are_those_that_would_be_loaded(source):
    batches = FineTuningBatches(source, RECIPE)
    for seed, steps in ((0, 3), (0, 5), (0, 2), (1, 3), (0, 4)):  # longer, shorter, of another seed, and back
        loaded = training_batches(source, RECIPE, steps=steps, seed=seed, augment=False)
        assert tokens(batches(steps, seed)) == tokens(loaded)


def test_what_comes_again_is_decoded_once(source):
    batches = FineTuningBatches(source, RECIPE)
    first, again = (list(batches(2, 0)) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert one is other


def test_recipes_that_load_ahead_keep_nothing(source):
    batches = FineTuningBatches(source, RECIPE.model_copy(update={"loader_processes": 1}))
    (first,) = itertools.islice(batches(1, 0), 1)
    (again,) = itertools.islice(batches(1, 0), 1)
    assert first.tokens == again.tokens
    assert first is not again
