"""Rows that belong together: a word in two sentences is never on both sides, and changes labels with itself only."""

import numpy as np
import pytest
from scipy import stats

from neurexp.stats import effect_sizes, nulls, probe, replication, shuffling


def paired(words=12, neurons=5, size=0.0, seed=0):
    """A row of either category for each word; rows of a word are alike."""
    random = np.random.default_rng(seed)
    of_word = random.normal(size=(words, neurons)) * 3
    x = np.concatenate([of_word, of_word + size]) + random.normal(size=(2 * words, neurons))
    return x, np.repeat([0, 1], words), np.tile(np.arange(words), 2)


def test_pairs_are_seen_where_every_group_has_as_many_rows_of_each_category():
    _, labels, groups = paired()
    assert shuffling.is_paired(labels, groups)
    assert not shuffling.is_paired(labels, np.arange(len(labels)))
    assert not shuffling.is_paired(labels, None)
    assert not shuffling.is_paired(labels[1:], groups[1:])


def test_labels_are_shuffled_within_their_groups_only():
    _, labels, groups = paired()
    shuffled = shuffling.shuffle_within(labels, groups, np.random.default_rng(1))
    assert (shuffled != labels).any()
    for group in np.unique(groups):
        assert sorted(shuffled[groups == group]) == sorted(labels[groups == group])


def test_the_paired_null_finds_what_words_that_differ_would_hide():
    x, labels, groups = paired(words=30, size=0.9)
    within = nulls.permutation(x, labels, 2000, seed=0, groups=groups)
    across = nulls.permutation(x, labels, 2000, seed=0)
    signs = stats.wilcoxon(x[:30], x[30:]).pvalue
    assert (within.p < across.p).all()
    assert (np.log10(within.p) < np.log10(np.maximum(signs, 1 / 2001)) + 1).all()


def test_the_paired_null_keeps_its_level():
    p = [nulls.permutation(*paired(neurons=20, seed=seed)[:2], 200, seed, paired()[2]).p for seed in range(40)]
    assert 0.03 < (np.concatenate(p) < 0.05).mean() < 0.07


def test_a_group_is_in_one_half_and_in_one_fold():
    x, labels, groups = paired(words=20)
    found = replication.replicate(x, labels, 10, seed=0, groups=groups)
    fold = probe.folds(labels, 0, groups)
    for first in (*found.first, *(fold == one for one in range(probe.FOLDS))):
        for group in range(20):
            assert len(set(first[groups == group])) == 1
    assert (found.first.sum(1) == 20).all()
    assert set(np.bincount(fold)) == {8}


def test_differences_of_many_labellings_are_cohens_d():
    x, labels, _ = paired(size=1.0)
    many = np.stack([labels, np.random.default_rng(0).permutation(labels)])
    for row, one in zip(effect_sizes.cohens_d_of_labellings(x, many), many, strict=True):
        np.testing.assert_allclose(row, effect_sizes.cohens_d(x, one)[0], rtol=1e-10)
    assert np.isnan(effect_sizes.cohens_d_of_labellings(np.ones((24, 1)), many)).all()


@pytest.mark.parametrize("repeats", [1, 4])
def test_the_interval_of_auroc_is_over_groups_not_rows(repeats):
    """Copies of a row say nothing new: the interval does not shrink."""
    random = np.random.default_rng(0)
    x, labels = random.normal(size=60), np.repeat([0, 1], 30)
    x[labels == 1] += 1
    once = nulls.auroc_interval(x, labels, np.arange(60), 4000, seed=0)
    copied = nulls.auroc_interval(
        np.repeat(x, repeats), np.repeat(labels, repeats), np.repeat(np.arange(60), repeats), 4000, seed=1
    )
    np.testing.assert_allclose(copied, once, atol=0.02)
    score = effect_sizes.auroc(x[:, None], labels)[0]
    # DeLong's standard error by hand
    above = (x[labels == 1][:, None] > x[labels == 0]).astype(float)
    error = np.sqrt(above.mean(1).var(ddof=1) / 30 + above.mean(0).var(ddof=1) / 30)
    assert once[1] - once[0] == pytest.approx(2 * 1.96 * error, rel=0.15)
    assert once[0] < score < once[1]
