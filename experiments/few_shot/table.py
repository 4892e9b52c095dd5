r"""What the rows say: tables by judge and number of images, and each claim with its evidence.

    python -m experiments.few_shot.table outputs/few_shot/rows > table.md

A setting of the frozen model is compared with both fine-tunings at equal authenticity by
`ood_sampler.statistics.frontier.advantage`, at the level $1 - 0.05 / m$ for $m$ settings.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.frontier.goals import Domain, trade
from experiments.frontier.rows import JUDGES
from ood_sampler.metrics.opinions import as_judged
from ood_sampler.statistics.decision import order
from ood_sampler.statistics.frontier import advantage
from ood_sampler.statistics.intervals import difference_interval, interval
from ood_sampler.store.files import load_json
from ood_sampler.studies.rows import kid

Rows = Mapping[str, Mapping[str, Any]]
"""Rows of one domain by the keys of settings."""

CLUSTER = ("latents/hypersphere/500", "latents/hypersphere/999")
"""The strategy whose claim is tested."""


def read(folder: Path, judge: str, few_shot: int, seed: int) -> dict[str, Rows]:
    """Rows of all domains, as one judge sees them, without refused settings."""
    own = None if judge == JUDGES[0] else judge
    found: dict[str, Rows] = {}
    for file in sorted(folder.glob(f"*_{few_shot}_{seed}.json")):
        rows = {k: row for k, row in (load_json(file) or {}).items() if "gave_up" not in row}
        found[file.stem.split("_")[1]] = {k: as_judged(row, own) for k, row in rows.items()}
    return found


def number(row: Mapping[str, Any]) -> str:
    """KID x 10^3 with its error, authenticity, near-copies in per cent, diversity."""
    diversity = row.get("diversity")
    return (
        f"{1e3 * row['kid']:.0f} ± {1e3 * row['kid_standard_error']:.0f}; "
        f"{row['authenticity']:.2f}; {100 * row['near_copies']:.0f}%; "
        f"{'–' if diversity is None else f'{diversity:.1f}'}"
    )


def table(domains: Mapping[str, Rows]) -> str:
    """A line a setting, a column a domain."""
    keys = dict.fromkeys(key for rows in domains.values() for key in rows)
    lines = [f"| | {' | '.join(domains)} |", "|---" * (1 + len(domains)) + "|"]
    for key in keys:
        cells = [number(rows[key]) if key in rows else "–" for rows in domains.values()]
        lines.append(f"| {key} | {' | '.join(cells)} |")
    return "\n".join(lines)


def said(orders: Sequence[str], good: str, bad: str) -> str:
    """Count how often the cluster is better, worse or not told apart."""
    left = len(orders) - orders.count(good) - orders.count(bad)
    return f"{good} in {orders.count(good)}, {bad} in {orders.count(bad)}, not told apart in {left}"


def against_cluster(domains: Mapping[str, Rows]) -> list[str]:
    """How every other setting compares with the cluster on the sphere, over domains."""
    lines = []
    for cluster in CLUSTER:
        keys = dict.fromkeys(k for rows in domains.values() for k in rows if k not in CLUSTER)
        for key in keys:
            both = [
                (rows[cluster], rows[key])
                for rows in domains.values()
                if cluster in rows and key in rows
            ]
            if not both or key in ("real", "own"):
                continue
            nearer = [order(difference_interval(kid(a), kid(b))) for a, b in both]
            newer = [
                order(difference_interval(*(interval(row, "authenticity") for row in pair)))
                for pair in both
            ]
            lines.append(
                f"- {cluster} against {key}: KID "
                f"{said(nearer, 'lower', 'higher')}; "
                f"authenticity {said(newer, 'higher', 'lower')}"
            )
    return lines


def against_tuning(domains: Mapping[str, Rows]) -> list[str]:
    """Whether a usable setting of the frozen model lies below both fine-tunings."""
    lines = []
    for name, rows in domains.items():
        tuned = [trade(row) for key, row in rows.items() if key.startswith("tuned/")]
        if not tuned:
            continue
        domain = Domain(name, rows)
        every = domain.of("latents/")
        usable = {key: row for key, row in every.items() if domain.is_usable(row)}
        found = {
            key: advantage(trade(row), tuned, comparisons=len(every)) for key, row in usable.items()
        }
        apart = [
            f"{key.removeprefix('latents/')} by "
            f"{1e3 * value:.0f} [{1e3 * low:.0f}, {1e3 * high:.0f}]"
            for key, (value, low, high) in found.items()
        ]
        beyond = sum(each.low > 0 for each in found.values())
        worse = sum(each.high < 0 for each in found.values())
        lines.append(
            f"- {name}: {beyond} of {len(every)} settings nearer, {worse} farther, "
            f"{len(every) - len(usable)} left out for near-copies: {'; '.join(apart)}"
        )
    return lines


def main(write: Callable[[str], object] = sys.stdout.write) -> None:
    """Print tables of the rows in a folder."""
    folder = Path(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    for judge in JUDGES:
        for few_shot in (5, 10, 20):
            domains = read(folder, judge, few_shot, seed)
            if not domains:
                continue
            write(f"\n## {judge}, {few_shot} images\n\n{table(domains)}\n\n")
            write("\n".join([*against_cluster(domains), *against_tuning(domains)]) + "\n")


if __name__ == "__main__":
    main()
