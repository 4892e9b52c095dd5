from dataclasses import replace

from ood_sampler.diffusion.solvers import DdimSolver
from ood_sampler.pipeline.correction import GaussianCorrection
from ood_sampler.samplers.cog import CogSampler
from ood_sampler.samplers.gaussian import GaussianSampler
from ood_sampler.studies.interference import InterferenceStudy
from ood_sampler.studies.reconstruction import ReconstructionStudy
from ood_sampler.studies.synthesis import SynthesisStudy
from tests.conftest import RESOLUTION, make_judges
from tests.studies.conftest import TinyRun


def correction(count: int) -> GaussianCorrection:
    return GaussianCorrection(
        weight=1.0, fade=100, in_domain=count, in_domain_root=None, resolution=RESOLUTION
    )


def test_a_row_says_which_run_it_is_of(tiny_run: TinyRun) -> None:
    study, run = InterferenceStudy(steps=[200, 700], etas=[0.0, 1.0]), tiny_run()
    about = study.about(run)
    assert list(about) == ["model", "domain", "run"]
    assert len(about["run"]) == 12
    # neither a new process nor the size of a batch makes another run
    again = InterferenceStudy(steps=[200, 700], etas=[0.0, 1.0])
    assert again.about(tiny_run(batch_size=3)) == about
    part = replace(run.domain, few_shot=run.domain.held_out)
    others = [
        study.about(tiny_run(seed=1)),
        study.about(tiny_run(num_samples=9)),
        study.about(run.variant(sampler=CogSampler(references=3))),
        study.about(replace(run, codec=run.model.codec(DdimSolver(steps=5, power=1)))),
        study.about(replace(run, domain=part)),
        study.about(replace(run, judges=make_judges(nearest_k=1))),
        *(study.about(replace(run, correction=correction(count))) for count in (8, 16)),
        InterferenceStudy(steps=[200, 600], etas=[0.0, 1.0]).about(run),
        InterferenceStudy(steps=[200, 700], etas=[0.0, 0.5]).about(run),
    ]
    assert len({each["run"] for each in (about, *others)}) == 1 + len(others)


def test_strategies_and_sources_of_a_study_are_part_of_its_run(tiny_run: TinyRun) -> None:
    run = tiny_run()
    studies = [
        SynthesisStudy(samplers={"a": CogSampler(references=2)}),
        SynthesisStudy(samplers={"a": CogSampler(references=3)}),
        SynthesisStudy(samplers={"a": GaussianSampler(covariance="scalar")}),
        ReconstructionStudy(steps=[300], count=4, in_domain_root=None),
        ReconstructionStudy(steps=[300], count=5, in_domain_root=None),
    ]
    assert len({study.about(run)["run"] for study in studies}) == len(studies)
