"""Regressions: which neurons tell labelled tokens of running text apart, in several comparisons of the same text?

Data flows one way: `base` plans the capture of the rows, `data` holds the comparisons and their activations, `analysis`
fits every neuron of a layer, and `report`, `findings`, `figures` and `columns` present the results.
"""

from neurexp.experiments.options.regressions import RegressionOptions as Options
from neurexp.experiments.regression.base import Chosen, Regression
from neurexp.experiments.regression.data import Between, Comparison, RegressionData, RegressionPlan, Verdict

__all__ = ["Between", "Chosen", "Comparison", "Options", "Regression", "RegressionData", "RegressionPlan", "Verdict"]
