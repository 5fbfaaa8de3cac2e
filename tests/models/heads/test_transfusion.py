from __future__ import annotations

import numpy as np
import pytest
import torch

from altermoma_ray.data.nuscenes.classes import CLASSES
from altermoma_ray.models.configurations.named import configuration
from altermoma_ray.models.heads.transfusion import DecoderLayer, TransFusionHead, local_maxima, position_grid

TOY = configuration("bevfusion-mit-toy").head


def make_head(channels=16, **changes) -> TransFusionHead:
    torch.manual_seed(0)
    return TransFusionHead(TOY.model_copy(update=changes), channels).eval()


def test_published_figures_give_the_released_layers():
    head = TransFusionHead(configuration("bevfusion-mit").head, 512)
    assert sum(parameter.numel() for parameter in head.parameters()) == 1_034_910
    shapes = {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    assert shapes["shared_conv.bias"] == (128,)
    assert "heatmap_head.0.conv.bias" not in shapes
    assert shapes["heatmap_head.1.weight"] == (10, 128, 3, 3)
    assert shapes["class_encoding.weight"] == (128, 10, 1)
    assert shapes["decoder.0.self_attn.in_proj_weight"] == (384, 128)
    assert shapes["decoder.0.multihead_attn.out_proj.weight"] == (128, 128)
    assert shapes["decoder.0.cross_posembed.position_embedding_head.3.weight"] == (128, 128, 1)
    assert shapes["prediction_heads.0.vel.0.conv.weight"] == (64, 128, 1)
    assert shapes["prediction_heads.0.rot.1.bias"] == (2,)


def test_shapes_follow_an_oblong_map():
    outputs = make_head(proposals=7)(torch.randn(2, 16, 12, 20))
    shapes = {name: tuple(tensor.shape) for name, tensor in outputs.items()}
    assert shapes == {
        "center": (2, 2, 7),
        "height": (2, 1, 7),
        "dim": (2, 3, 7),
        "rot": (2, 2, 7),
        "vel": (2, 2, 7),
        "heatmap": (2, 10, 7),
        "dense_heatmap": (2, 10, 12, 20),
        "query_labels": (2, 7),
        "query_heatmap_score": (2, 10, 7),
    }


def test_position_grid_is_x_major_with_half_a_cell():
    grid = position_grid(2, 3, torch.zeros(1))
    assert grid[0].T.tolist() == [[0.5, 0.5], [0.5, 1.5], [0.5, 2.5], [1.5, 0.5], [1.5, 1.5], [1.5, 2.5]]


def test_local_maxima_against_a_loop():
    heat = torch.rand(2, 3, 6, 7, generator=torch.Generator().manual_seed(1))
    expected = torch.zeros_like(heat)
    for n, k, x, y in np.ndindex(*heat.shape):
        inner = 0 < x < 5 and 0 < y < 6
        if k == 1 or (inner and heat[n, k, x, y] == heat[n, k, x - 1 : x + 2, y - 1 : y + 2].max()):
            expected[n, k, x, y] = heat[n, k, x, y]
    torch.testing.assert_close(local_maxima(heat, 3, (1,)), expected, rtol=0, atol=0)


def test_queries_stand_on_the_best_local_maxima():
    head = make_head(proposals=5, classes_with_1x1=(8, 9))
    for parameter in head.prediction_heads[0]["center"].parameters():
        torch.nn.init.zeros_(parameter)  # so that `center` is the query's own position
    features = torch.randn(1, 16, 9, 11)
    outputs = head(features)
    heat = local_maxima(outputs["dense_heatmap"].sigmoid(), 3, (8, 9))[0]
    for query, flat in enumerate(heat.flatten().argsort(descending=True)[:5].tolist()):
        label, x, y = np.unravel_index(flat, heat.shape)
        assert outputs["query_labels"][0, query] == label
        assert outputs["center"][0, :, query].tolist() == [x + 0.5, y + 0.5]
        torch.testing.assert_close(outputs["query_heatmap_score"][0, :, query], heat[:, x, y])


def test_decoder_layer_against_the_formulas():
    torch.manual_seed(3)
    layer = DecoderLayer(8, heads=2, feedforward_channels=12, dropout=0.1).eval()
    queries, keys = torch.randn(1, 8, 3), torch.randn(1, 8, 20)
    query_positions, key_positions = torch.rand(1, 2, 3) * 5, position_grid(4, 5, keys)

    def attend(attention, query, memory):
        weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
        q, k, v = (x @ w.T + b for x, w, b in zip((query, memory, memory), weights, biases, strict=True))
        parts = []
        for part in (slice(0, 4), slice(4, 8)):
            parts.append((q[:, part] @ k[:, part].T / 2.0).softmax(dim=1) @ v[:, part])
        return attention.out_proj(torch.cat(parts, dim=1))

    own, memory = layer.self_posembed(query_positions)[0].T, keys[0].T + layer.cross_posembed(key_positions)[0].T
    state = queries[0].T
    state = layer.norm1(state + attend(layer.self_attn, state + own, state + own))
    state = layer.norm2(state + attend(layer.multihead_attn, state + own, memory))
    state = layer.norm3(state + layer.linear2(layer.linear1(state).relu()))
    torch.testing.assert_close(layer(queries, keys, query_positions, key_positions)[0].T, state, rtol=1e-4, atol=1e-5)


def test_a_sample_does_not_depend_on_its_batch():
    head, features = make_head(), torch.randn(3, 16, 12, 12)
    together, alone = head(features), head(features[1:2])
    for name, value in alone.items():
        torch.testing.assert_close(together[name][1:2], value, rtol=1e-4, atol=1e-5)


def test_every_parameter_but_none_of_the_constants_learns():
    head = make_head().train()
    outputs = head(torch.randn(2, 16, 12, 12))
    sum(value.sum() for value in outputs.values() if value.requires_grad).backward()
    assert not outputs["query_heatmap_score"].requires_grad
    assert [name for name, parameter in head.named_parameters() if parameter.grad is None] == []


def test_a_second_layer_starts_where_the_first_one_ended():
    head = make_head(layers=2, proposals=4)
    outputs = head(torch.randn(1, 16, 12, 12))
    assert outputs["center"].shape == (1, 2, 4)
    assert "prediction_heads.1.center.1.weight" in head.state_dict()


def test_point_classes_are_the_small_ones():
    assert [CLASSES[label] for label in TOY.classes_with_1x1] == ["pedestrian", "traffic_cone"]


@pytest.mark.parametrize("name", ["bevfusion-mit", "bevfusion-mit-toy"])
def test_initial_probability_is_a_tenth(name):
    head = TransFusionHead(configuration(name).head, 4)
    assert head.heatmap_head[-1].bias.sigmoid().mean().item() == pytest.approx(0.1, abs=1e-3)
