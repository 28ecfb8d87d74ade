"""Categories: which neurons tell the words of two categories apart, in sentences?

`experiment` plans the passes, and `data` holds what they leave. `analysis` adds to the contrast over words what the
lectures test over sentences, and what shows how far that can be trusted; `report`, `columns`, `findings` and `figures`
present it.
"""

from neurexp.experiments.categories.experiment import Categories, Options

__all__ = ["Categories", "Options"]
