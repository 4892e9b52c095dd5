"""Map images to feature vectors."""

from collections.abc import Sequence

from torch import Tensor, nn

from ood_sampler.modules.prediction import Batch, Stage


class FeatureExtraction(Stage):
    """Compute the features of images, once per image.

    Args:
        extractor: maps images in $[-1, 1]$ to vectors.
        what: kind of the images, for messages.
        names: of the images, likewise.

    Raises:
        NonFiniteError: a feature is NaN or infinite.
    """

    def __init__(self, extractor: nn.Module, *, what: str, names: Sequence[object]) -> None:
        super().__init__()
        self.extractor = extractor
        self.what = what
        self.names = names

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        indices, images = batch
        features: Tensor = self.extractor(images)
        names = [self.names[index] for index in indices]
        what, remedy = f"the features of {self.what}", "and check the weights of metrics"
        return {"features": self.check_finite(features, names, what, remedy=remedy)}
