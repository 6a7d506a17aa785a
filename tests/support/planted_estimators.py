"""Estimators of a user's own that predict well and serve badly."""

import time
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression


class SlowClassifier(LogisticRegression):
    """Waits before each answer, as a model that asks another service does."""

    def predict_proba(self, X: Any) -> Any:
        time.sleep(0.03)
        return super().predict_proba(X)


class HungryClassifier(LogisticRegression):
    """Keeps 160 MB from its first answer on."""

    def predict_proba(self, X: Any) -> Any:
        if not hasattr(self, "scratch"):
            self.scratch = np.ones(20_000_000)
        return super().predict_proba(X) * self.scratch[-1]
