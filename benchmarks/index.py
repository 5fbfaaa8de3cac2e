"""Opening the Arrow index against loading the same dataroot with nuscenes-devkit: time and peak memory.

    python -m benchmarks.index --dataroot DIR [--repeats 5]

``DIR`` holds a synthetic set (``python -m altermoma_ray.data.synthetic --out DIR --scenes 850``) and is generated when
it is missing. Every measurement is a process of its own, the two sides alternating: it imports what it needs, then
times the opening. Peak memory is the process's greatest resident size while opening, whole and above what it had after
its imports. The side "index read" also decodes every keyframe once, to show what the lazy opening defers.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "index.json"
VERSION = "v1.0-trainval"
_IMPORTS = "from altermoma_ray.data.nuscenes.index import open_index; from altermoma_ray.storage import Location"
_OPEN = "index = open_index(Location.parse(dataroot), version, Location.parse(storage)); count = len(index)"
SIDES = {
    "index": (_IMPORTS, _OPEN),
    "index read": (_IMPORTS, f"{_OPEN}; [index.record(row) for row in range(count)]"),
    "devkit": (
        "from nuscenes.nuscenes import NuScenes",
        "nusc = NuScenes(version, dataroot, verbose=False); count = len(nusc.sample)",
    ),
}
PROGRAM = """
import json, sys, time
dataroot, version, storage = sys.argv[1:]
{imports}
def resident(key):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith(key))
with open("/proc/self/clear_refs", "w") as peak:
    peak.write("5")  # forget the peak of the imports
before, start = resident("VmRSS"), time.perf_counter()
{opening}
seconds, peak = time.perf_counter() - start, resident("VmHWM")
print(json.dumps(dict(seconds=seconds, peak_mib=peak, added_mib=peak - before, keyframes=count)))
"""


def measure(side: str, dataroot: Path, storage: Path) -> dict[str, float]:
    """One opening in a fresh process."""
    imports, opening = SIDES[side]
    program = PROGRAM.format(imports=imports, opening=opening)
    command = [sys.executable, "-c", program, str(dataroot), VERSION, str(storage)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


def main() -> None:
    """Measure, print and write ``results/index.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataroot", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=850, help="scenes to generate when the dataroot is missing")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if not options.dataroot.exists():
        from altermoma_ray.data.synthetic import generate

        generate(options.dataroot, scenes=options.scenes, seed=0)
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as storage:
        measure("index", options.dataroot, Path(storage))  # builds it
        measure("devkit", options.dataroot, Path(storage))  # both sides now find their files in the page cache
        for _ in range(options.repeats):
            for side in SIDES:
                runs[side].append(measure(side, options.dataroot, Path(storage)))
    median = {
        side: {key: statistics.median(run[key] for run in entries) for key in entries[0]}
        for side, entries in runs.items()
    }
    ratio = {key: median["devkit"][key] / median["index"][key] for key in ("seconds", "peak_mib", "added_mib")}
    report = {
        "what": __doc__.splitlines()[0],
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "repeats": options.repeats,
        "median": median,
        "ratio_devkit_over_index": ratio,
        "runs": runs,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    for side, values in median.items():
        print(
            f"{side:10} {values['seconds'] * 1e3:9.2f} ms   peak {values['peak_mib']:7.1f} MiB, "
            f"{values['added_mib']:7.2f} MiB above its imports"
        )
    print("devkit / index: " + ", ".join(f"{key} {value:.1f}x" for key, value in ratio.items()))


if __name__ == "__main__":
    main()
