"""The context of a token, as columns: what stands before it in its sequence.

Short words stand before long ones, and any network mixes neighbours in, with random weights too. So an activation that
follows the preceding tokens is correlated with the covariate of the token itself. These columns are the confounds that
take this out of partial r. Knows no activations.
"""

import numpy as np

from neurexp.experiments.profile.covariate import UNDEFINED
from neurexp.text.tokens import Tokens

NEIGHBOURS = 3  # preceding tokens whose covariate has a column each
HALF_LIFE = 16.0  # tokens, of the decaying averages
FOLDS = 8  # of the sequences: an expected value comes from the other folds
SHRINKAGE = 4.0  # tokens: so many at the overall mean are added to those that follow a type


class Context:
    """The columns of a token's context, for a batch of tokens.

    The columns are, with 0 for the mean wherever there is no such token:

    - the covariate of the previous, the second and the third previous token;
    - the covariate to be expected after the previous token's type: its mean over the tokens that follow the type in
      the other folds of the sequences, shrunken to the overall mean;
    - averages over all earlier tokens of the sequence, of the covariate, log frequency and word beginning;
    - the same three with weights that halve every `HALF_LIFE` tokens back.

    Args:
        tokens: the text.
        values: `[sequences, length]` the covariate, `UNDEFINED` where a token has none.
        counted: `[sequences, length]` bool, the tokens that take part in the analysis.
        centre: the covariate's mean over them.
        of_type: `[vocabulary, 2]` float32: log frequency and word beginning, each about its mean.
    """

    def __init__(self, tokens: Tokens, values: np.ndarray, counted: np.ndarray, centre: float, of_type: np.ndarray):
        self._tokens, self._values, self._centre, self._of_type = tokens, values, centre, of_type
        self._folds = min(FOLDS, len(values))
        self._expected = self._expected_after(counted)
        self.width = NEIGHBOURS + 1 + 2 * (1 + of_type.shape[1])

    def __call__(self, sequences: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """The columns `[tokens, width]` float32 of the tokens at these places."""
        rows, row_of_token = np.unique(sequences, return_inverse=True)
        return self._of_rows(rows)[row_of_token, positions]

    def _of_rows(self, rows: np.ndarray) -> np.ndarray:
        """The columns of whole sequences, `[rows, length, width]`."""
        values, valid = self._values[rows], self._tokens.valid[rows]
        ids, length = np.where(valid, self._tokens.input_ids[rows], 0), valid.shape[1]
        centred = np.where(values != UNDEFINED, values - self._centre, 0.0)
        columns = np.zeros((*ids.shape, self.width), np.float32)
        for back in range(1, min(NEIGHBOURS, length - 1) + 1):
            columns[:, back:, back - 1] = centred[:, :-back]
        if length > 1:
            columns[:, 1:, NEIGHBOURS] = self._expected[self._fold(rows)[:, None], ids[:, :-1]]
        features = np.concatenate([centred[..., None], self._of_type[ids]], axis=2) * valid[..., None]
        averages = columns[..., NEIGHBOURS + 1 :]
        count = features.shape[2]
        averages[:, 1:, :count] = np.cumsum(features, axis=1)[:, :-1] / np.arange(1, length)[:, None]
        averages[:, 1:, count:] = _decaying(features)[:, :-1]
        return columns

    def _fold(self, sequences: np.ndarray) -> np.ndarray:
        return sequences * self._folds // len(self._values)

    def _expected_after(self, counted: np.ndarray) -> np.ndarray:
        """The covariate's mean after each type, about the centre, without one's own fold, `[folds, vocabulary]`."""
        types = len(self._of_type)
        follows = counted[:, 1:] & self._tokens.valid[:, :-1]
        fold = np.broadcast_to(self._fold(np.arange(len(counted)))[:, None], follows.shape)[follows]
        key = fold * types + self._tokens.input_ids[:, :-1][follows]
        shape = self._folds, types
        sums = np.bincount(key, (self._values[:, 1:][follows] - self._centre), self._folds * types).reshape(shape)
        counts = np.bincount(key, minlength=self._folds * types).reshape(shape)
        sums, counts = sums.sum(0) - sums, counts.sum(0) - counts
        overall = sums.sum(1, keepdims=True) / np.maximum(1, counts.sum(1, keepdims=True))
        return ((sums + SHRINKAGE * overall) / (counts + SHRINKAGE)).astype(np.float32)


def _decaying(features: np.ndarray) -> np.ndarray:
    """Averages over tokens up to each one, with weights that halve every `HALF_LIFE` tokens, `[rows, length, …]`."""
    decay = 0.5 ** (1 / HALF_LIFE)
    averages = (1 - decay) * features.astype(float)
    for token in range(1, features.shape[1]):
        averages[:, token] += decay * averages[:, token - 1]
    return averages
