"""Measures of interpretability: torchmetrics classes and the pure functions they apply."""
