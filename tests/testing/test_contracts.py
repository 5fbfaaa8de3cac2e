"""The contract suites: a sound object of an outsider passes, and a broken one is found out."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import random
from dataclasses import dataclass

import pytest
import torch

from altermoma_ray import testing
from altermoma_ray.pruning import Masks, ScoreCriterion
from altermoma_ray.pruning.criteria import Magnitude
from altermoma_ray.pruning.granularity import Granularity, Weight
from altermoma_ray.pruning.granularity.granularity import below_all
from altermoma_ray.testing import (
    CriterionContract,
    DataSourceContract,
    GranularityContract,
    ModelContract,
    TaskContract,
)
from tests.testing import tiny


class TestTinyModel(ModelContract):
    def make_model(self):
        return tiny.Model()

    def make_batch(self):
        return tiny.Data().collate(tiny.Data().dataset([0, 1, 2], augment=False, seed=0))


class TestTinyTask(TaskContract):
    def make_task(self):
        return tiny.Task()

    def make_model(self):
        return tiny.Model()

    def make_data(self):
        return tiny.Data()


class TestTinyData(DataSourceContract):
    def make_data(self):
        return tiny.Data()


class LeakyModel(tiny.Model):
    def forward(self, batch, masked=frozenset()):
        return {"score": super().forward(batch, masked)["score"] + self.sound[0].bias.sum()}


class DeafModel(tiny.Model):
    def forward(self, batch, masked=frozenset()):
        return super().forward(batch)


class UnsortedModel(tiny.Model):
    def group_of(self, parameter):
        return parameter.split(".")[0]


class SumsToDistil(tiny.Model):
    """Offers one number for a whole batch."""

    @contextlib.contextmanager
    def distillable(self):
        yield lambda outputs: {"sum": outputs["score"].sum()}


class MeanLoss(tiny.Task):
    def loss(self, outputs, batch):
        return {name: loss.mean() for name, loss in super().loss(outputs, batch).items()}


class SharedLoss(tiny.Task):
    def loss(self, outputs, batch):
        return {name: loss / len(batch) for name, loss in super().loss(outputs, batch).items()}


class ListedPredictions(tiny.Task):
    def decode(self, outputs, batch):
        return dict(enumerate(outputs["score"]))


class MoreMetrics(tiny.Task):
    def evaluate(self, predictions, data, rows):
        return {**super().evaluate(predictions, data, rows), "surprise": 1.0}


class ShuffledData(tiny.Data):
    """Another subset in every call, by chance now and then the same."""

    draws = random.Random(0)

    def rows(self, split, part="all", limit=None):
        rows = super().rows(split, part)
        return rows if limit is None or limit >= len(rows) else sorted(self.draws.sample(rows, limit))


class OverlappingData(tiny.Data):
    def rows(self, split, part="all", limit=None):
        return list(dict.fromkeys([0, *super().rows(split, part, limit)]))


class NoisyData(tiny.Data):
    def dataset(self, rows, *, augment, seed):
        return [self.sample(row, 0.1 * seed) for row in rows]


class Undisturbed(tiny.Data):
    disturbances = {"noise": "noise"}  # noqa: RUF012

    def disturbed(self, name):
        return Undisturbed()

    def fingerprint(self, split):
        return f"tiny-{id(self)}"


def broken_model(kind):
    suite = TestTinyModel()
    suite.make_model = kind
    return suite


def broken_task(kind):
    suite = TestTinyTask()
    suite.make_task = kind
    return suite


def broken_data(kind):
    suite = TestTinyData()
    suite.make_data = kind
    return suite


@pytest.mark.parametrize(
    ("suite", "test", "message"),
    [
        (broken_model(LeakyModel), "masked_outputs_do_not_depend_on_the_parameters_of_the_masked_branch", "with sound"),
        (broken_model(LeakyModel), "a_masked_branch_gets_no_gradient", r"sound\.0\.bias still gets a gradient"),
        (
            broken_model(DeafModel),
            "masked_outputs_do_not_depend_on_the_parameters_of_the_masked_branch",
            "sound changes",
        ),
        (broken_model(UnsortedModel), "every_parameter_has_a_group", r"joint\.weight"),
        (broken_model(SumsToDistil), "tensors_to_distil_have_a_row_for_each_sample", r"'sum' with \(\) rows for 3"),
        (broken_task(MeanLoss), "losses_are_one_finite_number_for_each_sample", r"sample, \[3\], but is \[\]"),
        (broken_task(SharedLoss), "losses_of_a_batch_are_those_of_its_samples_alone", "alone, .* together"),
        (
            broken_task(ListedPredictions),
            "predictions_are_by_sample_on_the_cpu_and_can_be_pickled",
            "samples need names as text, but got .0, 1, 2",
        ),
        (broken_task(MoreMetrics), "exactly_the_listed_metrics_are_evaluated", "surprise"),
        (broken_data(OverlappingData), "rows_of_the_splits_are_apart", "a row to learn from is also"),
        (broken_data(NoisyData), "evaluation_draws_nothing", "samples depend on the seed"),
        (broken_data(Undisturbed), "a_disturbance_changes_the_samples_and_nothing_else", "noise changes no sample"),
    ],
)
def test_a_broken_object_is_found_out(suite, test, message):
    with pytest.raises(AssertionError, match=message):
        getattr(suite, f"test_{test}")()


def test_a_subset_that_changes_is_found_out():
    with pytest.raises(AssertionError, match=r"the subset was .*, then"):
        broken_data(ShuffledData).test_a_limit_takes_a_subset_that_never_changes()


@dataclass(frozen=True, kw_only=True)
class Careless(ScoreCriterion):
    """Scores by magnitude, and leaves the model in evaluation mode."""

    def scores(self, problem):
        problem.model.eval()
        return Magnitude().scores(problem)


@dataclass(frozen=True, kw_only=True)
class Drawing(ScoreCriterion):
    """Draws with the problem's seed."""

    def scores(self, problem):
        generator = torch.Generator().manual_seed(problem.seed)
        return {
            name: torch.rand(problem.model.get_parameter(name).shape, generator=generator) for name in problem.names
        }


