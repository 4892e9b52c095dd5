"""What a command says: read, checked and put in Hydra's words before anything runs."""

from hydra.core.config_store import ConfigStore

from ood_sampler.config import BLOCKS

for _group, _blocks in BLOCKS.items():
    for _name, _block in _blocks.items():
        ConfigStore.instance().store(name=_name, group=_group, node=_block)
