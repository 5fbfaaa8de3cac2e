"""The contract suite of fusion models: branches to mask, and parameters sorted into groups."""

from __future__ import annotations

from typing import Any
from unittest import SkipTest

import torch
from torch import nn

from altermoma_ray.pruning import group_weights, prunable_weights
from altermoma_ray.testing.values import copied, differences, tensors_of
from altermoma_ray.workloads.protocols import Batch, FusionModel
from altermoma_ray.workloads.workload import FUSION


class ModelContract:
    """Tests of a :class:`altermoma_ray.workloads.protocols.FusionModel`.

    Subclass it in a test module, with methods making the model and a batch::

        class TestMyModel(ModelContract):
            def make_model(self):
                return MyModel(width=8)

            def make_batch(self):
                return random_batch(samples=2)

    >>> all(hasattr(ModelContract, name) for name in ("make_model", "make_batch"))
    True
    """

    def make_model(self) -> FusionModel:
        """A new model on the CPU, with equal architecture in every call; a small one keeps the tests short.

        Raises:
            NotImplementedError: the subclass does not define the method.
        """
        raise NotImplementedError("give the model: def make_model(self)")

    def make_batch(self) -> Batch:
        """A batch of two samples or more, equal in every call.

        Raises:
            NotImplementedError: the subclass does not define the method.
        """
        raise NotImplementedError("give a batch of two samples or more: def make_batch(self)")

    def test_it_is_a_module_with_all_that_a_fusion_model_has(self) -> None:
        model = self.make_model()
        assert isinstance(model, nn.Module), f"the model is a {type(model).__name__}, no torch.nn.Module"
        # A protocol is checked by the names of attributes only; the tests below check their values.
        assert isinstance(model, FusionModel), "the model lacks `modalities` or `group_of`"
        named = f"`modalities` is {tuple(model.modalities)}"
        assert len(model.modalities) >= 2, f"{named}, but fusion needs two"
        assert len(set(model.modalities)) == len(model.modalities), f"{named}, in which one comes twice"
        assert FUSION not in model.modalities, f"{named}, but {FUSION} names the group of what they share"

    def test_every_parameter_has_a_group(self) -> None:
        model = self.make_model()
        for name, _ in module(model).named_parameters():
            group, groups = model.group_of(name), (*model.modalities, FUSION)
            assert group in groups, f"{name} is in group {group!r}, but the groups are {', '.join(groups)}"

    def test_every_group_has_weights_to_prune(self) -> None:
        model = self.make_model()
        groups = group_weights(prunable_weights(module(model)), model.group_of)
        for group in (*model.modalities, FUSION):
            assert group in groups, f"group {group} has no weight that can be pruned"

    def test_the_same_again_gives_the_same_and_leaves_the_model(self) -> None:
        model = self._model()
        # Running means of batch norm are the usual state to change in a forward pass.
        before = copied(module(model).state_dict())
        with torch.no_grad():
            first, second = model(self.make_batch()), model(self.make_batch())
        assert tensors_of(first), "the outputs hold no tensors"
        assert not differences(first, second), "the same batch gives other outputs when it comes again"
        changed = differences(copied(module(model).state_dict()), before)
        assert not changed, f"a forward pass in evaluation mode changes {', '.join(changed)}"

    def test_nothing_masked_is_the_default(self) -> None:
        model = self._model()
        with torch.no_grad():
            same = not differences(model(self.make_batch()), model(self.make_batch(), frozenset()))
        assert same, "an empty set of masked modalities changes the outputs"

    def test_masked_outputs_do_not_depend_on_the_parameters_of_the_masked_branch(self) -> None:
        model = self._model()
        for modality in model.modalities:
            mask = frozenset({modality})
            with torch.no_grad():
                intact, masked = copied(model(self.make_batch())), copied(model(self.make_batch(), mask))
                parameters = dict(module(model).named_parameters())
                own = [parameter for name, parameter in parameters.items() if model.group_of(name) == modality]
                kept = [parameter.clone() for parameter in own]
                # The branch's parameters move. Masked outputs must not follow; unmasked ones must, or else a branch
                # without any effect would pass.
                for parameter in own:
                    parameter.add_(0.5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
                moved, moved_masked = copied(model(self.make_batch())), copied(model(self.make_batch(), mask))
                for parameter, value in zip(own, kept, strict=True):
                    parameter.copy_(value)
            assert differences(masked, intact), f"masking {modality} changes nothing"
            assert not differences(moved_masked, masked), f"with {modality} masked, its parameters change the outputs"
            assert differences(moved, intact), f"the parameters of {modality} change nothing even when it is not masked"

    def test_a_masked_branch_gets_no_gradient(self) -> None:
        model = self._model()
        for modality in model.modalities:
            # Gradients of the modality before would be taken for new ones.
            module(model).zero_grad(set_to_none=True)
            total_of(model(self.make_batch(), frozenset({modality}))).backward()
            reached = [
                name
                for name, parameter in module(model).named_parameters()
                if model.group_of(name) == modality and parameter.grad is not None and bool(parameter.grad.any())
            ]
            assert not reached, f"with {modality} masked, {reached[0]} still gets a gradient"

    def test_weights_can_be_put_into_another_model(self) -> None:
        first, second = self._model(), self._model()
        module(second).load_state_dict(module(first).state_dict())
        # State outside parameters and buffers, a plain tensor for instance, is lost in a checkpoint and shows here.
        with torch.no_grad():
            same = not differences(first(self.make_batch()), second(self.make_batch()))
        assert same, "a model with the same parameters and buffers computes something else"

    def test_tensors_to_distil_have_a_row_for_each_sample(self) -> None:
        model, batch = self._model(), self.make_batch()
        if not hasattr(model, "distillable"):
            raise SkipTest("the model has no `distillable`; its outputs are compared")
        with model.distillable() as distillable:
            tensors = distillable(model(batch))
        assert tensors, "`distillable` gives no tensors"
        for name, tensor in tensors.items():
            rows = tuple(tensor.shape[:1])
            assert rows == (len(batch),), f"`distillable` gives '{name}' with {rows} rows for {len(batch)} samples"
            assert tensor.is_floating_point(), f"`distillable` gives '{name}' of type {tensor.dtype}, no real numbers"
            assert tensor.requires_grad, f"'{name}' of `distillable` has no gradient: nothing can learn from it"

    def _model(self) -> FusionModel:
        model = self.make_model()
        module(model).eval()
        return model


def module(model: FusionModel) -> nn.Module:
    """A model as the ``torch.nn.Module`` which every fusion model must be.

    Raises:
        AssertionError: the model is no module.
    """
    assert isinstance(model, nn.Module)
    return model


def total_of(outputs: Any) -> torch.Tensor:
    """The sum of squares over all outputs with a gradient.

    Example:
        >>> total_of({"boxes": torch.tensor([1.0, 2.0], requires_grad=True), "rows": torch.tensor([7.0])}).item()
        5.0
    """
    # An output without a gradient, an index for instance, would be an error in ``backward``.
    return torch.stack([tensor.square().sum() for tensor in tensors_of(outputs).values() if tensor.requires_grad]).sum()
