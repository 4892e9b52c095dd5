import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Literal, cast

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from ood_sampler.codecs.autoencoder import Autoencoder
from ood_sampler.config import CONF
from ood_sampler.diffusion.denoiser import (
    EpsilonDenoiser,
    GaussianDenoiser,
    NetworkDenoiser,
    SampleDenoiser,
    VelocityDenoiser,
)
from ood_sampler.diffusion.schedule import Schedule
from ood_sampler.diffusion.solvers import DdimSolver
from ood_sampler.faults import CommandError
from ood_sampler.models.__main__ import answer, main, model_fields
from ood_sampler.models.frozen import FrozenModel
from ood_sampler.models.gan import save_generator
from ood_sampler.models.style_generator import StyleGenerator
from ood_sampler.models.verification import TRAINED, smooth_pictures, verify
from tests.models.stand_ins import tiny_ldm

FIXTURES = Path(__file__).parent / "fixtures"
NAMES = sorted(file.stem for file in (CONF / "model").glob("*.yaml"))


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    answer(arguments)
    return capsys.readouterr().out


def test_every_model_is_listed_with_its_size_sources_and_place(
    capsys: pytest.CaptureFixture[str], cache: Path
) -> None:
    text = said(capsys)
    rows = {line.split()[0]: line for line in text.splitlines() if not line.startswith(" ")}
    assert set(NAMES) <= set(rows)
    for name in NAMES:
        config = OmegaConf.load(CONF / "model" / f"{name}.yaml")
        for source in config.get("sources", []):
            assert str(source.get("hub") or source.get("drive") or source.get("page")) in text
    assert re.search(r"256x256 +374 MB +missing +" + str(cache), rows["iddpm_afhqdog"])
    assert re.search(r"32x32 +9 MB +present +\S+/assets/dog32$", rows["dog32"])
    assert re.search(r"32x32 +2 MB +present +\S+/assets/dog32_gan$", rows["dog32_gan"])
    assert "yours" in rows["checkpoint"]
    for name in ("analytic_gaussian", "analytic_patches"):
        assert rows[name].endswith("none     fitted to the few-shot images of a run")
    assert str(cache) in text


def test_weights_that_are_there_are_listed_with_their_own_size(
    capsys: pytest.CaptureFixture[str], cache: Path
) -> None:
    file = cache / "models" / "iddpm_ffhq" / "ffhq_10m.pt"
    file.parent.mkdir(parents=True)
    file.write_bytes(bytes(3_000_000))
    assert re.search(rf"iddpm_ffhq +256x256 +3 MB +present +{file}\n", said(capsys))


def test_listing_and_help_need_none_of_the_heavy_libraries() -> None:
    for arguments in ([], ["--help"], ["verify", "iddpm_afhq"]):
        code = (
            f"import sys; sys.argv = ['models', *{arguments!r}]\n"
            "from ood_sampler.models.__main__ import main\n"
            "try:\n    main()\nexcept SystemExit:\n    pass\n"
            "heavy = {'torch', 'lightning', 'diffusers', 'hydra'} & set(sys.modules)\n"
            "sys.exit(str(heavy) if heavy else 0)"
        )
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verfy"], "verfy is not known; did you mean verify?"),
        (["verify"], "verify needs the name of a model: analytic_gaussian, analytic_patches"),
        (["verify", "dog3"], "dog3 is not known; did you mean dog32?; there are: analytic"),
        (["verify", "dog32", "pth=x"], "pth is not known; did you mean path?"),
        (["verify", "analytic_patches"], "analytic_patches has no weights to verify: a run fits"),
        (["verify", "dog32", "path"], "path must be of the form KEY=VALUE"),
        (["verify", "checkpoint", "name=x"], "path must be set"),
        (["verify", "dog32", "channels=["], "channels=[ must be KEY=VALUE with a value in YAML"),
    ],
)
def test_a_mistaken_command_is_answered_in_one_sentence(arguments: list[str], message: str) -> None:
    with pytest.raises(CommandError) as caught:
        answer(arguments)
    assert message in str(caught.value)


def test_keys_are_set_with_and_without_their_group() -> None:
    fields = model_fields("iddpm_afhqdog", ["model.resolution=64", "path=/x"])
    assert fields["resolution"] == 64
    assert fields["path"] == "/x"
    assert fields["architecture"]["model"]["image_size"] == 64
    assert "_target_" not in fields


