"""Columns of the tables of a run: every metric of the package, and those that a user adds."""

from collections.abc import Sequence

from ood_sampler.metrics.opinions import plain, second_judges
from ood_sampler.report.columns import Column, Row

COLUMNS = (
    Column(
        key="samples",
        heading="images",
        digits=0,
        interval=False,
        judged=False,
        meaning="Number of images compared with the held-out images.",
    ),
    Column(
        key="fid",
        heading="FID",
        narrow="FID",
        better="lower",
        fixed=True,
        meaning=(
            "Fréchet distance between Gaussians fitted to the features of both sets; biased upward "
            "for small sets, so compare only rows of equal size (Heusel et al., 2017). Its "
            "interval is that of FID at this size, not of FID of endless sets: FID∞ is what can be "
            "compared across sizes."
        ),
    ),
    Column(
        key="fid_infinity",
        heading="FID∞",
        better="lower",
        fixed=True,
        meaning=(
            "FID of endless sets, from a line through those of random subsets, which frees it of "
            "that bias; around 0, also below, for sets of one distribution. Left out where a "
            "set has fewer than four images for each feature (Chong and Forsyth, 2020)."
        ),
    ),
    Column(
        key="kid",
        heading="KID × 10³",
        narrow="KID\n× 10³",
        better="lower",
        digits=2,
        scale=1e3,
        error="kid_standard_error",
        meaning=(
            "Unbiased kernel distance between the features of both sets, ± its standard error; "
            "around 0, also below, for sets of one distribution (Bińkowski et al., 2018)."
        ),
    ),
    Column(
        key="kid_above",
        heading="KID × 10³ above samples",
        fixed=True,
        scale=1e3,
        meaning=(
            "KID less that of the samples, to the same held-out images, whose part of the error "
            "drops out: the samples are nearer where the whole interval lies above 0."
        ),
    ),
    Column(
        key="precision",
        heading="precision",
        narrow="preci-\nsion",
        digits=3,
        better="higher",
        meaning=(
            "Share of the images that lie among the real ones: are they realistic? "
            "(Kynkäänniemi et al., 2019)."
        ),
    ),
    Column(
        key="recall",
        heading="recall",
        narrow="re-\ncall",
        digits=3,
        better="higher",
        meaning=(
            "Share of the real images that lie among the images: is the whole domain made? "
            "Fewer images reach fewer, so compare only rows of equal size "
            "(Kynkäänniemi et al., 2019)."
        ),
    ),
    Column(
        key="density",
        heading="density",
        digits=3,
        better="higher",
        meaning=(
            "How many real neighbourhoods an image lies in, 1 being usual for real images; like "
            "precision, but robust to outliers (Naeem et al., 2020)."
        ),
    ),
    Column(
        key="coverage",
        heading="coverage",
        digits=3,
        better="higher",
        meaning=(
            "Share of the real neighbourhoods that hold an image; like recall, but robust to "
            "outliers, and likewise for rows of equal size (Naeem et al., 2020)."
        ),
    ),
    Column(
        key="authenticity",
        heading="authenticity",
        narrow="authen-\nticity",
        digits=3,
        better="higher",
        meaning=(
            "Share of the images farther from their nearest few-shot image than that is from its "
            "own nearest; 0 for copies, about 0.5 for new images of the same domain, more for "
            "images of another one (Alaa et al., 2022)."
        ),
    ),
    Column(
        key="near_copies",
        heading="near-copies",
        narrow="near\ncopy",
        digits=3,
        better="lower",
        meaning=(
            "Share of the images nearer to a few-shot image than 99% of held-out images are "
            "(than all of them, where they are fewer than 100): copies to the eye, which "
            "authenticity may miss. New images make as many as the bounds of real ones say."
        ),
    ),
    Column(
        key="captured",
        heading="captured",
        narrow="cap-\ntured",
        digits=3,
        better="lower",
        meaning=(
            "Share of the images whose nearest neighbours are mostly images of the model's own "
            "domain: the target was lost while decoding (mode interference, Zhu et al., 2023)."
        ),
    ),
    Column(
        key="blend_pair",
        heading="blend of 2",
        narrow="blend\nof 2",
        digits=3,
        better="lower",
        judged=False,
        meaning=(
            "Mean share of an image's variance (R²) explained by a mixture of its best two "
            "few-shot images; to be read beside that of real images, which no mixture made."
        ),
    ),
    Column(
        key="blend_five",
        heading="blend of 5",
        digits=3,
        better="lower",
        judged=False,
        meaning="The same for a mixture of five.",
    ),
    Column(
        key="diversity",
        heading="diversity",
        better="higher",
        fixed=True,
        meaning=(
            "Mean distance, in feature space, of images that have the same nearest few-shot "
            "image, over the images that have at least two such images; 0 where all are copies "
            "(after Intra-LPIPS of Ojha et al., 2021)."
        ),
    ),
    Column(
        key="diversity_clusters",
        heading="clusters",
        better="higher",
        digits=0,
        interval=False,
        meaning="Number of these few-shot images: over how many the images spread.",
    ),
    Column(
        key="intra_lpips",
        heading="Intra-LPIPS",
        digits=3,
        better="higher",
        judged=False,
        meaning=(
            "The same with LPIPS as the distance, of images resized to 64x64 (Ojha et al., 2021; "
            "published figures are of 256x256)."
        ),
    ),
    Column(
        key="intra_lpips_clusters",
        heading="clusters, LPIPS",
        better="higher",
        digits=0,
        interval=False,
        judged=False,
        meaning="Likewise, their number.",
    ),
)

