"""Token length: does the model spend more activation on long tokens, which carry more meaning, than on short ones?"""

from dataclasses import dataclass

from neurexp.experiments import profile
from neurexp.experiments.base import Inputs
from neurexp.text.vocabulary import token_lengths


@dataclass
class Options(profile.Options):
    """The options of conf/experiment/token_length.yaml."""

    strip_space: bool = False


class TokenLength(profile.Profile):
    """The experiment `token_length`."""

    Options = Options

    def covariate(self, inputs: Inputs) -> profile.Covariate:
        space = "leading space stripped" if self.options.strip_space else "leading space counted"
        return profile.Covariate(
            token_lengths(inputs.model.tokenizer, self.options.strip_space),
            name="length",
            noun="token length",
            unit="characters",
            groups=("shorter", "equal", "longer"),
            detail=f"of the decoded token, {space}",
        )
