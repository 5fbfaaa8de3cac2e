"""What a search on nuScenes varies when whole channels are removed: ``--space search_spaces/nusc_structured.py``.

Channels are coarser than weights: ask for a sparsity of 0.3 to 0.6. Trials are fine-tuned on the task alone, or learn
from the unpruned model too. SynFlow prunes in rounds to a sparsity set beforehand and is missing, so that the space
goes with limits of latency and MACs. With latency, MACs or sparsity as an objective, each trial draws its own sparsity.
"""

from altermoma_ray.engine.space import Choice, SearchSpace

SPACE = SearchSpace(
    granularities=("channel",),
    criteria=("altermoma", "deci", "snip", "taylor", "magnitude"),
    distillation=Choice((0.0, 1.0)),
    sparsity=(0.2, 0.7),
)
