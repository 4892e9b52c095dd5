"""The fit of a model to the few-shot images of a run."""

import math
from collections.abc import Mapping
from typing import Any

from ood_sampler.codecs.few_shot import FewShotCodec
from ood_sampler.data.domain import ImageSet
from ood_sampler.pipeline.keys import made_by, reader, taken
from ood_sampler.pipeline.session import Session
from ood_sampler.store.files import save_state
from ood_sampler.store.node import Node, StoredState
from ood_sampler.store.versions import code_version


def fit_model(session: Session, codec: FewShotCodec, images: ImageSet) -> Node:
    """Node of all that a model needs of few-shot images.

    Args:
        session: makes the node.
        codec: of the model.
        images: the few-shot images.
    """
    model, count = codec.model, len(images)
    key = {
        "model": type(model).__name__,
        "images": images.digest,
        "reader": reader(images),
        "count": count,
        "code": code_version(*model.makers),
    }
    size = 4 * (count + 5) * math.prod(model.latent_shape)
    state = StoredState(session.root, "model", key, count, size=size)

    def make(_: Mapping[str, Any]) -> None:
        save_state(state.path, model.fit(taken(images)))

    return Node("fit model", {"state": state}, make, inputs=made_by(images), of="the target")