@pytest.mark.parametrize(
    "path", ["~/a b.pt", "/x/2024_05", "5", "/x/[1], {y}: #z.pt", "/x/${y}.pt", "/x/a=b.pt", "~"]
)
def test_a_path_is_taken_as_it_stands(path: str) -> None:
    assert model_fields("iddpm_afhqdog", [f"path={path}", "name=7"])["path"] == path
    assert model_fields("iddpm_afhqdog", ["name=7"])["name"] == "7"
    assert model_fields("iddpm_afhqdog", ["path=null"])["path"] is None


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nothing"], 2, "error: nothing is not known"),
        (["verify", "iddpm_afhqdog"], 1, "error: the weights of model iddpm_afhqdog are missing"),
        (["verify", "dog32", "resolution=16"], 1, "error: model.resolution must be 32"),
        (["verify", "dog32", "sources=[{url: x}]"], 2, "error: sources is not known"),
    ],
)
def test_a_fault_is_one_sentence_and_an_exit_code(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["models", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code
    stderr = capsys.readouterr().err
    assert stderr.startswith(message)
    assert stderr.count("\n") == 1


@pytest.mark.parametrize("trained", [True, False])
def test_wrong_weights_are_one_sentence_and_exit_code_1(
    trained: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    model_folder: Path,
) -> None:
    mine = ["diffusers", "name=mine", f"path={model_folder}", "resolution=16"]
    monkeypatch.setattr(sys, "argv", ["models", "verify", *(["dog32"] if trained else mine)])
    if trained:
        main()  # returns: exit code 0
        assert not capsys.readouterr().err
        return
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    out, err = capsys.readouterr()
    error = re.search(r"relative error of ([\d.]+)", out)
    assert error is not None
    assert err.startswith(
        f"error: the weights of model mine in {model_folder} are not what trained"
    )
    assert f"their relative error is {error[1]}, that of trained weights below {TRAINED};" in err
    assert err.count("\n") == 1


def test_an_interruption_ends_with_130(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(arguments: list[str]) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr("ood_sampler.models.__main__.answer", interrupted)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert capsys.readouterr().err.startswith("interrupted: ")


def test_the_shipped_model_verifies(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "verify", "dog32")
    for part in ("assets/dog32", "3x32x32", "4.33 M", "1000 steps", "34 evaluations"):
        assert part in text
    assert ": trained weights\n" in text
    found = re.search(r"relative error of ([\d.]+): .*RMSE ([\d.]+), PSNR ([\d.]+)", text, re.S)
    assert found is not None
    error, rmse, psnr = map(float, found.groups())
    # an untrained one has 1 or more
    assert error < 0.6 < TRAINED
    assert rmse < 0.2
    assert psnr > 20
    assert psnr == pytest.approx(20 * math.log10(2 / rmse), abs=0.06)


def test_the_shipped_generator_verifies(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "verify", "dog32_gan")
    for part in ("assets/dog32_gan", "3x32x32", "w of 128, w+ of 8x128", "301 evaluations"):
        assert part in text
    assert ": trained weights\n" in text
    found = re.search(r"PSNR ([\d.]+) dB", text)
    assert found is not None
    assert float(found[1]) > 20


def test_a_generator_with_random_weights_is_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    save_generator(StyleGenerator(channels=[8, 8, 8, 8], width=8, mapping=1), tmp_path)
    assert not answer(["verify", "dog32_gan", f"path={tmp_path}"])
    assert "are not what trained ones are" in capsys.readouterr().err


def test_a_checkpoint_verifies_and_says_where_its_checksum_is(
    capsys: pytest.CaptureFixture[str], cache: Path
) -> None:
    file = cache / "models" / "iddpm_afhqdog" / "afhqdog_p2.pt"
    file.parent.mkdir(parents=True)
    file.write_bytes((FIXTURES / "guided_diffusion" / "checkpoint.pt").read_bytes())
    small = ["num_channels=32", "channel_mult=1,1,2,2", "attention_resolutions=8"]
    text = said(
        capsys,
        "verify",
        "iddpm_afhqdog",
        "resolution=32",
        "architecture.model.num_head_channels=16",
        *[f"architecture.model.{field}" for field in small],
    )
    assert "1.53 M" in text
    # its weights are random
    assert ": NOT what trained weights that fit" in text
    assert f"recorded in {file.parent / 'sha256.json'}" in text
    assert (file.parent / "sha256.json").exists()


def test_the_figures_are_those_of_a_known_denoiser() -> None:
    # of N(0, 1) data the estimate is alpha_t x_t
    schedule = Schedule.linear()
    denoiser = GaussianDenoiser(torch.zeros(()), 1.0, schedule)
    pictures = torch.randn(40, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    found = verify(denoiser, pictures, solver=DdimSolver(steps=10, power=1))
    # the error alpha sigma eps - sigma^2 x_0 has the variance sigma^2 (alpha^2 + sigma^2)
    alpha_t, sigma_t = schedule.scales(found.noisy_step)
    assert found.error == pytest.approx(sigma_t, rel=0.02)
    assert alpha_t == pytest.approx(sigma_t, rel=0.01)
    assert found.evaluations == 10
    assert found.step == 500


@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("kind", [EpsilonDenoiser, VelocityDenoiser, SampleDenoiser])
def test_a_network_whose_output_is_zero_is_told_whatever_it_predicts(
    kind: type[NetworkDenoiser], schedule: Literal["linear", "squaredcos_cap_v2"]
) -> None:
    chain = Schedule.from_name(schedule, 1000, beta_start=1e-4, beta_end=0.02)
    denoiser = kind(lambda x_t, t: torch.zeros_like(x_t), chain)
    pictures = smooth_pictures(2, channels=3, resolution=16)
    found = verify(denoiser, pictures, solver=DdimSolver(steps=2, power=1))
    assert found.error > 1 - 1e-6
    assert not found.is_trained


@pytest.mark.parametrize("name", ["dog32", "ship32"])
@pytest.mark.parametrize("kind", [EpsilonDenoiser, VelocityDenoiser])
def test_shipped_weights_are_told_from_a_wrong_kind_of_prediction(
    name: str, kind: type[NetworkDenoiser]
) -> None:
    model = FrozenModel(**model_fields(name, []))
    pictures = smooth_pictures(2, channels=3, resolution=32)
    network = cast("NetworkDenoiser", model.denoiser).network
    denoiser = kind(network, model.schedule)
    found = verify(denoiser, pictures, solver=DdimSolver(steps=1, power=1))
    # both predict the velocity
    assert found.is_trained == (kind is VelocityDenoiser)


def test_weights_that_estimate_no_noise_are_told_by_their_estimate_alone() -> None:
    denoiser = EpsilonDenoiser(lambda x_t, t: torch.zeros_like(x_t), Schedule.linear())
    pictures = smooth_pictures(2, channels=3, resolution=16)
    found = verify(denoiser, pictures, solver=DdimSolver(steps=10, power=1))
    assert not found.is_trained
    assert found.rmse < 1e-6
    assert found.psnr > 100


def test_the_pictures_are_smooth_in_range_and_always_the_same() -> None:
    pictures = smooth_pictures(3, channels=1, resolution=64)
    assert pictures.shape == (3, 1, 64, 64)
    assert pictures.abs().max() <= 1
    assert pictures.std() > 0.3
    assert pictures.diff(dim=-1).abs().max() < 0.2
    assert torch.equal(pictures, smooth_pictures(3, channels=1, resolution=64))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "dog32", "resolution=abc"], "resolution must be a whole number, got 'abc'"),
        (["verify", "dog32_gan", "steps=0.5"], "steps must be a whole number, got 0.5"),
        (["card", "dog32_gan", "path=/my/other"], "card of dog32_gan takes no settings, got path"),
        (["card", "galaxy32", "x=1"], "the card of galaxy32 takes no settings, got x=1"),
        (["push"], "push needs the name of a model: dog32, ship32"),
    ],
)
def test_settings_that_do_not_fit_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(CommandError, match=message):
        answer(arguments)


