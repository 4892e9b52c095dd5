r"""What the rows of all domains say: each goal, by each judge, with the numbers it rests on.

    python -m experiments.frontier.goals experiments/frontier/rows.csv       # 200 images, seed 0
    python -m experiments.frontier.goals outputs/frontier/rows 200 1 2       # over two seeds

Settings are compared with a frontier (of pixel controls, of models without a network) at equal
authenticity by `ood_sampler.statistics.frontier.advantage`, at the level $1 - 0.05 / m$ for $m$
settings tried. A setting with more near-copies than twice those of held-out images + 1% is left
out.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.frontier.rows import JUDGES, rows_in
from experiments.frontier.settings import WITHOUT_NETWORK
from ood_sampler.metrics.opinions import as_judged
from ood_sampler.statistics.frontier import Trade, advantage, pareto
from ood_sampler.statistics.resampling import Interval
from ood_sampler.studies.rows import standard_error

SPARE = 0.01
"""Near-copies beyond twice the share of held-out images that a setting may have."""


@dataclass(frozen=True)
class Domain:
    """Rows of one domain, as one judge sees them.

    Attributes:
        name: of the domain, with its base model where that is not `dog32`.
        rows: by the keys of settings.
    """

    name: str
    rows: Mapping[str, Mapping[str, Any]]

    def of(self, prefix: str) -> dict[str, Mapping[str, Any]]:
        """Rows whose keys begin so."""
        return {key: row for key, row in self.rows.items() if key.startswith(prefix)}

    @property
    def settings(self) -> dict[str, Mapping[str, Any]]:
        """Usable settings of the frozen model."""
        return {key: row for key, row in self.of("base/").items() if self.is_usable(row)}

    @property
    def pixels(self) -> dict[str, Mapping[str, Any]]:
        """Mixtures of the images themselves."""
        return self.of("pixels/")

    @property
    def without_network(self) -> dict[str, Mapping[str, Any]]:
        """Settings of the models without a network."""
        return {k: r for name in WITHOUT_NETWORK for k, r in self.of(f"{name}/").items()}

    def is_usable(self, row: Mapping[str, Any]) -> bool:
        """Whether a setting does not copy more than it may."""
        return bool(row["near_copies"] <= 2 * self.rows["real"]["near_copies"] + SPARE)


def trade(row: Mapping[str, Any]) -> Trade:
    """KID and authenticity of a row, with their errors."""
    return Trade(
        row["authenticity"],
        row["kid"],
        standard_error(row, "authenticity"),
        row["kid_standard_error"],
    )


def read(place: Path, few_shot: int | None = None, seed: int = 0) -> dict[str, list[Domain]]:
    """All domains of a folder or a file of rows, by judge."""
    found: dict[str, list[Domain]] = {judge: [] for judge in JUDGES}
    for (model, name, count, own_seed), rows in rows_in(place).items():
        # three quarters of the images where a domain has too few
        if own_seed != seed or (
            few_shot is not None and count not in (few_shot, few_shot * 3 // 4)
        ):
            continue
        if not any(key.startswith("base/plain/cog 5") for key in rows):
            continue  # interrupted before there was a frontier
        title = name if model == "dog32" else f"{name} from {model}"
        for judge in JUDGES:
            own = None if judge == JUDGES[0] else judge
            found[judge].append(
                Domain(title, {key: as_judged(row, own) for key, row in rows.items()})
            )
    return found


def beyond(domain: Domain, others: Mapping[str, Mapping[str, Any]]) -> dict[str, Interval]:
    """How far each usable setting lies below a frontier, corrected for their number."""
    line = [trade(row) for row in others.values()]
    settings = domain.settings
    return {
        key: advantage(trade(row), line, comparisons=len(domain.of("base/")))
        for key, row in settings.items()
    }


def invention(domain: Domain) -> dict[str, Mapping[str, Any]]:
    """Settings that meet goal 2: as near as `cog` of 3 at 500, newer than half-way to it."""
    known, real = domain.rows["base/plain/cog 3/500"], domain.rows["real"]
    half = (known["blend_five"] + real["blend_five"]) / 2
    return {
        key: row
        for key, row in domain.of("base/").items()
        if row["kid"] <= known["kid"]
        and row["near_copies"] <= real["near_copies"]
        and row["blend_five"] <= half
    }


def below_recipe(domain: Domain) -> dict[str, str | None]:
    """For each recipe of the paper the setting with 30% lower KID and no less authenticity."""
    found: dict[str, str | None] = {}
    for key, recipe in domain.of("base/plain/recipe").items():
        better = {
            k: r["kid"]
            for k, r in domain.settings.items()
            if "recipe" not in k
            and r["kid"] <= 0.7 * recipe["kid"]
            and r["authenticity"] >= recipe["authenticity"]
        }
        found[key.split("/")[2]] = min(better, key=lambda k: better[k]) if better else None
    return found


def number(row: Mapping[str, Any]) -> str:
    """KID x 10^3 with its error, authenticity, near-copies in per cent, blend of five."""
    return (
        f"{1e3 * row['kid']:.0f} ± {1e3 * row['kid_standard_error']:.0f}; "
        f"{row['authenticity']:.2f}; {100 * row['near_copies']:.0f}%; {row['blend_five']:.2f}"
    )


def table(domains: Sequence[Domain]) -> str:
    """A line a setting, a column a domain."""
    keys = list(dict.fromkeys(key for domain in domains for key in domain.rows))
    lines = [f"| | {' | '.join(d.name for d in domains)} |", "|---" * (1 + len(domains)) + "|"]
    for key in keys:
        cells = [number(d.rows[key]) if key in d.rows else "" for d in domains]
        lines.append(f"| {key} | {' | '.join(cells)} |")
    return "\n".join(lines)


SHOWN = {
    "`cog` of 3 in pixels": "pixels/cog 3",
    "`cog` of 3, t = 500": "base/plain/cog 3/500",
    "`cog` of 3, t = 999": "base/plain/cog 3/999",
    "`cog` of 5, t = 999": "base/plain/cog 5/999",
    "`white`, v = 0.4": "base/plain/white .4/999",
    "the same, corrected": "base/corrected/white .4/999",
    "recipe, text": "base/plain/recipe, text/500",
    "recipe, code": "base/plain/recipe, code/500",
    "patches, `cog` of 3": "analytic_patches/plain/cog 3/500",
    "real images": "real",
}
"""Settings in the table of the page."""


def overview(domains: Sequence[Domain]) -> str:
    """A line a domain: KID, authenticity and near-copies of some settings that were measured."""
    shown = {n: key for n, key in SHOWN.items() if any(key in d.rows for d in domains)}
    lines = [f"| | {' | '.join(shown)} |", "|---" * (1 + len(shown)) + "|"]
    for domain in domains:
        found = [domain.rows.get(key) for key in shown.values()]
        cells = ["–" if row is None else number(row).rpartition(";")[0] for row in found]
        lines.append(f"| {domain.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def verdicts(domains: Sequence[Domain]) -> str:
    """A line a domain: settings beyond each frontier, worse, and the clearest of them."""
    frontiers = {"pixels": "pixels"}
    if any(domain.without_network for domain in domains):
        frontiers["no network"] = "without_network"
    heads = [f"beyond {name} | worse | most clearly" for name in frontiers]
    lines = [f"| | {' | '.join(heads)} |", "|---" * (1 + 3 * len(heads)) + "|"]
    for domain in domains:
        cells = [domain.name]
        for others in (getattr(domain, kind) for kind in frontiers.values()):
            found = beyond(domain, others) if others else {}
            if not found:
                cells += ["–", "–", "–"]
                continue
            shown = sum(each.low > 0 for each in found.values())
            best = max(found, key=lambda k: found[k].low)
            value, low, high = (
                f"{1e3 * end:.0f}" for end in (found[best].value, found[best].low, found[best].high)
            )
            cells += [
                f"{shown} of {len(found)}",
                str(sum(each.high < 0 for each in found.values())),
                f"{_words(best)}: {value} [{low}, {high}]",
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


OVER_SEEDS = {
    name: key for name, key in SHOWN.items() if key.startswith(("pixels/cog", "base/plain/cog"))
}
"""Settings that are measured for several seeds."""


def over_seeds(seeds: Sequence[Sequence[Domain]]) -> str:
    """A line a domain: KID of each seed, and how many seeds lie beyond the mixtures of pixels.

    A seed chooses the few-shot images, the held-out ones and all draws. Each is corrected for the
    number of settings that were measured with it.
    """
    lines = [f"| | {' | '.join(OVER_SEEDS)} |", "|---" * (1 + len(OVER_SEEDS)) + "|"]
    for name in dict.fromkeys(domain.name for domains in seeds for domain in domains):
        own = [next((d for d in domains if d.name == name), None) for domains in seeds]
        cells = [_seeds_of(own, key) for key in OVER_SEEDS.values()]
        lines.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(lines)


def _seeds_of(seeds: Sequence[Domain | None], key: str) -> str:
    """KID of a setting by seed, and of a frozen model's setting how many are beyond pixels."""
    there = [None if domain is None or key not in domain.rows else domain for domain in seeds]
    kids = ", ".join("–" if d is None else f"{1e3 * d.rows[key]['kid']:.0f}" for d in there)
    known = [domain for domain in there if domain is not None and domain.pixels]
    if not key.startswith("base/") or not known:
        return kids
    # a setting with too many near-copies is not beyond anything
    further = [beyond(domain, domain.pixels).get(key) for domain in known]
    shown = sum(each is not None and each.low > 0 for each in further)
    return f"{kids}; {shown} of {len(known)}"


