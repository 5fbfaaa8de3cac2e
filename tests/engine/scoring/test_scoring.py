from __future__ import annotations

import pytest
import torch

from altermoma_ray.data.nuscenes.dataset import NuScenesDataset, collate
from altermoma_ray.engine.scoring.indicators import (
    MaskRequest,
    ScoringJob,
    backward_passes,
    load_indicators,
    load_scores,
    merged,
    scores_file,
    seconds_to_score,
)
from altermoma_ray.engine.scoring.score import Share, score, score_worker
from altermoma_ray.models.bevfusion import FusionModel
from altermoma_ray.models.checkpoint import load_checkpoint
from altermoma_ray.pruning import Indicators, Reactivation, contribution, prunable_weights, redundancy
from altermoma_ray.storage import Location
from altermoma_ray.tasks.detection.task import DetectionTask

MODALITIES = ("lidar", "camera")
SETTINGS = (
    Reactivation(steps=1, learning_rate=1e-3),
    Reactivation(steps=2, learning_rate=1e-3),
    Reactivation(steps=2, learning_rate=1e-3, gradient="last-batch"),
)


def job(workload, checkpoint, settings=SETTINGS, **fields):
    figures = {"scoring_batches": 2, "batch_size": 2, "micro_batch_size": 1, "seed": 3, **fields}
    return ScoringJob(
        workload=workload, checkpoint=str(checkpoint), checkpoint_hash="random", settings=tuple(settings), **figures
    )


def relative(first, second):
    """Largest difference of two indicators, relative to the largest entry of each tensor."""
    pairs = [(first.contribution[name], second.contribution[name]) for name in first.contribution]
    for masked in MODALITIES:
        assert first.redundancy[masked].keys() == second.redundancy[masked].keys()
        pairs += [
            (first.redundancy[masked][name], second.redundancy[masked][name]) for name in first.redundancy[masked]
        ]
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-12)) for a, b in pairs)


@pytest.mark.parametrize(
    "counts",
    # With 4 workers and batches of 2 the masking passes run side by side; with 2 one after the other, as with 1.
    [(1, 4), pytest.param((1, 2), marks=pytest.mark.slow)],
)
def test_workers_agree_and_each_setting_is_scored_once(counts, workload, checkpoint, ray_of_four, tmp_path):
    found, scores = {}, {}
    for workers in counts:
        elsewhere = workload.model_copy(update={"storage": str(tmp_path / f"workers-{workers}")})
        work = job(elsewhere, checkpoint, contribution=True, criteria=("snip",))
        assert score([work], workers=workers) == 5
        found[workers] = [load_indicators(work, setting) for setting in SETTINGS]
        scores[workers] = load_scores(work, "snip")
        files = sorted(file.name for file in work.folder().children())
        assert files == [
            "deci.safetensors",
            "reri-B1-lr0.001.safetensors",
            "reri-B2-lr0.001-last-batch.safetensors",
            "reri-B2-lr0.001.safetensors",
            scores_file("snip"),
        ]
        assert seconds_to_score(work) > 0
        written = [file.read_bytes() for file in work.folder().children()]
        assert score([work], workers=workers) == 0
        assert [file.read_bytes() for file in work.folder().children()] == written
    for one, several in zip(found[1], found[workers], strict=True):
        assert relative(several, one) < 1e-4
    for name, tensor in scores[1].items():  # SNIP is DeCI before it is normalised
        assert torch.allclose(scores[workers][name], tensor, rtol=1e-4, atol=1e-4 * float(tensor.max()))
        assert torch.allclose(found[1][0].contribution[name], tensor, rtol=1e-4, atol=1e-6 * float(tensor.max()))
    for setting, one in zip(SETTINGS[1:], found[1][1:], strict=True):
        assert relative(one, unsharded(job(workload, checkpoint), setting)) < 1e-4
    assert relative(found[1][1], found[1][2]) > 1e-2  # D and the last batch are different data


