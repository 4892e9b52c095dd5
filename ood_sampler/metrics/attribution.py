"""Attribution: the few-shot images that explain a sample best, with the share of each."""

from typing import NamedTuple

from torch import Tensor

from ood_sampler.metrics.blend import best_pair, correlation, select


class Attribution(NamedTuple):
    """Few-shot rows per sample in order of choice, and their shares, float64: $(N, m)$."""

    indices: Tensor
    shares: Tensor


def attribution(samples: Tensor, reference: Tensor, *, size: int = 5) -> Attribution:
    r"""Attribute each sample to the reference vectors behind its blend score.

    `forward_selection` chooses them, starting from the `best_pair`, of which the vector that
    explains more alone comes first. The share of the $k$-th is its addition to those before it,

    $$s_k = R^2_k - R^2_{k-1}, \qquad R^2_0 = 0, \qquad \sum_{k=1}^m s_k = R^2_m$$

    so that a vector similar to an earlier one gets little, and five shares add up to the blend
    score of five. Vectors added after the sample is fully explained have a share of 0.

    Args:
        samples: Images flattened, shape $(N, D)$.
        reference: The few-shot set, shape $(M, D)$, $M \ge 2$.
        size: Number of vectors to choose, at least 2; all if $M$ is smaller.

    Returns:
        The attribution of each sample, $m = \min(M, \text{size})$.
    """
    pair = best_pair(samples, reference).indices
    alone = correlation(samples, reference).square().gather(1, pair)
    order = alone.argsort(dim=1, descending=True, stable=True)
    gains, indices = select(samples, reference, pair.gather(1, order), size=size)
    return Attribution(indices, gains)
