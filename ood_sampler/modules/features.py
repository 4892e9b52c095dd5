"""Pictures to feature vectors."""

from torch import Tensor, nn

from ood_sampler.modules.prediction import Batch, Stage


class FeatureExtraction(Stage):
    """Compute the features of pictures, once an image.

    Args:
        extractor: maps pictures in $[-1, 1]$ to vectors.
    """

    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        self.extractor = extractor

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        indices, images = batch
        features: Tensor = self.extractor(images)
        return {"features": self.check_finite(features, indices, "the features of image")}
