"""Damaged files for every reader of checkpoints, archives, arrays, images and stored results.

    python -m tests.faults.fuzz --seconds 600 --seed 0

Case i of a seed damages one file in one way that (seed, i) alone fixes, and reads it in a process
of its own. A finding is an error that the reader does not document, one that does not name the
file, a crash, more than 10 seconds, or more than 2 GB of memory. `--case i` repeats one alone.
"""

import argparse
import faulthandler
import io
import json
import multiprocessing
import os
import re
import resource
import shutil
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from ood_sampler.data.arrays import ArraySource
from ood_sampler.data.field_domain import inspect_field
from ood_sampler.data.hub import HubImages
from ood_sampler.data.images import fit_square, read_rgb
from ood_sampler.data.layout import Layout
from ood_sampler.data.sources import open_source
from ood_sampler.data.split import inspect
from ood_sampler.models.checkpoint import load_checkpoint, read_schedule
from ood_sampler.store.artifacts import Artifact
from ood_sampler.store.files import load_json, load_state, save_json, save_state

SECONDS = 10
"""A case may take."""

MEMORY = 2 * 2**30
"""Bytes that a case may take."""

DOCUMENTED = (ValueError, FileNotFoundError)

_LIMIT = 3 * MEMORY
"""Of all private memory: a reader that asks for everything must not take the machine down."""

_NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63)
_TEXTS = (b"0", b"-1", b"3", b"65536", b"2147483648", b"9223372036854775807", b"1e999", b"NaN")

_TOO_MUCH = re.compile(r"allocate memory|DefaultCPUAllocator|unable to allocate", re.IGNORECASE)
"""In a message: memory was asked for that there is not."""

Read = Callable[[Path], object]


@dataclass(frozen=True)
class Target:
    """Good files and what reads them.

    Attributes:
        files: relative name -> content.
        read: reads them below a folder.
        names: part of the message of every error; the name of a damaged file if empty.
        weight: how often it is chosen; less for slow ones.
    """

    files: Mapping[str, bytes]
    read: Read
    names: str = ""
    weight: float = 1.0


@dataclass(frozen=True)
class Finding:
    """What a reader must not do with a damaged file."""

    target: str
    problem: str
    place: str
    seed: int
    case: int
    detail: str = ""


@dataclass
class Outcome:
    """What came of all cases; `read` and `refused` count by target."""

    cases: int = 0
    read: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    def text(self) -> str:
        """One line a target, one a kind of finding."""
        names = sorted({*self.read, *self.refused})
        lines = [f"{n}: {self.read[n]} read, {self.refused[n]} refused" for n in names]
        kinds: dict[tuple[str, str, str], list[Finding]] = {}
        for finding in self.findings:
            kinds.setdefault((finding.target, finding.problem, finding.place), []).append(finding)
        for (target, problem, place), found in kinds.items():
            first = found[0]
            lines.append(
                f"FINDING {target}: {problem} at {place} ({len(found)} times, "
                f"--seed {first.seed} --case {first.case}) {first.detail[:300]}"
            )
        return "\n".join([*lines, f"{self.cases} cases, {len(kinds)} kinds of findings"])


# ------------------------------------------------------------------------------ damage


def mutate(data: bytes, generator: np.random.Generator) -> bytes:
    """Damage bytes in one to four places; half of them lie near the start or the end."""
    changed = bytearray(data)
    for _ in range(int(generator.integers(1, 5))):
        if not changed:
            break
        _MUTATIONS[int(generator.integers(len(_MUTATIONS)))](changed, generator)
    return bytes(changed)


def _place(data: bytearray, generator: np.random.Generator) -> int:
    span = len(data)
    kind = generator.integers(4)
    if kind == 0:
        return int(generator.integers(min(span, 512)))
    if kind == 1:
        return span - 1 - int(generator.integers(min(span, 512)))
    return int(generator.integers(span))


def _flip(data: bytearray, generator: np.random.Generator) -> None:
    data[_place(data, generator)] ^= 1 << int(generator.integers(8))


def _byte(data: bytearray, generator: np.random.Generator) -> None:
    data[_place(data, generator)] = int(generator.integers(256))


