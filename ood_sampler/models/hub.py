"""Push a base model, or the samples of a run, to the Hugging Face hub.

A model goes there in diffusers' layout, samples as a data set of images with metadata. Paths of
this machine, names of few-shot images and settings with either stay here.
"""

import csv
import io
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ood_sampler.faults import CommandError
from ood_sampler.models.cards import comment, shipped, shipped_card, trained_card
from ood_sampler.models.layout import INDEX, parts_of
from ood_sampler.models.weights import ASSETS, offline

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")

_FIGURES = ("fid", "kid", "precision", "recall", "authenticity", "near_copies", "captured")
"""Metrics that the card of a data set shows."""

_README = "README.md"


@dataclass(frozen=True)
class Upload:
    """Files for a repository.

    Attributes:
        kind: of the repository.
        files: by their paths in it, each a file on disk or its content.
    """

    kind: Literal["model", "dataset"]
    files: Mapping[str, Path | bytes]


def upload_of(source: str, *, licence: str | None) -> Upload:
    """The files of what a user names.

    Args:
        source: a base that ships with the package by its name, a pipeline folder, or the folder
            of a run.
        licence: in the hub's words, `mit` for example; None leaves it open.

    Raises:
        CommandError: it is none of these.
        ValueError: the pipeline is not whole.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir() and parts_of(ASSETS / source):
        folder = ASSETS / source
    if (folder / "metrics.json").is_file() and (folder / "samples").is_dir():
        return _samples(folder, licence)
    if (folder / "pipeline").is_dir():
        folder = folder / "pipeline"
    if parts_of(folder):
        return _model(folder, licence)
    raise CommandError(
        f"{source} is nothing to push: name a base that ships with the package, the pipeline "
        "folder of one of yours (outputs/train/NAME/pipeline), or the folder of a run "
        "(outputs/runs/...)"
    )


def _model(folder: Path, licence: str | None) -> Upload:
    files: dict[str, Path | bytes] = {part: folder / part for part in parts_of(folder) or ()}
    if (folder / INDEX).is_file():
        files[INDEX] = folder / INDEX
    name = folder.name
    if folder.parent == ASSETS and name in shipped():
        licence = licence or comment(name)[1].rstrip(".").lower()
        card = shipped_card(name)
        files |= {image.name: image for image in folder.glob("*.png")}
    else:
        name = folder.parent.name if name == "pipeline" else name
        card = trained_card(name, folder)
    header = {
        "library_name": "diffusers",
        "pipeline_tag": "unconditional-image-generation",
        "license": licence,
    }
    files[_README] = _readme(header, card)
    return Upload("model", files)


def _samples(folder: Path, licence: str | None) -> Upload:
    found = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    with (folder / "samples" / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    files: dict[str, Path | bytes] = {
        f"train/{row['file']}": folder / "samples" / row["file"] for row in rows
    }
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    # near-copies, where they were measured
    keys = [key for key in ("seed", "index", "near_copy") if all(key in row for row in rows)]
    writer.writerow(["file_name", *keys])
    writer.writerows([[row["file"], *(row[key] for key in keys)] for row in rows])
    files["train/metadata.csv"] = text.getvalue().encode()
    header = {"pretty_name": f"{found['run']['data']} from {found['run']['model']}"}
    files[_README] = _readme({**header, "license": licence}, _samples_card(found, len(rows)))
    return Upload("dataset", files)


def _samples_card(found: Mapping[str, Any], count: int) -> str:
    run, protocol = found["run"], found["protocol"]
    sets = found["rows"][:2]
    named = ("model", "data", "sampler", "solver", "steps", "step", "eta", "seed", "correction")
    lines = [
        f"# {run['data']} from {run['model']}",
        "",
        f"{count} synthetic images of the domain {run['data']}, made with `ood_sampler` by "
        + (
            f"{run['model']}, fitted {run['fitted']}."
            if "fitted" in run
            else f"the frozen model {run['model']}, which never saw that domain. No weight was "
            "changed."
        ),
        "`near_copy` in the metadata, where it was measured, marks images nearer to a few-shot "
        "image than real held-out images are.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {key} | {run[key]} |" for key in named if key in run),
        *(f"| {key} | {protocol[key]} |" for key in ("judges", "model sha256") if key in protocol),
        "",
        "| " + " | ".join(["", *(str(row["name"]) for row in sets)]) + " |",
        "|---" * (1 + len(sets)) + "|",
        *(f"| {key} | " + " | ".join(_figure(row, key) for row in sets) + " |" for key in _FIGURES),
        "",
        "In brackets 95% intervals; how each metric is computed: docs/metrics.md of `ood_sampler`.",
    ]
    return "\n".join(lines) + "\n"


def _figure(row: Mapping[str, Any], key: str) -> str:
    value, low, high = (row.get(f"{key}{end}") for end in ("", "_low", "_high"))
    if value is None:
        return "–"
    return f"{value:.3g}" if low is None or high is None else f"{value:.3g} [{low:.3g}, {high:.3g}]"


def _readme(header: Mapping[str, str | None], text: str) -> bytes:
    """A card with the front matter that the hub reads."""
    told = [f"{key}: {value}" for key, value in header.items() if value]
    return "\n".join(["---", *told, "tags:", "- ood_sampler", "---", "", text]).encode()


def push(upload: Upload, repository: str, *, private: bool) -> str:
    """Create a repository if it is not there, and add the files in one commit.

    `HF_TOKEN` or a login of the hub's own program gives the token, `HF_ENDPOINT` another hub.

    Returns:
        The address of the repository.

    Raises:
        CommandError: the name is not of the form OWNER/NAME, or there is no token.
        OSError: the hub refuses or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError

    if not _REPOSITORY.fullmatch(repository):
        raise CommandError(f"{repository} must be OWNER/NAME, as the hub names repositories")
    if offline():
        raise CommandError("HF_HUB_OFFLINE is set: unset it to push")
    token = get_token()
    if token is None:
        raise CommandError(
            "there is no token of the Hugging Face hub: set HF_TOKEN to one with the right to "
            "write, or log in with: hf auth login"
        )
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
    # base of the errors of whichever HTTP library the hub's client uses
    errors: tuple[type[Exception], ...] = (*HfHubHTTPError.__bases__, OSError, ValueError)
    try:
        made = api.create_repo(
            repository, repo_type=upload.kind, private=private or None, exist_ok=True
        )
        api.create_commit(
            repository,
            [CommitOperationAdd(path, content) for path, content in sorted(upload.files.items())],
            repo_type=upload.kind,
            commit_message="Upload from ood_sampler",
        )
    except errors as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OSError(f"{repository} was not pushed: {reason}") from error
    return str(made)
