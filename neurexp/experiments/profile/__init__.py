"""Profiles: how do activations depend on a property of the token?

Data flows one way: `covariate` and `design` say what is summed, `base` plans the pass, `data` holds its sums,
`analysis` makes the tables, and `report`, `findings`, `figures` and `columns` say what was found. Knows no hook and no
property.
"""

from neurexp.experiments.profile.base import Profile
from neurexp.experiments.profile.covariate import UNDEFINED, Covariate
from neurexp.experiments.profile.data import Options, ProfileData, ProfilePlan

__all__ = ["UNDEFINED", "Covariate", "Options", "Profile", "ProfileData", "ProfilePlan"]
