"""What the tests of the attacks share."""

from __future__ import annotations

import pytest

from kerasrobust.engine.classifier import Classifier


@pytest.fixture(scope="module")
def classifier(digits_model):
    """Held for a whole module, so that its tests share the compiled functions."""
    return Classifier.of(digits_model)
