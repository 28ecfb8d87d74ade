"""Mistakes that the options alone show: the line that the command line prints, without starting a command.

`tests/cli/test_bad_input.py` shows some of them, and all others, end to end.
"""

import pytest
from mistakes import mistake

MINI = ("model=mini", "dataset=pydoc", "tracking=off")
# After `model=mini dataset=pydoc tracking=off`.
WITH_MINI = [
    ("dataset.tokens=0", "dataset.tokens=0: give a whole number of 1 or more"),
    ("dataset.tokens=-1", "dataset.tokens=-1: give a whole number of 1 or more"),
    ("dataset.tokens=many", "dataset.tokens: Value 'many'"),
    ("dataset.tokens=1.5", "dataset.tokens: Value '1.5'"),
    ("dataset.tokens=null", "dataset.tokens: "),
    ("dataset.tokens=1000000000000000", "dataset.tokens=1000000000000000: give "),
    ("dataset.tokens=true", "dataset.tokens: Value 'True' of type 'bool'"),
    ("dataset.tokens=[1]", "dataset.tokens: Value '[1]' of type 'list'"),
    ("dataset.tokens=", "dataset.tokens: Value '' of type 'str'"),
    ("dataset.sequence_length=1", "dataset.sequence_length=1: give a whole number of 2 or more"),
    ("device.dtype=float8", "device.dtype: Invalid value 'float8', expected one of [float32, bfloat16, float16]"),
    ("dataset.sequence_length=1000000000000000", "dataset.sequence_length=1000000000000000: give 2147483647 or fewer"),
    ("device.threads=100000", "device.threads=100000: give 1024 or fewer"),
    ("device.batch_size=1000000000000000", "device.batch_size=1000000000000000: give 2147483647 or fewer"),
    ("run.seed=18446744073709551616", "run.seed=18446744073709551616: give 9223372036854775807 or fewer"),
    ("device.threads=0", "device.threads=0: give a whole number of 1 or more"),
    ("device.batch_size=0", "device.batch_size=0: give a whole number of 1 or more"),
    ("run.seed=-1", "run.seed=-1: give a whole number of 0 or more"),
    ("experiment.layer=0,1", "experiment.layer=0,1"),
    ("experiment.correction=holm", "experiment.correction=holm: give bh (Benjamini-Hochberg) or by"),
    ("experiment.name=../../x", "experiment.name=../../x: it becomes a folder's"),
    ("experiment.bins=2", "experiment.bins=2: give a whole number from 8 to 4096"),
    ("experiment.bins=lots", "experiment.bins: "),
    ("experiment.bin=16", "experiment.bin: no such option; did you mean experiment.bins?"),
    ("experiment.strip_space=maybe", "experiment.strip_space: "),
    ("experiment.plugin=no.such.Class", "experiment.plugin=no.such.Class: no such class"),
    ("experiment.plugin=os.path.join", "experiment.plugin=os.path.join: "),
    ("model.weights=none", "model.weights: Invalid value 'none', expected one of [pretrained, random]"),
    ("model.architecture={a:1}", "model.architecture.a: no such option"),
    ("+foo=1", "foo: no such group (there are model, device, dataset, experiment, tracking, run)"),
    ("+experiment.foo=1", "experiment.foo: "),
    ("run.outputs=a=b", "run.outputs=a=b: quote the value within the shell's quotes"),
    ("run.outputs=null", "run.outputs: "),
    ("run.outputs=a?b tracking=mlflow", "MLflow's store cannot lie in a folder with ? in its name"),
    (("dataset.tokens=\x1b[31mred",), "dataset.tokens=\\x1b[31mred: quote the value"),
    (("dataset.tokens=a\nb",), "dataset.tokens=a\\nb: "),
    (("dataset.tokens='a\nb'",), "dataset.tokens: Value 'a\\nb' of type 'str'"),
    (("\x1b]0;title\x07",), "\\x1b]0;title\\x07: cannot be read as OPTION=VALUE"),
    (("+a\u202eb=1",), "+a\\u202eb=1: cannot be read as OPTION=VALUE"),
    (("run.outputs='\x1b[1m/\nx?'", "tracking=mlflow"), "\\x1b[1m/\\nx?: MLflow's store cannot lie"),
    (("run.outputs=caf\udce9",), "run.outputs=caf\\udce9: cannot be read"),
]
# On their own.
ALONE = [
    (
        "model=min",
        "model=min: no such choice; did you mean mini? (choices: gpt_neo_125m, gpt_neo_1_3b, hub, mini, smollm2)",
    ),
    ("model=125", "model=125: "),
    ("model=null", "model=null: "),
    ("device=gpu", "device=gpu: no such choice; did you mean cpu? (choices: auto, cpu, cuda)"),
    ("dataset=pydok", "dataset=pydok: no such choice; did you mean pydoc? (choices: fineweb, hub, pydoc, text)"),
    ("experiment=token_lenght", "experiment=token_lenght: no such choice; did you mean token_length?"),
    ("tracking=on", "tracking=on: no such choice (choices: mlflow, off)"),
    ("devise=cpu", "devise: no such option; did you mean device?"),
    ("dataset.token=5", "dataset.token: no such option; did you mean dataset.tokens?"),
    ("experiment.layer=[0,", "experiment.layer=[0,"),
    ("nonsense", "nonsense"),
    ("+", "); write it as in dataset.tokens=4096"),
    ("~model", "model.name is missing"),
    ("+model=hub", "Multiple values for model"),
    ("model@x=mini", "model@x"),
    ("experiment=null", "experiment=null: a group's choice is a name"),
    ("experiment.words=/words/词", "quote the value within the shell's quotes: 'experiment.words=\"/words/词\"'"),
    ("dataset.path=~/x.txt", "dataset.path=~/x.txt: quote the value within the shell's quotes"),
]
# After `model=mini tracking=off`.
TEXTS = [
    ("dataset=text", "dataset.path is missing: give dataset.path=FILE_OR_FOLDER (.txt, .jsonl, .json, .csv, "),
    ("dataset=text dataset.path=", "dataset.path is missing: give dataset.path=FILE_OR_FOLDER"),
    (f"dataset=text dataset.path={'a' * 300}.txt", "cannot be a file ([Errno 36] File name too long"),
    ("dataset=text dataset.path=/no/such", "dataset.path=/no/such: no such file or folder"),
]
# After `model=hub dataset=pydoc tracking=off`.
MODELS = [
    ("", "model.name is missing: give model.name=ORGANISATION/MODEL or a local folder"),
]
# After `experiment=grammar_tuning experiment.text=false` and MINI.
LISTS = [
    ("experiment.words=", "experiment.words is empty"),
    (f"experiment.words={'a' * 300}", "cannot be a folder"),
    ("experiment.bad_words=2", "experiment.bad_words=2: give a share from 0 to 1"),
]
# After `experiment=ablation` and MINI.
NEURONS = "experiment.neurons=[[0,1]] "
ABLATIONS = [
    ("", "experiment.run is missing: give experiment.run=RUN_FOLDER_OR_ID of a finished run, whose neurons are "),
    (
        NEURONS + "experiment.kind=none",
        "experiment.kind=none: give one of mean, zero, peak, resample, or a list of them",
    ),
    (NEURONS + "experiment.kind=[mean,scale]", "experiment.kind=[mean,scale]: give one of mean, zero, peak, resample"),
    (NEURONS + "experiment.kind=[mean,mean]", "experiment.kind=[mean,mean]: give each once"),
    (NEURONS + "experiment.kind=[]", "experiment.kind=[]: give one of mean, zero"),
    (NEURONS + "experiment.kind=null", "experiment.kind=null: give one of mean, zero"),
    (NEURONS + "experiment.kind=3", "experiment.kind=3: give one of mean, zero"),
    (
        NEURONS + "experiment.ks=4",
        "experiment.ks=4: give a list of whole numbers of 1 or more, such as [1,2,4], or null",
    ),
    (NEURONS + "experiment.ks=[]", "experiment.ks=[]: give a list of whole numbers of 1 or more"),
    (NEURONS + "experiment.ks=[0,1]", "experiment.ks=[0,1]: give a list of whole numbers of 1 or more"),
    (NEURONS + "experiment.ks=[1.5]", "experiment.ks=[1.5]: give a list of whole numbers of 1 or more"),
    (NEURONS + "experiment.ks=all", "experiment.ks=all: give a list of whole numbers of 1 or more"),
    (
        NEURONS + "experiment.site=[NEURON,ACT]",
        "experiment.site=[NEURON,ACT]: ablation edits one site; give one, such as",
    ),
    (NEURONS + "experiment.site=null", "experiment.site=null: ablation edits one site"),
    (NEURONS + "experiment.draws=19", "experiment.draws=19: give a whole number from 20 to 10000"),
    (NEURONS + "experiment.sample=-1", "experiment.sample=-1: give a whole number from 0 to 100000"),
    (NEURONS + "experiment.bootstraps=10", "experiment.bootstraps=10: give a whole number from 100 to 100000"),
    (NEURONS + "experiment.draws=many", "experiment.draws: Value 'many'"),
    (NEURONS + "experiment.kinds=zero", "experiment.kinds: no such option; did you mean experiment.kind?"),
]
# After `experiment=maximise` and MINI.
UNITS = "experiment.units=[[0,1]] "
MAXIMISATIONS = [
    ("", "experiment.units is missing: give a list of pairs of a layer and a neuron, such as [[2,345],[6,5]]"),
    ("experiment.units=[2,345]", "experiment.units=[2,345]: give a list of pairs of a layer and a neuron, such as"),
    ("experiment.units=[]", "experiment.units=[]: give a list of pairs"),
    ("experiment.units=3", "experiment.units=3: give a list of pairs"),
    ("experiment.units=[[1,-2]]", "experiment.units=[[1,-2]]: give a list of pairs"),
    (UNITS + "experiment.site=[Q,K]", "experiment.site=[Q,K]: maximise looks at one site; give one, such as NEURON"),
    (UNITS + "experiment.rate=0", "experiment.rate=0.0: give a number above 0, such as 0.001"),
    (UNITS + "experiment.penalty=-1", "experiment.penalty=-1.0: give a number of 0 or more, such as 0.001"),
    (UNITS + "experiment.starts=1", "experiment.starts=1: give a whole number from 2 to 1000"),
    (UNITS + "experiment.draws=5", "experiment.draws=5: give a whole number from 19 to 9999"),
    (UNITS + "experiment.candidates=0", "experiment.candidates=0: give a whole number from 1 to 100000"),
    (UNITS + "experiment.steps=many", "experiment.steps: Value 'many'"),
]
BEGINNINGS = (
    (MINI, WITH_MINI),
    ((), ALONE),
    (("model=mini", "tracking=off"), TEXTS),
    (("model=hub", "dataset=pydoc", "tracking=off"), MODELS),
    (("experiment=grammar_tuning", "experiment.text=false", *MINI), LISTS),
    (("experiment=ablation", *MINI), ABLATIONS),
    (("experiment=maximise", *MINI), MAXIMISATIONS),
)
CASES = [
    pytest.param((*beginning, *(given.split() if isinstance(given, str) else given)), answer, id=ascii(given)[1:60])
    for beginning, rows in BEGINNINGS
    for given, answer in rows
]
CASES += [
    pytest.param((*MINI, f"{option}=${{nowhere}}"), f"{option}: Interpolation key 'nowhere' not found", id=option)
    for option in ("dataset.tokens", "model.name", "experiment.bins")
]


@pytest.mark.parametrize(("overrides", "answer"), CASES)
def test_one_line_names_the_option(overrides, answer):
    line = mistake(*overrides)
    assert answer in line
    assert line.isprintable()


def test_options_without_a_mistake_have_no_line():
    assert mistake(*MINI) == ""
    assert mistake("experiment=grammar_tuning", "experiment.text=false", *MINI) == ""
    assert mistake("experiment=maximise", "experiment.units=[[0,1],[2,3]]", *MINI) == ""
    assert mistake("experiment=ablation", "experiment.neurons=[[0,1]]", "experiment.kind=[mean,zero]", *MINI) == ""