def unsharded(work, setting):
    """The same by the pruning floor alone, in this process; on one thread like a worker, whose rounding it shares."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _unsharded(work, setting)
    finally:
        torch.set_num_threads(threads)


def _unsharded(work, setting):
    model, _ = load_checkpoint(Location.parse(work.checkpoint))
    task, data = DetectionTask(model.config.head), work.workload.load().source()
    dataset = NuScenesDataset(data.index(), data.rows("train"), model.config.inputs, augment=False, seed=work.seed)
    batches = []
    for stream in (0, 1):  # D, then the reactivation batches
        generator = torch.Generator().manual_seed(work.seed + (stream << 32))
        order = torch.randperm(len(dataset), generator=generator).tolist()
        batches += [collate([dataset[i] for i in order[start : start + 2]]) for start in (0, 2)]

    def loss(batch, masked):
        for sample in (batch.samples(0, 1), batch.samples(1, 2)):
            yield task.loss(model(sample, masked), sample)["total"].sum() / 2

    names = list(prunable_weights(model))
    return Indicators(
        contribution=contribution(model, names, loss, batches[:2]),
        redundancy={
            masked: redundancy(
                model,
                [name for name in names if FusionModel.group_of(name) != masked],
                loss,
                masked,
                batches[:2],
                batches[2:],
                [setting],
            )[setting]
            for masked in MODALITIES
        },
    )


def test_indicators_are_kept_apart_by_everything_they_depend_on(workload, checkpoint):
    base = job(workload, checkpoint).folder()
    for change in (
        {"seed": 4},
        {"scoring_batches": 3},
        {"batch_size": 4},
        {"micro_batch_size": 2},
        {"checkpoint_hash": "other"},
        {"norms": "batch"},
    ):
        assert job(workload, checkpoint).model_copy(update=change).folder() != base
    assert job(workload, checkpoint, SETTINGS[:1]).folder() == base


def test_jobs_of_one_folder_are_merged_and_want_nothing_twice(workload, checkpoint):
    first = job(workload, checkpoint, SETTINGS[:1], criteria=("snip",))
    request = MaskRequest(criterion="synflow", sparsity=0.9)
    second = job(workload, checkpoint, SETTINGS, criteria=("magnitude", "snip"), masks=(request,))
    other = job(workload, checkpoint, SETTINGS[:1], seed=4)
    together, apart = merged([first, second, other, second])
    assert together.settings == SETTINGS
    assert [request.criterion for request in together.criteria] == ["snip", "magnitude"]
    assert together.masks == (request,)
    assert apart == other


@pytest.mark.parametrize("world", [1, 2, 3, 4, 7])
def test_shares_give_every_micro_batch_to_one_worker(world):
    batches = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    shares = [Share(rank, world, None) for rank in range(world)]
    for batch in batches:
        assert [number for share in shares for number in share.of_batch(batch)] == batch
    parts = [share.of_batches(batches) for share in shares]
    assert all(len(part) == len(batches) for part in parts)
    loads = [sum(map(len, part)) for part in parts]
    assert max(loads) - min(loads) <= 1
    assert sorted(number for part in parts for batch in part for number in batch) == list(range(12))


def test_a_reactivation_that_diverges_costs_no_other(workload, checkpoint):
    settings = (Reactivation(steps=1, learning_rate=1e-3), Reactivation(steps=2, learning_rate=1e12))
    work = job(workload, checkpoint, settings, criteria=("magnitude",))
    with pytest.raises(FloatingPointError, match=r"not finite|is nan|is inf"):
        score_worker(work)
    assert work.missing().settings == settings[1:]
    assert work.missing().criteria == ()


def test_settings_share_trajectories():
    settings = [Reactivation(steps=b, learning_rate=lr) for b in (4, 16) for lr in (1e-4, 1e-3)]
    work = ScoringJob.model_construct(scoring_batches=8, settings=tuple(settings))
    assert backward_passes(work, modalities=2) == 8 + 2 * (8 + 2 * 16 + 4 * 8)
