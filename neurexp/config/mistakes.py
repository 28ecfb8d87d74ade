"""One line for a mistake in the options that Hydra, OmegaConf or the file system found. Imports nothing heavy."""

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from neurexp.errors import UserError, closest, one_line, printable

EXAMPLE = "write it as in dataset.tokens=4096 or experiment=token_length"
# A part of OmegaConf's message → what to give instead
ADVICE = {
    "to Integer": "give a whole number, such as 8192 or 100_000",
    "to Float": "give a number",
    "not a valid bool": "give true or false",
    "not a ListConfig": "give a list, as [1,2]",
    "Cannot assign": "give names and values, as {a:1}",
    "value 'None'": "give a value, or leave the option out",
    "to string": "give a text",
    "nterpolation": "name an option that there is within ${…}, or write the value itself",
    "viable alternative": "write the value without ${",
}
# What to give for a choice that a group does not have
INSTEAD = {
    "model": "a Hub id or a folder is model=hub model.name={}",
    "dataset": "a file or folder is dataset=text dataset.path={0}, a dataset of the Hub dataset=hub dataset.name={0}",
    "experiment": "an experiment of your own needs --config-dir FOLDER",
}


def explain(error: BaseException) -> str | None:
    """One line for a mistake that Hydra or the file system found while composing a run, or None for a bug."""
    message = _explanation(error)
    return None if message is None else printable(message)


def _explanation(error: BaseException) -> str | None:
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MissingConfigException) and error.options:
        given = str(error.missing_cfg_file)
        group, _, choice = given.partition("/")
        if group not in INSTEAD:  # a group within a group, such as hydra/launcher
            group, _, choice = given.rpartition("/")
        instead = f"; {INSTEAD[group]}".format(choice) if group in INSTEAD else ""
        advice = instead if "/" in choice else closest(choice, error.options) or instead  # no choice is a path
        return f"{group}={choice}: no such choice{advice} (choices: {', '.join(error.options)})"
    if isinstance(cause, OmegaConfBaseException):
        return explain_option(cause)
    if isinstance(error, OverrideParseException):
        option, _, value = str(error.override).partition("=")
        # Hydra reads unquoted values in ASCII only; quotes do not help against bytes that are no text
        special = not value.isascii() and value.encode("utf-8", "ignore").decode() == value
        special = special or any(character in value for character in "{}[]() ,:=~$;&#?*!")
        if special and not value.startswith(("'", '"')):
            return f"{error.override}: quote the value within the shell's quotes: '{option}=\"{value}\"'"
        return f"{error.override}: cannot be read as OPTION=VALUE ({one_line(error)}); {EXAMPLE}"
    if isinstance(error, HydraException):
        return " ".join(line.strip() for line in str(error).splitlines() if line.strip())
    if isinstance(error, ValueError) and str(error).startswith("Config group override"):
        return f"{_override_at_fault(error) or 'an override'}: a group's choice is a name; `--help` lists them"
    if isinstance(error, AssertionError) and (override := _override_at_fault(error)):  # of Hydra, as for `+=`
        return f"{override}: cannot be read as OPTION=VALUE; {EXAMPLE}"
    if isinstance(error, OSError):
        return (
            f"hydra.run.dir: the run folder cannot be made ({error}); give hydra.run.dir=FOLDER or run.outputs=FOLDER"
        )
    return None


def _override_at_fault(error: BaseException) -> str | None:
    """The override that Hydra was parsing when it raised an exception that does not name it."""
    trace = error.__traceback__
    while trace is not None:
        line = getattr(trace.tb_frame.f_locals.get("override"), "input_line", None)
        if line is not None:
            return str(line)
        trace = trace.tb_next
    return None


def explain_option(error: OmegaConfBaseException) -> str:
    """One line for an option that does not exist, or a value of the wrong kind."""
    option = error.full_key or error.key or "an option"
    if isinstance(error, ConfigKeyError | ConfigAttributeError):
        siblings = [str(key) for key in error.parent_node] if error.parent_node is not None else []
        prefix = option.rpartition(".")[0]
        named = [f"{prefix}.{key}" if prefix else key for key in siblings]
        there = f"there are {', '.join(named)}" if named else f"+{option}= would add it"
        elsewhere = [f"{group}.{option}" for group in _groups_with(option, error.parent_node)] if not prefix else []
        advice = f"; did you mean {' or '.join(elsewhere)}?" if elsewhere else closest(option, named)
        return f"{option}: no such option{advice} ({there})"
    told = str(error).partition("\n    full_key:")[0]  # the rest is OmegaConf's own state
    return f"{option}: {with_advice(told)}"


def _groups_with(option: str, root: object) -> list[str]:
    """The groups of a whole configuration that have an option of this name."""
    if not isinstance(root, DictConfig):
        return []
    nodes = {str(group): root._get_node(group) for group in root if group != "hydra"}  # Hydra's own are not a user's
    return [group for group, node in nodes.items() if isinstance(node, DictConfig) and option in list(node)]


def with_advice(message: str) -> str:
    """OmegaConf's message about a value, with what to give instead if the message does not say so."""
    return message + next((f"; {advice}" for words, advice in ADVICE.items() if words in message), "")
