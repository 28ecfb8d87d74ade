"""Token length: does the model spend more activation on long tokens, which carry more meaning, than on short ones?"""

from neurexp.experiments import profile
from neurexp.experiments.base import Inputs
from neurexp.experiments.options.profiles import TokenLengthOptions as Options
from neurexp.text.vocabulary import token_lengths


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