def _number(data: bytearray, generator: np.random.Generator) -> None:
    place, width = _place(data, generator), int(generator.choice([2, 4, 8]))
    value = _NUMBERS[int(generator.integers(len(_NUMBERS)))] % 2 ** (8 * width)
    order = "little" if generator.integers(2) else "big"
    data[place : place + width] = value.to_bytes(width, order)  # type: ignore[arg-type]


def _digits(data: bytearray, generator: np.random.Generator) -> None:
    """Another number in a text, such as a header."""
    start = _place(data, generator)
    found = re.search(rb"\d+", data[start : start + 4096])
    if found:
        text = _TEXTS[int(generator.integers(len(_TEXTS)))]
        data[start + found.start() : start + found.end()] = text


def _cut(data: bytearray, generator: np.random.Generator) -> None:
    place = _place(data, generator)
    del data[place : place + int(generator.choice([1, 8, 512, len(data)]))]


def _repeat(data: bytearray, generator: np.random.Generator) -> None:
    place, width = _place(data, generator), int(generator.choice([1, 8, 64, 512]))
    data[place:place] = data[place : place + width]


def _move(data: bytearray, generator: np.random.Generator) -> None:
    """Bytes of one place at another."""
    source, place = _place(data, generator), _place(data, generator)
    width = int(generator.choice([4, 8, 32, 512]))
    part = data[source : source + width]
    data[place : place + len(part)] = part


_MUTATIONS = (_flip, _byte, _number, _digits, _cut, _repeat, _move)


def mutate_zip(data: bytes, generator: np.random.Generator) -> bytes:
    """Damage one member, and pack it with the right checksum; or the archive itself."""
    if generator.integers(3) == 0:
        return mutate(data, generator)
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(packed, "w") as new:
        members = old.infolist()
        # the first one of torch's archives is the pickle, and as likely as all the rest
        chosen = 0 if generator.integers(2) else int(generator.integers(len(members)))
        for position, member in enumerate(members):
            content = old.read(member)
            content = mutate(content, generator) if position == chosen else content
            new.writestr(zipfile.ZipInfo(member.filename), content, member.compress_type)
    return packed.getvalue()


def mutate_safetensors(data: bytes, generator: np.random.Generator) -> bytes:
    """Damage the header, and give its right length; or the file itself."""
    if generator.integers(3) == 0:
        return mutate(data, generator)
    (length,) = struct.unpack("<Q", data[:8])
    header = mutate(data[8 : 8 + length], generator)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def mutate_png(data: bytes, generator: np.random.Generator) -> bytes:
    """Damage a chunk, and give its right checksum; or the file itself."""
    if generator.integers(3) == 0:
        return mutate(data, generator)
    chunks, place = [], 8
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    chosen = int(generator.integers(len(chunks)))
    kind, body = chunks[chosen]
    chunks[chosen] = (kind, mutate(body, generator))
    packed = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    return data[:8] + packed


def damaged(data: bytes, generator: np.random.Generator) -> bytes:
    """Damage a file of any of the formats, knowing its structure."""
    if data.startswith(b"PK"):
        return mutate_zip(data, generator)
    if data.startswith(b"\x89PNG"):
        return mutate_png(data, generator)
    if data[8:9] == b"{":
        return mutate_safetensors(data, generator)
    return mutate(data, generator)


# ------------------------------------------------------------------------------ readers


def _load(path: Path, **options: Any) -> None:  # noqa: ANN401
    for read in (load_checkpoint, read_schedule):
        read(path, options.get("architecture"))


def _pictures(path: Path) -> None:
    source = open_source(path)
    for index in range(len(source)):
        with suppress(ValueError):
            inspect(source, index, resolution=16)


def _picture(path: Path) -> None:
    square = fit_square(read_rgb(path.read_bytes(), name=str(path)), 16)
    if square.shape != (3, 16, 16) or square.dtype != torch.uint8:
        raise TypeError(f"an image became {square.dtype} of shape {tuple(square.shape)}")


def _fields(path: Path) -> None:
    source = ArraySource(path, Layout())
    for index in range(min(len(source), 3)):
        inspect_field(source, index, resolution=16)


def _rows(path: Path) -> None:
    source = HubImages(str(path), config=None, revision=None, split="train", column=None)
    for index in range(len(source)):
        with suppress(ValueError):
            inspect(source, index, resolution=16)


