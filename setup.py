"""What pyproject.toml cannot say: `conf/` is installed in the package, as `ood_sampler.conf`."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["ood_sampler*"]), "ood_sampler.conf"],
    package_dir={"ood_sampler.conf": "conf"},
)
