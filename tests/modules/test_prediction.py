import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor
from torch.multiprocessing.spawn import ProcessExitedException
from torch.utils.data import DataLoader, Dataset

from ood_sampler.diffusion.denoiser import GaussianDenoiser
from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.modules.prediction import Batch, Prefetched, ShardLoader, Stage, compute
from ood_sampler.modules.timing import seconds_per_evaluation
from ood_sampler.modules.trainer import lightning_trainer, machine, make_trainer
from ood_sampler.store.artifacts import Artifact, Items
from ood_sampler.store.sets import InMemory
from tests.diffusion.toys import toy_codec


class Doubled(Stage):
    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        return {"doubled": 2 * batch[1]}


@pytest.fixture
def precision() -> Iterator[None]:
    """Give the process its float32 back."""
    yield
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    torch.backends.cudnn.conv.fp32_precision = "ieee"


@pytest.mark.parametrize(("batch_size", "world_size"), [(1, 1), (5, 1), (8, 2), (100, 3)])
def test_batches_cover_the_missing_shards_and_cross_none(
    tmp_path: Path, batch_size: int, world_size: int
) -> None:
    # 4 items a shard
    artifact = Artifact(tmp_path, "stage", {}, 18, (3, 800, 800))
    assert artifact.shard == 4
    items: Dataset[Tensor] = Items(InMemory(torch.zeros(18, 1)))
    loader = ShardLoader(items, artifact, [0, 2, 4], batch_size=batch_size)
    batches = [b for rank in range(world_size) for b in loader.batches(rank, world_size)]
    assert sorted(i for batch in batches for i in batch) == [0, 1, 2, 3, 8, 9, 10, 11, 16, 17]
    assert all(len({i // 4 for i in batch}) == 1 and len(batch) <= batch_size for batch in batches)


def test_items_of_any_size_are_stored_in_order(trainer: Callable[..., Any], tmp_path: Path) -> None:
    everything = torch.arange(11.0).reshape(11, 1, 1, 1).expand(11, 1, 1600, 1600)
    artifact = Artifact(tmp_path, "stage", {}, 11, everything.shape[1:])
    assert artifact.shard == 2
    compute(
        Doubled(),
        Items(InMemory(everything)),
        {"doubled": artifact},
        trainer=trainer,
        batch_size=3,
    )
    assert artifact.missing() == []
    assert torch.equal(artifact.open().take(range(11))[:, 0, 0, 0], 2 * torch.arange(11.0))


class Counting(Dataset[Tensor]):
    """Zeros; tells when an item has been read."""

    def __init__(self, count: int) -> None:
        self.read = [threading.Event() for _ in range(count)]

    def __getitem__(self, index: int) -> Tensor:
        self.read[index].set()
        return torch.full((1,), float(index))


def test_the_next_batch_is_read_before_this_one_is_asked_back() -> None:
    items = Counting(6)
    batches = iter(Prefetched(items, [[0, 1], [2, 3], [4, 5]]))
    numbers, first = next(batches)
    assert numbers == [0, 1]
    assert first.tolist() == [[0.0], [1.0]]
    assert items.read[3].wait(timeout=20)
    # and no more than that
    assert not items.read[4].is_set()
    assert [numbers for numbers, _ in batches] == [[2, 3], [4, 5]]


def test_an_item_that_cannot_be_read_ends_the_stage_at_its_batch(
    trainer: Callable[..., Any], tmp_path: Path
) -> None:
    class Broken(Counting):
        def __getitem__(self, index: int) -> Tensor:
            if index == 5:
                raise OSError("image 5 is gone")
            return super().__getitem__(index).expand(3, 1600, 1600)

    artifact = Artifact(tmp_path, "stage", {}, 6, (3, 1600, 1600))
    assert artifact.shard == 1
    with pytest.raises(OSError, match="image 5 is gone"):
        compute(Doubled(), Broken(6), {"doubled": artifact}, trainer=trainer, batch_size=1)
    assert artifact.missing() == [5]


class Slow(Artifact):
    """Waits with its first shard until the item after it has been read and computed."""

    computed: threading.Event

    def write(self, shard: int, items: Tensor) -> None:
        assert shard or self.computed.wait(timeout=20)
        super().write(shard, items)


def test_a_shard_is_written_while_the_next_one_is_computed(
    trainer: Callable[..., Any], tmp_path: Path
) -> None:
    artifact = Slow(tmp_path, "stage", {}, 3, (1, 4096, 4096))
    artifact.computed = threading.Event()
    assert artifact.shard == 1

    class Telling(Doubled):
        def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
            if batch[0] == [1]:
                artifact.computed.set()
            return super().predict_step(batch, batch_idx)

    items: Dataset[Tensor] = Items(
        InMemory(torch.arange(3.0)[:, None, None, None].expand(3, 1, 4096, 4096))
    )
    compute(Telling(), items, {"doubled": artifact}, trainer=trainer, batch_size=1)
    assert artifact.missing() == []
    assert [float(artifact.open().take([i])[0, 0, 0, 0]) for i in range(3)] == [0.0, 2.0, 4.0]


def test_a_shard_that_cannot_be_written_ends_the_stage_and_the_others_stay(
    trainer: Callable[..., Any], tmp_path: Path
) -> None:
    class Full(Artifact):
        def write(self, shard: int, items: Tensor) -> None:
            if shard == 1:
                raise OSError("no space left")
            super().write(shard, items)

    artifact = Full(tmp_path, "stage", {}, 4, (1, 4096, 4096))
    items: Dataset[Tensor] = Items(InMemory(torch.zeros(1, 1, 1, 1).expand(4, 1, 4096, 4096)))
    with pytest.raises(OSError, match="no space left"):
        compute(Doubled(), items, {"doubled": artifact}, trainer=trainer, batch_size=1)
    assert 0 not in artifact.missing()
    assert 1 in artifact.missing()


@pytest.mark.parametrize("done", [True, False])
def test_a_process_that_fails_as_it_leaves_matters_only_if_work_is_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, done: bool
) -> None:
    artifact = Artifact(tmp_path, "stage", {}, 3, (1,))

    class Failing(lightning.Trainer):
        def predict(self, *args: object, **options: object) -> None:
            if done:
                artifact.write(0, torch.zeros(3, 1))
            raise ProcessExitedException("process 1 died", 1, 1, -6)

    def run() -> None:
        trainer = partial(Failing, accelerator="cpu", devices=1)
        items: Dataset[Tensor] = Items(InMemory(torch.zeros(3, 1)))
        compute(Doubled(), items, {"doubled": artifact}, trainer=trainer, batch_size=3)

    if done:
        run()
        assert "a process failed once all was done: process 1 died" in caplog.text
    else:
        with pytest.raises(ValueError, match="a process failed: process 1 died"):
            run()


@pytest.mark.usefixtures("precision")
@pytest.mark.parametrize(("tf32", "expected"), [(True, "tf32"), (False, "ieee")])
def test_tf32_is_what_the_setting_says_once_a_stage_runs(
    trainer: Callable[..., Any], tf32: bool, expected: str
) -> None:
    made = make_trainer(partial(lightning_trainer, tf32=tf32, accelerator="cpu", devices=1), [])
    one_batch = DataLoader([([0], torch.zeros(1, 1))], batch_size=None)  # type: ignore[arg-type]
    made.predict(Doubled(), one_batch, return_predictions=False)
    assert torch.backends.cuda.matmul.fp32_precision == expected
    assert torch.backends.cudnn.conv.fp32_precision == expected


def test_a_job_of_a_cluster_starts_its_own_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    job = {"JOB_ID": "1", "JOB_NAME": "sweep", "NTASKS": "1", "PROCID": "0", "LOCALID": "0"}
    for name, value in {**job, "NODEID": "0", "NODELIST": "node1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    spawn = partial(
        lightning_trainer, accelerator="cpu", devices=2, strategy="ddp_spawn", tf32=False
    )
    made = make_trainer(spawn, [])
    environment: Any = made.strategy.cluster_environment  # type: ignore[attr-defined]
    environment.set_world_size(2)
    environment.set_global_rank(1)
    assert (environment.world_size(), environment.global_rank()) == (2, 1)
    assert made.num_devices == 2


def test_a_machine_is_its_device_and_precision() -> None:
    cpu = partial(lightning_trainer, accelerator="cpu", devices=1)
    assert machine(make_trainer(partial(cpu, tf32=False), [])) == "cpu 32-true"
    # tf32 is the GPU's: stored results of a CPU stay what they are
    assert machine(make_trainer(partial(cpu, tf32=True), [])) == "cpu 32-true"
    mixed = partial(cpu, tf32=False, precision="bf16-mixed")
    assert machine(make_trainer(mixed, [])) == "cpu bf16-mixed"


def test_an_evaluation_is_timed_in_batches_after_a_warm_up(
    trainer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    # a clock that only the network moves: 100 s at its first call, then 3 and 5 for four images
    now = iter([0.0, 100.0, 100.0, 103.0, 103.0, 108.0])
    monkeypatch.setattr("ood_sampler.modules.timing.time.perf_counter", lambda: next(now))

    class Counted(GaussianDenoiser):
        def eps(self, x_t: Tensor, t: Tensor) -> Tensor:
            calls.append(len(x_t))
            return super().eps(x_t, t)

    denoiser = Counted(torch.zeros(1, 2, 2), 1.0, Schedule.linear(10))
    timed: Callable[..., lightning.Trainer] = trainer
    codec = toy_codec(denoiser)
    assert seconds_per_evaluation(codec, 9, 4, trainer=timed) == pytest.approx(1.0)
    assert calls == [4, 4, 4]