_FIGURES = {"figures": {"fid": 12.345678901234567, "kid": None}, "blend_pair": [0.25, 1e-9, 3]}
_FITTED = {"mean": torch.linspace(0, 1, 12).reshape(3, 2, 2), "scale": torch.tensor(2.5)}
_ITEMS = torch.arange(5 * 6, dtype=torch.float32).reshape(5, 2, 3)


def _artifact(folder: Path) -> Artifact:
    return Artifact(folder, "stage", {"key": 1}, len(_ITEMS), _ITEMS.shape[1:])


def _stored(folder: Path) -> None:
    artifact = _artifact(folder)
    if artifact.missing():
        raise ValueError("missing")
    if not torch.equal(artifact.open().take(range(5)), _ITEMS):
        raise TypeError("a damaged shard was taken for a good one")


def _state(folder: Path) -> None:
    state = load_state(folder / "state.safetensors")
    if state is None:
        raise ValueError("none")
    if not all(torch.equal(state[name], _FITTED[name]) for name in _FITTED):
        raise TypeError("a damaged state was taken for a good one")


def _figures(folder: Path) -> None:
    figures = load_json(folder / "figures.json")
    if figures is None:
        raise ValueError("none")
    if figures != _FIGURES:
        raise TypeError("damaged figures were taken for good ones")


# ------------------------------------------------------------------------------ good files


def make_targets(folder: Path) -> dict[str, Target]:
    """Write good files of all formats below a folder, and say what reads them."""
    targets = {
        **_checkpoints(folder / "models"),
        **_archives(folder / "archives"),
        **_single_pictures(),
        **_arrays(folder / "arrays"),
        **_hub(folder / "hub"),
    }
    artifact = _artifact(folder / "artifact")
    artifact.write(0, _ITEMS)
    targets["artifact"] = Target(_content(folder / "artifact"), _stored, names="missing")
    save_state(folder / "fitted" / "state.safetensors", _FITTED)
    targets["fitted state"] = Target(_content(folder / "fitted"), _state, names="none")
    save_json(folder / "measured" / "figures.json", _FIGURES)
    targets["figures"] = Target(_content(folder / "measured"), _figures, names="none")
    return targets


def _content(folder: Path) -> dict[str, bytes]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def _one(name: str, data: bytes, read: Read, **options: Any) -> Target:  # noqa: ANN401
    return Target({name: data}, lambda folder: read(folder / name), **options)


