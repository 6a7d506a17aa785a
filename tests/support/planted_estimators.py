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
    """Takes 160 MB for each answer."""

    def predict_proba(self, X: Any) -> Any:
        scratch = np.ones(20_000_000)
        return super().predict_proba(X) * scratch[-1]