def test_other_weights_have_no_card_of_the_shipped_ones(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert answer(["card", "dog32", f"path={tmp_path}"])
    told = capsys.readouterr().out
    assert "was not measured here" in told
    assert "FID" not in told


def test_latent_diffusion_verifies_through_its_autoencoder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tiny_ldm(tmp_path)
    text = said(capsys, "verify", "ldm_celebahq", f"path={folder}", "resolution=32")
    assert "3x32x32, latents 3x8x8" in text
    assert re.search(r"parameters +0\.\d\d M and, of the autoencoder, 0\.\d\d M\n", text)
    assert "  vqvae/diffusion_pytorch_model.safetensors" in text
    assert re.search(r"autoencoder +RMSE [\d.]+, PSNR [\d.]+ dB", text)
    # its weights are random
    assert ": NOT what trained weights that fit" in text


def test_the_error_of_the_autoencoder_alone_stands_beside_that_of_the_whole() -> None:
    class Coarse(Autoencoder):
        def encode(self, x_0: Tensor) -> Tensor:
            return x_0[..., ::2, ::2]

        def decode(self, z_0: Tensor) -> Tensor:
            return z_0.repeat_interleave(2, -1).repeat_interleave(2, -2)

    denoiser = EpsilonDenoiser(lambda x_t, t: torch.zeros_like(x_t), Schedule.linear())
    pictures = smooth_pictures(2, channels=3, resolution=16)
    solver = DdimSolver(steps=10, power=1)
    found = verify(denoiser, pictures, solver=solver, autoencoder=Coarse())
    expected = (Coarse().decode(pictures[..., ::2, ::2]) - pictures).square().mean().sqrt()
    assert found.autoencoder_rmse == pytest.approx(float(expected))
    # the denoiser estimates no noise: there and back changes nothing
    assert found.rmse == pytest.approx(float(expected), rel=1e-4)
    assert verify(denoiser, pictures, solver=solver).autoencoder_rmse is None
    # one that does is not undone by so few steps, and the whole is another error
    inexact = GaussianDenoiser(torch.zeros(()), 0.01, Schedule.linear())
    whole = verify(inexact, pictures, solver=solver, autoencoder=Coarse())
    assert whole.autoencoder_rmse == found.autoencoder_rmse
    assert abs(whole.rmse / found.rmse - 1) > 0.01
