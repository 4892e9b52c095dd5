"""Pictures to feature vectors."""

from collections.abc import Sequence

from torch import Tensor, nn

from ood_sampler.modules.prediction import Batch, NonFiniteError, Stage, are_finite


class FeatureExtraction(Stage):
    """Compute the features of pictures, once an image.

    Args:
        extractor: maps pictures in $[-1, 1]$ to vectors.
        what: kind of the pictures, for errors.
        names: of the pictures, likewise.

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
        bad = [
            self.names[index]
            for index, good in zip(indices, are_finite(features).tolist(), strict=True)
            if not good
        ]
        if bad:
            raise NonFiniteError(
                f"the features of {self.what}", bad, remedy="and check the weights of metrics"
            )
        return {"features": features}
