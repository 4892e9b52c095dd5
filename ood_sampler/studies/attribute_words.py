"""What the rows of the study of attributes say, in sentences."""

from collections.abc import Mapping, Sequence

from ood_sampler.report.columns import Row, number
from ood_sampler.statistics.decision import TOO_FEW, Outcome, decide, order
from ood_sampler.statistics.intervals import interval
from ood_sampler.statistics.resampling import Interval
from ood_sampler.studies.paths import PIXELS, SPHERE
from ood_sampler.studies.rows import by_column, place, quoted, too_few

_ALIKE = 0.1
"""Difference of changes, in standard deviations, below which two methods change as much."""

_SHARED = 0.01
"""Mean cosine below which directions of pairs count as unrelated."""

_LEAST_R2, _LEAST_AUROC = 0.2, 0.7
"""Scores of a probe below which it does not know the attribute."""


def of_attributes(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of each attribute of each run, by its domain, where latents lie and its name."""
    return {
        f"{own[0]['domain']}, {place(own[0])}: {name}": own
        for run in by_column(rows, "run").values()
        for name, own in by_column(run, "attribute").items()
    }


def conclude(rows: Sequence[Row]) -> list[str]:
    """Say what each direction changes, and whether pairs share it."""
    sentences = []
    for name, own in of_attributes(rows).items():
        sentences += _changes(name, own)
        # no opinion of a judge
        if own[0].get("judge") == own[0].get("headline"):
            sentences += _shared(name, own)
    return sentences


def claims(rows: Sequence[Row]) -> Mapping[str, Outcome]:
    """Whether each direction changes its attribute, and more than in pixels.

    What a probe says that does not know the attribute settles nothing.
    """
    found: dict[str, Outcome] = {}
    for name, own in of_attributes(rows).items():
        row = at_one(own, SPHERE)
        sign = 1 if row["strength"] > 0 else -1
        for key, words in (
            ("gain", "the direction changes the attribute its way"),
            ("over_pixels", "it changes it more than the same in pixels"),
        ):
            outcome = decide(_turned(interval(row, key), sign), least=0).outcome
            found[f"{name}: {words}"] = outcome if knows(row) else "unclear"
    return found


def at_one(own: Sequence[Row], method: str) -> Row:
    """The row of a method whose strength is nearest to 1."""
    return min(
        (row for row in own if row["method"] == method), key=lambda row: abs(row["strength"] - 1)
    )


def knows(row: Row) -> bool:
    """Whether the probe of a row tells the attribute of images that it has not seen."""
    return bool(row["probe"] >= (_LEAST_AUROC if row["binary"] else _LEAST_R2))


def _changes(name: str, own: Sequence[Row]) -> list[str]:
    row, pixels = at_one(own, SPHERE), at_one(own, PIXELS)
    score = f"{'AUROC' if row['binary'] else 'R²'} {quoted(row, 'probe')} on held-out images"
    if not knows(row):
        return [
            f"{name}: a linear probe cannot tell it ({score}), so that its change is not measured."
        ]
    told = (
        f"{name}: at s = {row['strength']:g} the {SPHERE} changes it by {quoted(row, 'gain')} "
        f"standard deviations by a probe of {score}"
    )
    if number(row.get("measured")) is not None:
        told += (
            f", by {quoted(row, 'measured')} by a plain measure (squared correlation with the "
            f"label {row['agreement']:.2f})"
        )
    if row.get("other_name"):
        told += f"; of the others {row['other_name']} most, by {quoted(row, 'other')}"
    told += (
        f"; the feature distance to the original is {quoted(row, 'distance')} of that of two "
        f"images, PSNR {row['psnr']:.1f} dB"
    )
    difference = interval(row, "over_pixels")
    verdict = {
        "higher": "a larger change than that of",
        "lower": "a smaller change than that of",
        "alike": f"as large a change, to within {_ALIKE}, as that of",
        "unclear": f"a change not told apart ({_more(difference, row)}) from that of",
    }[order(difference, margin=_ALIKE)]
    return [
        f"{told}.",
        f"{name}: that is {verdict} the {PIXELS} ({quoted(pixels, 'gain')}, feature distance "
        f"{quoted(pixels, 'distance')}, PSNR {pixels['psnr']:.1f} dB, KID × 10³ "
        f"{1e3 * pixels['kid']:.0f} against {1e3 * row['kid']:.0f}).",
    ]


def _shared(name: str, own: Sequence[Row]) -> list[str]:
    sentences = []
    for space, rows in by_column(own, "space").items():
        row = rows[0]
        shared = {
            "higher": "yes",
            "lower": "no",
            "alike": "no",
            "unclear": TOO_FEW,
        }[order(interval(row, "beyond_null"), margin=_SHARED)]
        beyond = {
            "higher": "yes",
            "lower": "no, less",
            "alike": "no",
            "unclear": TOO_FEW,
        }[order(interval(row, "beyond_means"), margin=_SHARED)]
        sentences.append(
            f"{name}: do directions of {row['pairs']} independent pairs in {space} share it? "
            f"{shared} (mean cosine {quoted(row, 'cosine', '.3f')}, with labels permuted "
            f"{quoted(row, 'null', '.3f')}); more than the two means explain? {beyond} (they "
            f"explain {row['explained']:.3f}, the difference is "
            f"{quoted(row, 'beyond_means', '.3f')}); {row['signal']:.0%} of the squared length of "
            "their mean is signal, the rest sampling noise."
        )
    return sentences


def _more(apart: Interval, row: Row) -> str:
    factors = [decide(apart, **limit).factor for limit in ({"least": 0.0}, {"most": 0.0})]
    known = [factor for factor in factors if factor is not None]
    return too_few(min(known, default=None), row, name="moved images", setting="study.count")


def _turned(found: Interval, sign: int) -> Interval:
    value, low, high = found
    return found if sign > 0 else Interval(-value, -high, -low)
