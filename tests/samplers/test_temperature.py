import torch

from ood_sampler.samplers.temperature import mean_of, tempered
from ood_sampler.store.sets import InMemory


def test_the_mean_stays_and_the_spread_is_scaled() -> None:
    generator = torch.Generator().manual_seed(0)
    z = 2 + torch.randn(500, 3, 2, 2, generator=generator)
    mean = mean_of(InMemory(z))
    torch.testing.assert_close(mean, z.mean(0), rtol=1e-5, atol=1e-6)
    found = tempered(z, mean, 0.8)
    torch.testing.assert_close(found.mean(0), mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.var(0), 0.64 * z.var(0), rtol=1e-4, atol=1e-5)


def test_one_latent_is_its_own_mean() -> None:
    z = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mean_of(InMemory(z)), z[0])
