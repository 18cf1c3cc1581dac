"""Which trials go into an ensemble: of those that may be the best, one of every kind. Pure."""

import numpy as np
from numpy.typing import NDArray

from features.errors import DataError
from trainer.overfitting import SAME_BET, clusters, correlations
from trainer.resampling import confidence_set

Float = NDArray[np.float64]


def choose_members(
    returns: Float, *, size: float, mean_block: float, n_resamples: int, rng: np.random.Generator, same: float = SAME_BET
) -> tuple[int, ...]:  # fmt: skip
    """Columns of returns (T, K), best first: in the model confidence set at `size`, the best of each cluster.

    The best trials of a search are near copies of one another; averaging copies changes nothing. Growth decides, as
    everywhere: the columns are compared by log return. `same` is the average correlation that makes two trials one.
    """
    if returns.ndim != 2 or not (returns > -1.0).all():
        raise DataError("an ensemble is chosen from (T, K) simple returns above -1")
    growth = np.log1p(returns)
    p_values = confidence_set(growth, mean_block=mean_block, n_resamples=n_resamples, rng=rng)
    survivors = np.flatnonzero(p_values > size)
    best_first = survivors[np.argsort(-growth[:, survivors].mean(axis=0), kind="stable")]
    label = clusters(correlations(growth[:, best_first]), at_least=same)
    return tuple(int(i) for i in best_first[np.sort(np.unique(label, return_index=True)[1])])
