"""How often a certificate says "no worse" of a champion that is worse by exactly the margin, which it may in 5 %.

    python -m benchmarks.certificate --storage DIR [--repeats 1000]

DIR is a storage with certificates (``python -m altermoma_ray.leaderboard SEARCH --certify``). The differences within
scenes of each are moved so that their mean is exactly −margin, the least favourable of all true differences that must
not be called "no worse"; validation sets of 25, 50 and 150 scenes are drawn from them with replacement, and the
product's own verdict is counted. The same with a true difference of 0 tells how often a champion that is as good is
found to be so. Beside the measured differences stands one case that is made up to be hard: losses with a long tail, of
which a validation set may have none.

A second figure is of slices: the models of each scene are exchanged at random, so that neither is worse, and it is
counted how often any slice of the certificate is called worse all the same.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from altermoma_ray.storage import Location
from altermoma_ray.tracking.certificate.conclusions import slices_of
from altermoma_ray.tracking.certificate.records import Measured, Pair
from altermoma_ray.tracking.certificate.statistics import LEVEL, is_no_worse, mean_interval
from benchmarks.report import Target, options_parser, publish

SCENES = (25, 50, 150)
MARGIN = 0.02
Floats = NDArray[np.float64]


def main() -> None:
    """Measure, print and write ``results/certificate.json``."""
    parser = options_parser(__doc__)
    parser.add_argument("--repeats", type=int, default=1000, help="validation sets of each size (default: 1000)")
    parser.add_argument("--exchanges", type=int, default=200, help="random exchanges of the models (default: 200)")
    options = parser.parse_args()
    found = certificates(Location.parse(options.storage))
    cases = {name: differences(one) for name, one in found.items()}
    tail = -(np.random.default_rng(options.seed).exponential(size=1000) ** 2)
    # With the spread of the first measured case, so that only the shape differs.
    spread = next(iter(cases.values())).std()
    cases["made up: a long tail of losses"] = tail / tail.std() * spread
    measured = {}
    for name, values in cases.items():
        for count in SCENES:
            falsely, power = (
                rate(values - values.mean() + true, count, options.repeats, options.seed) for true in (-MARGIN, 0.0)
            )
            measured[f"{name}, {count} scenes"] = {"falsely no worse": falsely, "power at 0": power}
            print(f"{name}, {count} scenes: {falsely:.3f} falsely no worse, {power:.3f} power at 0", flush=True)
    falsely_worse = {name: any_worse(one, options.exchanges, options.seed) for name, one in found.items()}
    real = [row["falsely no worse"] for name, row in measured.items() if not name.startswith("made up")]
    # Two standard errors of a rate of 5 % above it: no more can be told by so many repeats.
    most = LEVEL + 2 * math.sqrt(LEVEL * (1 - LEVEL) / options.repeats)
    publish(
        options,
        "certificate",
        __doc__.partition("\n")[0],
        measured=measured,
        targets=[
            Target("falsely no worse, the most of the measured cases", max(real), most=most),
            *(Target(f"any slice falsely worse, {name}", share) for name, share in falsely_worse.items()),
        ],
        details={"margin": MARGIN, "differences": {name: values.tolist() for name, values in cases.items()}},
    )


def certificates(storage: Location) -> dict[str, Measured]:
    """What the certificates in a storage were made of, by the names of their searches."""
    folders = [folder for folder in storage.join("reports").children() if folder.name.startswith("certificate-")]
    if not folders:
        raise SystemExit(f"no certificate in {storage}; run: python -m altermoma_ray.leaderboard SEARCH --certify")
    read = [Measured.model_validate_json(folder.join("measured.json").read_bytes()) for folder in folders]
    return {one.search: one for one in read}


def differences(measured: Measured) -> Floats:
    """The finite differences within scenes, above 0 where the champion is better."""
    values = np.array([measured.sign * scene.metric.difference for scene in measured.scenes])
    return values[np.isfinite(values)]


def rate(values: Floats, count: int, repeats: int, seed: int) -> float:
    """The share of validation sets of ``count`` scenes whose verdict is "no worse"."""
    random = np.random.default_rng(seed)
    verdicts = [
        is_no_worse(mean_interval(random.choice(values, count), seed=number), count, MARGIN)
        for number in range(repeats)
    ]
    return float(np.mean(verdicts))


def any_worse(measured: Measured, exchanges: int, seed: int) -> float:
    """The share of random exchanges of the models in which a slice is called worse."""
    random = np.random.default_rng(seed)
    # Both models at one threshold, as an exchange would otherwise carry the thresholds over to the other model.
    found = [measured.is_found(one) for one in measured.objects]
    claims = []
    for _ in range(exchanges):
        swapped = random.random(len(measured.scenes)) < 0.5
        objects = [
            one.model_copy(update={"scores": _scores(pair if not swapped[one.scene] else pair[::-1])})
            for one, pair in zip(measured.objects, found, strict=True)
        ]
        exchanged = measured.model_copy(update={"objects": objects, "thresholds": Pair(unpruned=1, champion=1)})
        claims.append(any(one.is_worse for one in slices_of(exchanged)))
    return float(np.mean(claims))


def _scores(found: tuple[bool, ...]) -> Pair:
    return Pair(unpruned=float(found[0]), champion=float(found[1]))


if __name__ == "__main__":
    main()
