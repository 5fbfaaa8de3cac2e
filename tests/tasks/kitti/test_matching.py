from __future__ import annotations

import pytest
import torch

from altermoma_ray.tasks.kitti.matching import BACKGROUND, IGNORED, owners, shares

OBJECTS = torch.tensor([[0.0, 0, 4, 2], [10.0, 0, 14, 2]])
LABELS = torch.tensor([0, 1])
LIMITS = {"positive": (0.5, 0.7), "negative": (0.3, 0.4)}


def moved(x, by):
    return [x + by, 0, x + 4 + by, 2]


def test_owners_by_hand():
    # Moved along x by m, two rectangles of 4 m share (4 - m) / (4 + m).
    rectangles = torch.tensor(
        [moved(0, 0.5), moved(0, 1.7), moved(0, 2.5), moved(10, 1.0), moved(10, 0.5), moved(50, 0)]
    )
    assert owners(rectangles, OBJECTS, LABELS, **LIMITS).tolist() == [0, IGNORED, BACKGROUND, IGNORED, 1, BACKGROUND]


def test_without_objects_all_is_background():
    assert owners(OBJECTS, torch.zeros(0, 4), torch.zeros(0).long(), **LIMITS).tolist() == [BACKGROUND] * 2


def test_shares_are_the_chances_in_a_drawn_mini_batch():
    """The mean over many drawn mini-batches: at most half objects, background for the rest."""
    owner, size = torch.tensor([0] * 7 + [BACKGROUND] * 20 + [IGNORED] * 3), 8
    generator, counts = torch.Generator().manual_seed(0), torch.zeros(len(owner))
    for _ in range(1500):
        drawn = torch.cat(
            [
                rows[torch.randperm(len(rows), generator=generator)[: size // 2]]
                for rows in ((owner >= 0).nonzero()[:, 0], (owner == BACKGROUND).nonzero()[:, 0])
            ]
        )
        counts[drawn] += 1 / size
    assert torch.allclose(shares(owner, size), counts / 1500, atol=0.01)


@pytest.mark.parametrize(
    ("objects", "others", "wanted"),
    [(1, 3, (0.25, 0.25)), (0, 4, (0.0, 0.25)), (4, 0, (0.25, 0.0)), (2, 100, (1 / 8, 6 / 8 / 100)), (0, 0, ())],
)
def test_shares_of_few(objects, others, wanted):
    found = shares(torch.tensor([0] * objects + [BACKGROUND] * others), size=8)
    assert torch.allclose(found, torch.tensor([wanted[0]] * objects + [wanted[1]] * others if wanted else []))