def _checkpoints(folder: Path) -> dict[str, Target]:
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    from tests.models.originals import OriginalGuidedDiffusion, OriginalPesser, randomized

    folder.mkdir()
    pesser = randomized(OriginalPesser(mult=(1,), attention=())).state_dict()
    guided = randomized(OriginalGuidedDiffusion(mult=(1, 1), attention=())).state_dict()
    heads = {"model": {"num_head_channels": 16}}
    torch.save(pesser, folder / "pesser.pt")
    torch.save({"ema": pesser, "betas": torch.full((1000,), 0.01)}, folder / "wrapped.ckpt")
    torch.save(pesser, folder / "old.pt", _use_new_zipfile_serialization=False)
    save_file(pesser, folder / "pesser.safetensors")
    torch.save(guided, folder / "guided.pt")
    targets = {
        name: _one(name, data, partial(_load, architecture=heads if "guided" in name else None))
        for name, data in _content(folder).items()
    }
    unet = UNet2DModel(
        sample_size=16,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    pipeline = DDPMPipeline(unet=unet, scheduler=DDPMScheduler())
    pipeline.save_pretrained(folder / "pipeline")
    targets["pipeline"] = Target(_content(folder / "pipeline"), _load, names=" ")
    return targets


def _archives(folder: Path) -> dict[str, Target]:
    import lmdb

    folder.mkdir()
    pictures = {f"{i}.{kind.lower()}": _encoded(i, kind) for i, kind in enumerate(_KINDS)}
    targets = {}
    for name, method in (("stored.zip", zipfile.ZIP_STORED), ("packed.zip", zipfile.ZIP_DEFLATED)):
        with zipfile.ZipFile(folder / name, "w", method) as archive:
            for member, data in pictures.items():
                archive.writestr(zipfile.ZipInfo(f"inner/{member}"), data, method)
        targets[name] = _one(name, (folder / name).read_bytes(), _pictures)
    # small values lie beside their keys, large ones on pages of their own
    for name, count, side in (("small", 300, 4), ("large", 40, 48)):
        (folder / name).mkdir()
        with (
            lmdb.open(str(folder / name), map_size=2**24) as environment,
            environment.begin(write=True) as transaction,
        ):
            for seed in range(count):
                transaction.put(f"{seed:040x}".encode(), _encoded(seed, "PNG", side))
        data = (folder / name / "data.mdb").read_bytes()
        targets[f"lmdb {name}"] = Target(
            {"database/data.mdb": data}, lambda folder: _pictures(folder / "database"), "database"
        )
    return targets


_KINDS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")


def _encoded(seed: int, kind: str, side: int = 16, mode: str = "RGB") -> bytes:
    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def _single_pictures() -> dict[str, Target]:
    modes = {"PNG": "P", "JPEG": "CMYK", "WEBP": "RGBA", "TIFF": "I;16", "BMP": "L"}
    targets = {}
    for kind in _KINDS:
        files = {f"a.{kind}": _encoded(1, kind)}
        with suppress(ValueError, OSError):
            files[f"b.{kind}"] = _encoded(2, kind, mode=modes[kind])
        for name, data in files.items():
            targets[name] = _one(name, data, _picture, weight=0.5)
    return targets


def _arrays(folder: Path) -> dict[str, Target]:
    import h5py
    from astropy.io import fits

    folder.mkdir()
    values = np.random.default_rng(0).uniform(0, 1, (3, 6, 6))
    np.save(folder / "a.npy", values)
    np.savez(folder / "b.npz", flux=values)
    np.savez_compressed(folder / "c.npz", flux=values, labels=np.arange(3))
    fits.PrimaryHDU(values).writeto(folder / "d.fits")
    image = fits.CompImageHDU(values, compression_type="RICE_1")
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(folder / "e.fits")
    image = fits.CompImageHDU(values, compression_type="GZIP_1", quantize_level=0)
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(folder / "f.fits")
    with h5py.File(folder / "g.h5", "w") as file:
        file["flux"] = values
    with h5py.File(folder / "h.h5", "w") as file:
        file["labels"] = np.arange(3)
        file.create_dataset("maps/flux", data=values, chunks=True, compression="gzip")
    return {name: _one(name, data, _fields) for name, data in _content(folder).items()}


def _hub(folder: Path) -> dict[str, Target]:
    import datasets

    datasets.disable_progress_bars()
    datasets.config.HF_HUB_OFFLINE = True
    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    rows = datasets.Dataset.from_dict(
        {"image": [{"bytes": _encoded(seed, "PNG"), "path": None} for seed in range(4)]}
    ).cast_column("image", datasets.Image())
    rows.save_to_disk(folder / "saved")
    (folder / "parquet").mkdir()
    rows.to_parquet(folder / "parquet" / "train-00000-of-00001.parquet")
    return {
        name: Target(_content(folder / name), _rows, names=" ", weight=weight)
        for name, weight in (("saved", 0.5), ("parquet", 0.1))
    }


# ------------------------------------------------------------------------------ running


def choose(
    targets: Mapping[str, Target], seed: int, case: int
) -> tuple[str, str, bytes, np.random.Generator]:
    """The target of a case, the file to damage, and its damaged content."""
    generator = np.random.default_rng([seed, case])
    weights = np.array([target.weight for target in targets.values()])
    name = list(targets)[int(generator.choice(len(targets), p=weights / weights.sum()))]
    files = targets[name].files
    file = list(files)[int(generator.integers(len(files)))]
    return name, file, damaged(files[file], generator), generator


def run_case(targets: Mapping[str, Target], seed: int, case: int, folder: Path) -> str | Finding:
    """Read one damaged file; `read`, `refused`, or what is wrong with the reader."""
    name, file, data, _ = choose(targets, seed, case)
    target = targets[name]
    place = folder / re.sub(r"\W", "_", name)
    for other, content in target.files.items():
        path = place / other
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if other == file else content)
    before, start = _peak(), time.perf_counter()
    found: str | Finding = "read"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.read(place)
    except DOCUMENTED as error:
        found = "refused"
        if _TOO_MUCH.search(str(error)) or (target.names or Path(file).name) not in str(error):
            found = _finding(name, "unclear message", error, seed, case)
    except Exception as error:
        found = _finding(name, type(error).__name__, error, seed, case)
    after = _peak()
    if after > before and after - before > MEMORY:
        return Finding(name, "memory", f"{after / 2**30:.1f} GB", seed, case)
    if time.perf_counter() - start > SECONDS:
        return Finding(name, "slow", f"{time.perf_counter() - start:.0f} s", seed, case)
    shutil.rmtree(place, ignore_errors=True)
    return found


