r"""Iterate each inversion move until decoding undoes it."""

import torch
from torch import Tensor

from ood_sampler.diffusion.solvers.base import Flow, Point
from ood_sampler.diffusion.solvers.ddim import DdimDecoder
from ood_sampler.diffusion.solvers.multistep import continued


class FixedPointSolver(DdimDecoder):
    r"""Solve $x_s = \mathrm{carry}(x_t; \hat\epsilon(x_s, s))$ in each inversion move.

    DDIM decoding evaluates $\hat\epsilon$ at the noisier end of a move; so does this, and its fixed
    point decodes back exactly. It is the implicit Euler method: first order, like DDIM, and with
    few steps the standard deviation of its latents is too large. Decoding is that of `DdimSolver`,
    one evaluation per move, and may add noise.

    The iteration starts from noise extrapolated along the trajectory (`continued`), and its last
    estimate serves as the noise at the new point: a move costs `iterations` evaluations, and the
    whole inversion one more. $G(z) = \mathrm{carry}(x_t; \hat\epsilon(z, s))$ contracts where the
    network is smooth; where it does not, `damping` and `memory` help.

    Args:
        steps: intervals over the whole chain.
        power: spacing of the grid.
        iterations: evaluations per inversion move, >= 1; with a tolerance, at most.
        tolerance: an image is final once the root mean square of $G(z) - z$ over its values is at
            most this, so that its latent does not depend on the rest of the batch. The move ends
            once all images are final; checking this makes the host wait for the device at each
            evaluation. None, the default, avoids the wait.
        damping: share of the old iterate that is kept, in $[0, 1)$.
        memory: differences that Anderson acceleration combines, separately per image (Walker & Ni,
            2011); 0 to 5, 0 for none.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        *,
        steps: int,
        power: int,
        iterations: int,
        tolerance: float | None = None,
        damping: float = 0.0,
        memory: int = 0,
    ) -> None:
        super().__init__(steps=steps, power=power)
        if iterations < 1:
            raise ValueError(f"iterations must be >= 1, got {iterations}: without, it is ddim")
        if tolerance is not None and not (isinstance(tolerance, int | float) and tolerance > 0):
            raise ValueError(f"tolerance must be > 0 or null, got {tolerance}")
        if not 0 <= damping < 1:
            raise ValueError(f"damping must be in [0, 1), got {damping}")
        if not 0 <= memory <= 5:
            raise ValueError(f"memory must be in 0..5, got {memory}")
        self.iterations = iterations
        self.tolerance = tolerance
        self.damping = damping
        self.memory = memory

    def move(self, flow: Flow, point: Point, s: int) -> Point:
        if s < point.step:
            return point.then(flow.carry(point.x, point.eps(flow), point.step, s), s)
        eps = continued(flow, point, s)
        z = flow.carry(point.x, eps, point.step, s)
        mix = _Anderson(self.memory, self.damping)
        open_images: Tensor | None = None
        for _ in range(self.iterations):
            asked = flow.eps(z, s)
            residual = flow.carry(point.x, asked, point.step, s) - z
            following = mix(z, residual)
            if open_images is None:
                z, eps = following, asked
            else:
                z = torch.where(open_images, following, z)
                eps = torch.where(open_images, asked, eps)
            if self.tolerance is not None:
                rms = residual.flatten(1).square().mean(1).sqrt().reshape(-1, 1, 1, 1)
                # NaN counts as not final
                still = ~(rms <= self.tolerance)
                open_images = still if open_images is None else open_images & still
                if not open_images.any():
                    break
        return point.then(z, s, estimate=eps)


class _Anderson:
    r"""The next iterate of a fixed-point iteration.

    With residuals $f_k = G(z_k) - z_k$, differences $\Delta z_j, \Delta f_j$ of the last $m$
    iterates and $\beta$ = 1 - damping,

    $$z_{k+1} = z_k + \beta f_k - \sum_j \gamma_j (\Delta z_j + \beta \Delta f_j), \qquad
    \gamma = \arg\min \lVert f_k - \textstyle\sum_j \gamma_j \Delta f_j \rVert,$$

    separately per image. Without memory this is the damped iteration.
    """

    def __init__(self, memory: int, damping: float) -> None:
        self.memory = memory
        self.beta = 1 - damping
        self.last: tuple[Tensor, Tensor] | None = None
        self.differences: list[tuple[Tensor, Tensor]] = []

    def __call__(self, z: Tensor, residual: Tensor) -> Tensor:
        if self.memory and self.last is not None:
            self.differences.append((z - self.last[0], residual - self.last[1]))
            self.differences = self.differences[-self.memory :]
        self.last = (z, residual)
        following = torch.add(z, residual, alpha=self.beta)
        if not self.differences:
            return following
        moved = torch.stack([dz for dz, _ in self.differences], 1)
        changed = torch.stack([df for _, df in self.differences], 1)
        gamma = _least_squares(changed.flatten(2).double(), residual.flatten(1).double()).to(z)
        correction = torch.add(moved, changed, alpha=self.beta)
        return following - torch.einsum("bm,bmchw->bchw", gamma, correction)


def _least_squares(changed: Tensor, residual: Tensor) -> Tensor:
    """Solve the small normal equations per image, shapes $(B, m, d)$ and $(B, d)$."""
    gram = changed @ changed.mT
    # differences may be parallel, or zero once an image has converged
    ridge = 1e-10 * gram.diagonal(dim1=1, dim2=2).sum(1) + torch.finfo(gram.dtype).tiny
    unit = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    gram = gram + ridge[:, None, None] * unit
    # without the check for singular matrices, for which the host would wait
    solution: Tensor = torch.linalg.solve_ex(gram, changed @ residual[:, :, None])[0]
    return solution[:, :, 0]