BY_KEY = {column.key: column for column in COLUMNS}

_OPTIONAL = ("kid_above", "intra_lpips", "intra_lpips_clusters")
"""Metrics that not every table has: of a comparison, or not on by default."""

_SECOND = ("kid", "precision", "recall", "authenticity", "near_copies")
"""Metrics by further judges that tables for people show."""

_NARROW = ("kid", "authenticity")
"""Likewise, in the table of a sweep in a terminal."""


def columns_of(rows: Sequence[Row], *, all_metrics: bool = False) -> list[Column]:
    """The columns of a table: those of the headline judge, then those of further judges.

    Args:
        rows: of the table.
        all_metrics: whether further judges show all that they judge, metrics of the user's own
            among it.
    """
    judged = [c for c in COLUMNS if c.judged and (all_metrics or c.key in _SECOND)]
    own = [c for c in COLUMNS if c.key not in _OPTIONAL or any(c.key in row for row in rows)]
    unknown = _unknown(rows)
    seconds = []
    for judge in second_judges(rows):
        seconds += [column.of(judge) for column in judged]
        added = [column.of(judge) for column in unknown if all_metrics]
        seconds += [column for column in added if any(column.key in row for row in rows)]
    return [*own, *unknown, *seconds]


def narrow_columns(rows: Sequence[Row]) -> list[Column]:
    """The columns of the table of a sweep in a terminal; by further judges how near and new."""
    return [
        column
        for column in columns_of(rows)
        if column.narrow and (column in COLUMNS or plain(column.key) in _NARROW)
    ]


def _unknown(rows: Sequence[Row]) -> list[Column]:
    """Columns of metrics that a user has added."""
    known = {key for column in COLUMNS for key in column.keys}
    keys = dict.fromkeys(
        key for row in rows for key, value in row.items() if isinstance(value, float)
    )
    found = []
    for key in keys:
        base = key.removesuffix("_low").removesuffix("_high")
        if plain(key) == key and key not in known and (base == key or base not in keys):
            meaning = "Of a metric that is not one of this package's."
            heading = key.replace("_", " ")
            found.append(Column(key, heading, meaning=meaning, fixed=True, judged=False))
    return found


def figure(key: str, row: Row) -> str:
    """Write one metric of a row as the tables do."""
    return BY_KEY[key].text(row)


def figure_with_interval(key: str, row: Row) -> str:
    """Write one metric of a row, and its interval if it has one."""
    return BY_KEY[key].text_with_bounds(row)