def _finding(target: str, problem: str, error: BaseException, seed: int, case: int) -> Finding:
    frames = traceback.extract_tb(error.__traceback__)
    inner = [frame for frame in frames if "ood_sampler" in frame.filename] or list(frames)
    places = [f"{Path(frame.filename).name}:{frame.name}" for frame in (inner[-1], frames[-1])]
    text = f"{type(error).__name__}: {error}"
    return Finding(target, problem, " > ".join(dict.fromkeys(places)), seed, case, text)


def _peak() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def fuzz(
    targets: Mapping[str, Target],
    *,
    seed: int,
    first: int = 0,
    cases: int | None = None,
    seconds: float = float("inf"),
    folder: Path,
) -> Outcome:
    """Run cases, each batch of them in a child that may die."""
    context = multiprocessing.get_context("fork")
    now = context.Value("q", first)
    last = first + cases if cases is not None else sys.maxsize
    end = time.monotonic() + seconds
    outcome = Outcome()
    while now.value < last and time.monotonic() < end:
        notes, log = folder / "notes", folder / "log"
        for file in (notes, log):
            file.write_bytes(b"")
        arguments = (targets, seed, now, last, end, folder, notes, log)
        child = context.Process(target=_child, args=arguments)
        child.start()
        child.join()
        for line in notes.read_text().splitlines():
            note = json.loads(line)
            outcome.cases += 1
            if "finding" in note:
                outcome.findings.append(Finding(**note["finding"]))
            else:
                getattr(outcome, note["outcome"])[note["target"]] += 1
        if child.exitcode:
            name = choose(targets, seed, now.value)[0]
            outcome.cases += 1
            outcome.findings.append(_death(log.read_text(), name, child.exitcode, seed, now.value))
            now.value += 1
    return outcome


def _death(log: str, target: str, code: int, seed: int, case: int) -> Finding:
    frames = re.findall(r'File "(.*)", line \d+ in (\w+)', log)
    places = [f"{Path(file).name}:{name}" for file, name in frames]
    inner = [p for p, (file, _) in zip(places, frames, strict=True) if "ood_sampler" in file]
    problem = "hang" if "Timeout (" in log else f"crash, exit code {code}"
    return Finding(target, problem, " > ".join([*inner[:1], *places[:1]]), seed, case, log[-300:])


def _child(
    targets: Mapping[str, Target],
    seed: int,
    now: Any,  # noqa: ANN401 a shared number
    last: int,
    end: float,
    folder: Path,
    notes: Path,
    log: Path,
) -> None:
    _limit_memory()
    with log.open("w") as stream, notes.open("a") as lines:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        faulthandler.enable(stream)
        while now.value < last and time.monotonic() < end:
            faulthandler.dump_traceback_later(SECONDS + 2, exit=True, file=stream)
            found = run_case(targets, seed, now.value, folder)
            faulthandler.cancel_dump_traceback_later()
            if isinstance(found, Finding):
                note: dict[str, Any] = {"finding": asdict(found)}
            else:
                note = {"outcome": found, "target": choose(targets, seed, now.value)[0]}
            lines.write(json.dumps(note) + "\n")
            lines.flush()
            now.value += 1


def _limit_memory() -> None:
    status = Path("/proc/self/status")
    if status.is_file():
        found = re.search(r"VmData:\s+(\d+) kB", status.read_text())
        if found:
            limit = 1024 * int(found[1]) + _LIMIT
            resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz as told; 1 if there are findings."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="this one alone, with its error")
    parser.add_argument("--only", default="", help="targets that match this pattern")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        every = make_targets(folder)
        targets = {key: every[key] for key in every if re.search(given.only, key)}
        if given.case is not None:
            sys.stdout.write(f"{run_case(targets, given.seed, given.case, folder)}\n")
            return 0
        outcome = fuzz(targets, seed=given.seed, seconds=given.seconds, folder=folder)
    sys.stdout.write(f"seed {given.seed}\n{outcome.text()}\n")
    return int(bool(outcome.findings))


if __name__ == "__main__":
    sys.exit(main())