def _words(key: str) -> str:
    _, flow, name, step = key.split("/")
    return f"{name}, t = {step}{', corrected' if flow == 'corrected' else ''}"


def told(domains: Sequence[Domain]) -> list[str]:
    """Each goal in a line a domain."""
    lines = []
    for domain in domains:
        lines.append(f"**{domain.name}**")
        for what, others in (("pixels", domain.pixels), ("no network", domain.without_network)):
            if not others:
                continue
            found = beyond(domain, others)
            shown = {k: i for k, i in found.items() if i.low > 0}
            worse = sum(i.high < 0 for i in found.values())
            best = sorted(shown or found, key=lambda k: -found[k].low)[:3]
            texts = [
                f"{k.removeprefix('base/')} by {1e3 * found[k].value:.0f} "
                f"[{1e3 * found[k].low:.0f}, {1e3 * found[k].high:.0f}] ({number(domain.rows[k])})"
                for k in best
            ]
            lines.append(
                f"- beyond {what}: {len(shown)} of {len(found)}, {worse} worse: {'; '.join(texts)}"
            )
        if "base/plain/cog 3/500" in domain.rows:
            made = [
                f"{k.removeprefix('base/')} ({number(r)})" for k, r in invention(domain).items()
            ]
            lines.append(f"- inventions: {'; '.join(made) or 'none'}")
        lines.append(f"- 30% below the recipes: {below_recipe(domain)}")
        ends = pareto([trade(r) for r in domain.settings.values()])
        edge = [k for k, r in domain.settings.items() if trade(r) in ends]
        lines.append(f"- frontier of the model: {', '.join(e.removeprefix('base/') for e in edge)}")
    return lines


def main(write: Callable[[str], object] = sys.stdout.write) -> None:
    """Print tables and goals of some rows, or tables over several seeds."""
    place = Path(sys.argv[1])
    few_shot = int(sys.argv[2]) if len(sys.argv) > 2 else 200
    seeds = [int(text) for text in sys.argv[3:]] or [0]
    read_all = [read(place, few_shot, seed) for seed in seeds]
    for judge in JUDGES:
        domains, *others = [found[judge] for found in read_all]
        if others:
            write(f"\n## {judge}\n\nKID × 10³ of each seed.\n\n{over_seeds([domains, *others])}\n")
            continue
        write(f"\n## {judge}\n\nKID × 10³; authenticity; near-copies; blend of five.\n\n")
        parts = (overview(domains), verdicts(domains), "\n".join(told(domains)), table(domains))
        write("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
