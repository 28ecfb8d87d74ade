"""The findings of categories, made from the report's numbers. Computes no statistic."""

from collections.abc import Mapping

import numpy as np

from neurexp.experiments.categories.data import CategoryData
from neurexp.report.report import Table

Metrics = Mapping[str, float]


def findings_of(data: CategoryData, layers: Table, metrics: Metrics) -> list[str]:
    """A line each."""
    return [
        _sets(data, metrics),
        _sentence_test(data, metrics),
        *_concordance(data, metrics),
        _members(metrics),
        _leak(layers, metrics),
        _displacement(data, metrics),
    ]


def _sets(data: CategoryData, metrics: Metrics) -> str:
    texts = [
        f"{len(one.groups)} targets in {metrics['sentences' + ('' if name == 'words' else f'_{name}')]} sentences"
        for name, one in data.sets.items()
    ]
    line = f"A word's row is the mean over its sentences. Set 1: {texts[0]}."
    line = f"{line} Set 2: {texts[1]}." if data.has_second else f"{line} There is no set 2."
    left_out = {"lines that cannot be used": "sentences_skipped", "repeated lines": "sentences_duplicate"}
    counts = [f"{what} ({metrics[name]})" for what, name in left_out.items() if metrics.get(name)]
    return f"{line} Left out: {', '.join(counts)}." if counts else line


def _sentence_test(data: CategoryData, metrics: Metrics) -> str:
    rows, words = len(data.sets["words"].groups), len(data.sets["words"].words)
    return (
        f"If the {rows} rows are taken as independent, as in the lectures, {metrics['share_sentences_all']:.1%} of the "
        f"neurons differ between the categories (Student's t, p < 0.05 / neurons of the layer). If the same {words} "
        f"words are split into two groups in any other way, {metrics['share_sentences_all_shuffled']:.1%} differ "
        f"({_p(metrics, 'share_sentences_all')}). Words alone give at most so many, because some of these splits keep "
        f"most of a category together. Over the {words} words "
        f"{metrics['share_words_all']:.2%} differ (Welch), and {metrics['share_words_all_shuffled']:.2%} with other "
        f"splits ({_p(metrics, 'share_words_all')}); {metrics['share_separated_all']:.1%} separate the "
        f"categories' words completely, and {metrics['share_separated_all_shuffled']:.1%} with other splits."
    )


def _p(metrics: Metrics, name: str) -> str:
    return f"p = {metrics[f'{name}_p']:.3f} among all splits" if f"{name}_p" in metrics else "no other split"


def _concordance(data: CategoryData, metrics: Metrics) -> list[str]:
    if not data.has_second:
        return []
    line = (
        f"Concordance of the sets, over sentences: {metrics['concordance_sentences_all']:.1%} of the neurons are "
        "significant with the same sign in both or significant in neither (expected of independent sets: "
        f"{metrics['concordance_sentences_all_independent']:.1%}); {metrics['both_sentences_all']:.2%} are significant "
        f"in both (independent: {metrics['both_sentences_all_independent']:.2%})."
    )
    if "both_sentences_all_shuffled" not in metrics:
        return [f"{line} The sets do not have the same words, so their words are not split in the same way."]
    return [
        f"{line} The same words recur, so other splits of them agree as well: significant in both are "
        f"{metrics['both_sentences_all_shuffled']:.2%} ({_p(metrics, 'both_sentences_all')}). t of the sets correlates "
        f"with r = {metrics['t_r_sentences_all']:.2f}, and with other splits "
        f"{metrics['t_r_sentences_all_shuffled']:.2f}. Over words {metrics['both_words_all']:.2%} are significant in "
        "both."
    ]


def _members(metrics: Metrics) -> str:
    return (
        "Held-out words: neurons that the other words select order "
        f"{metrics['members_all']:.0%} of the pairs of new words rightly (other splits: "
        f"{metrics['members_all_shuffled']:.0%}; {_p(metrics, 'members_all')}); the most in layer "
        f"{metrics['members_largest_layer']}, {metrics['members_largest']:.0%}."
    )


def _leak(layers: Table, metrics: Metrics) -> str:
    if "leak_share_all" not in metrics:
        return (
            "The leak of an earlier target into a later one is not measured: it needs sentences with one target, and "
            "words that come after targets of each category."
        )
    return (
        f"Leak: an earlier target moves a later one by {metrics['leak_share_all']:.1%} of the category difference "
        f"towards its own category (mean over layers; {metrics['rows_leak_all']} targets after "
        f"{metrics['words_leak_all']} earlier words). Most in layer "
        f"{metrics['leak_share_largest_layer']}, {metrics['leak_share_largest']:.1%}. In {metrics['leak_layers']} of "
        f"{len(layers['layer'])} layers p < 0.05 among the splits of the earlier words."
    )


def _displacement(data: CategoryData, metrics: Metrics) -> str:
    if "displacement_last_largest" not in metrics:
        none = "no target of set 1 has several tokens and text before it"
        why = "this model's residual stream cannot be read" if len(data.several_tokens) else none
        return f"The displacement of a word's first and last tokens is not measured: {why}."
    words = len(np.unique(data.several_tokens))
    places = [
        f"the {place} token is moved most in layer {metrics[f'displacement_{place}_largest_layer']} "
        f"({metrics[f'displacement_{place}_largest']:.1f}; relative to its length in layer "
        f"{metrics[f'displacement_{place}_relative_largest_layer']}, "
        f"{metrics[f'displacement_{place}_relative_largest']:.2f})"
        for place in ("first", "last")
    ]
    return (
        f"Displacement of the residual stream at a word of several tokens ({words} words): {' and '.join(places)}. "
        f"Relative to its length the last token is moved more than the first in {metrics['displacement_last_more']} of "
        f"{len(data.contrast.layers)} layers."
    )
