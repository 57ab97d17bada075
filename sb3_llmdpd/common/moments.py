"""`Moments`, extremes, mean and deviation of rows that come block by block."""

import numpy as np


class Moments:
    """Extremes, mean and deviation of each entry of rows, all of one shape."""

    n: int = 0
    """Number of rows so far; the arrays below are there from the first block on, each of a row's shape."""
    low: np.ndarray
    high: np.ndarray
    mean: np.ndarray
    _squares: np.ndarray

    def add(self, rows: np.ndarray) -> None:
        """Add a block of rows, (n, ...), n at least 1."""
        block = rows.astype(np.float64)
        n, mean, low, high = len(block), block.mean(axis=0), block.min(axis=0), block.max(axis=0)
        # Rounding may put the mean of equal numbers beside them.
        mean = np.clip(mean, low, high)
        squares = np.square(block - mean).sum(axis=0)
        if self.n == 0:
            self.mean, self._squares, self.low, self.high = mean, squares, low, high
        else:
            # Chan et al. (1979): about the joint mean two blocks have S_a + S_b + d^2 n_a n_b / (n_a + n_b),
            # where d is the distance of their means. Stable, unlike a sum of squares less a square.
            distance = mean - self.mean
            self.mean = self.mean + distance * n / (self.n + n)
            self._squares = self._squares + squares + np.square(distance) * self.n * n / (self.n + n)
            self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        self.n += n

    @property
    def deviation(self) -> np.ndarray:
        """Standard deviation of the whole population."""
        return np.asarray(np.sqrt(self._squares / self.n))
