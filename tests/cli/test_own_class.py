"""An experiment given to `neurexp.run` as a class: the options of its base and its own, without a config file."""

from dataclasses import dataclass, field

import pytest
from omegaconf import OmegaConf

import neurexp
from neurexp.config.own_experiment import name_of, register
from neurexp.errors import UserError
from neurexp.text import align, place


@dataclass
class Options(neurexp.ContrastOptions):
    text: bool = False  # the base's default is True
    negated: str = "They never {word}"
    verbs: list[str] = field(default_factory=lambda: ["eat", "sing", "walk", "open", "read", "hope"])


class NegatedVerbs(neurexp.Contrast):
    Options = Options
    categories = ("affirmed", "negated")

    def select(self, model):
        templates = ("They will {word}", self.options.negated)
        verbs = list(self.options.verbs)
        rows = [place(verb, label, template) for label, template in enumerate(templates) for verb in verbs]
        return align(model.tokenizer, rows, model.begins_with_bos)


@pytest.mark.slow
def test_a_class_runs_with_its_own_options_and_those_of_its_base(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"experiment.permutations": 100, "experiment.negated": "They hardly {word}"}
    run = neurexp.run(NegatedVerbs, model="mini", tracking="off", device="cpu", **options)
    assert run.experiment == "negated_verbs"
    assert run.folder.parent.name == "negated_verbs"
    assert len(run.words) == 12
    config = OmegaConf.load(run.folder / ".hydra" / "config.yaml").experiment
    assert (config.negated, config.verbs[0], config.permutations) == ("They hardly {word}", "eat", 100)
    assert (config.text, config.splits) == (False, 50)  # the class's own default, and the base's
    assert config.plugin == f"{__name__}.NegatedVerbs"
    assert run.summary["provenance"]["plugin_hash"] is not None
    with pytest.raises(UserError, match=r"^experiment.negatd: no such option; did you mean experiment.negated\?"):
        neurexp.run(NegatedVerbs, model="mini", **{"experiment.negatd": "x"})
    with pytest.raises(UserError, match=r"^experiment=negated_verbs: no such choice"):
        neurexp.run("negated_verbs", model="mini")  # the class was for that call only


def test_a_name_is_made_of_the_classs():
    class GPT2Verbs(neurexp.Profile):
        pass

    assert [name_of(one) for one in (NegatedVerbs, GPT2Verbs)] == ["negated_verbs", "gpt2_verbs"]
    with pytest.raises(UserError, match=r"^GPT2Verbs: is inside a function; define it at the top"):
        register(GPT2Verbs)


@pytest.mark.parametrize("wrong", [int, neurexp.Contrast, Options])
def test_what_is_no_experiment_of_ones_own_is_one_line(wrong):
    with pytest.raises(UserError, match=rf"^{wrong.__name__}: is no experiment of your own; give a class"):
        neurexp.run(wrong)
