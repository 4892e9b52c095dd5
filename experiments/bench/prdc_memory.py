"""Print the peak memory of this process, in GB, before and after PRDC of vectors of a width."""

import json
import resource
import sys
from pathlib import Path

import torch
from torch import Tensor

from ood_sampler.metrics.prdc import precision_recall_density_coverage

VECTORS, NEAREST_K = 10_000, 5


def features(width: int) -> tuple[Tensor, Tensor]:
    """Two random sets that overlap."""
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(VECTORS, width, generator=generator)
    return real, torch.randn(VECTORS, width, generator=generator) + 0.1


def peak() -> float:
    """Gigabytes at the peak so far."""
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9
    # the figure of getrusage begins with the size of the process that started this one
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
    return int(line.split()[1]) * 1024 / 1e9


if __name__ == "__main__":
    real, generated = features(int(sys.argv[1]))
    before = peak()
    precision_recall_density_coverage(real, generated, nearest_k=NEAREST_K)
    print(json.dumps([before, peak()]))