def test_a_criterion_that_changes_the_model_or_hides_that_it_draws_is_found_out():
    suite = CriterionContract()
    suite.criterion = Careless()
    with pytest.raises(AssertionError):
        suite.test_the_model_is_left_as_it_was_found()
    suite.criterion = Drawing()
    with pytest.raises(AssertionError):
        suite.test_the_seed_matters_where_something_is_drawn_and_nowhere_else()
    suite.is_random = True
    suite.test_the_seed_matters_where_something_is_drawn_and_nowhere_else()


@dataclass(frozen=True)
class Rows(Granularity):
    """Whole rows of weights, by their mean score: a granularity that cannot meet a target exactly."""

    def select(self, scores, target, earlier=None):
        means = {
            name: score.flatten(1).mean(1).reshape(-1, *[1] * (score.dim() - 1)).expand_as(score)
            for name, score in scores.items()
        }
        masks = target.masks(below_all(means, earlier))
        return Masks({name: mask.flatten(1).any(1).reshape(-1, *[1] * (mask.dim() - 1)).expand_as(mask)
                      for name, mask in masks.items()})  # fmt: skip


class TestRows(GranularityContract):
    granularity = Rows()
    tolerance = 0.3


class Clearing(Weight):
    """Clears the model that it was to leave alone."""

    def finalise(self, model, masks):
        torch.nn.init.zeros_(model.fusion[0].weight)
        return model


def test_a_granularity_that_misses_the_target_or_spoils_the_model_is_found_out():
    suite = GranularityContract()
    suite.granularity = Rows()
    with pytest.raises(AssertionError):
        suite.test_a_total_sparsity_is_met(0.83)
    suite.granularity = Clearing()
    with pytest.raises(AssertionError):
        suite.test_a_finalised_model_computes_the_same()


@pytest.mark.parametrize("name", ["criterion", "granularity", "model", "task", "data_source", "values"])
def test_the_examples_work(name):
    result = doctest.testmod(importlib.import_module(f"altermoma_ray.testing.{name}"), extraglobs={"torch": torch})
    assert result.attempted > 0
    assert result.failed == 0


def test_the_package_example_works():
    assert doctest.testmod(testing).failed == 0


def test_a_suite_that_is_given_nothing_says_what_it_needs():
    with pytest.raises(NotImplementedError, match=r"give the model: def make_model\(self\)"):
        ModelContract().test_every_parameter_has_a_group()
