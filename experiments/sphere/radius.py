r"""How near to a sphere inverted images lie, about the origin and about their mean.

    python experiments/sphere/radius.py galaxy32 cat=cifar10/test/cat.zip > radius.md

Of N latents in d dimensions: the mean norm over $\sqrt d$ and the spread of norms, their standard
deviation over their mean, with its 95% bootstrap interval. Those of white noise, $1 / \sqrt{2 d}$,
stand below. About the mean of N latents a norm is $\sqrt{1 - 1/N}$ of that about the mean of all,
which is divided out.
"""

import argparse

import torch
from torch import Tensor

import ood_sampler as ood

_RESAMPLED = 2000


def spread(norms: Tensor) -> str:
    """Standard deviation over mean, in per cent, with its interval."""
    index = torch.randint(
        len(norms), (_RESAMPLED, len(norms)), generator=torch.Generator().manual_seed(0)
    )
    drawn = norms[index]
    found = 100 * drawn.std(dim=1) / drawn.mean(dim=1)
    low, high = found.quantile(torch.tensor([0.025, 0.975], dtype=found.dtype)).tolist()
    return f"{100 * float(norms.std() / norms.mean()):.2f} [{low:.2f}, {high:.2f}]"


def row(latents: Tensor) -> str:
    """Radius and spread about both centres."""
    z = latents.flatten(1).double()
    count, d = z.shape
    about_mean = (z - z.mean(dim=0)).norm(dim=1) / (1 - 1 / count) ** 0.5
    cells = []
    for norms in (z.norm(dim=1), about_mean):
        cells += [f"{float(norms.mean()) / d**0.5:.3f}", spread(norms)]
    return " | ".join(cells)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("domains", nargs="+", help="a shipped one, or NAME=PATH")
    parser.add_argument("--model", default="dog32")
    parser.add_argument("--count", type=int, default=100, help="images of each")
    parser.add_argument("--steps", type=int, nargs="+", default=[500, 999])
    arguments = parser.parse_args()
    model = ood.load_model(arguments.model)
    print("| images | t | radius / √d | spread, % | about the mean | spread, % |")
    print("|---|---|---|---|---|---|")
    for text in arguments.domains:
        name, _, path = text.partition("=")
        domain = ood.load_domain(path or name, f"data.few_shot={arguments.count}")
        for step in arguments.steps:
            latents = ood.invert(model, domain.few_shot, step).values
            print(f"| {name} | {step} | {row(latents)} |", flush=True)
    for step in arguments.steps:
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
        print(f"| white noise | {step} | {row(noise)} |")


if __name__ == "__main__":
    main()
