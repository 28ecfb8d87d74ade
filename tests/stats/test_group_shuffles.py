"""Labels shuffled over groups of rows: whole groups keep a label, and the p is calibrated where rows depend."""

from itertools import permutations, product

import numpy as np
import pytest
from scipy import stats

from neurexp.stats.group_shuffles import group_permutation, shuffle_groups, splits_of_groups, student
from neurexp.stats.logistic import logistic


def words(types=40, each=4, neurons=30, shared=1.0, seed=0):
    """Rows of words: a value of the word itself (`shared` of it), and noise."""
    random = np.random.default_rng(seed)
    groups = np.repeat(np.arange(types), each)
    x = shared * random.normal(size=(types, neurons))[groups] + random.normal(size=(types * each, neurons))
    labels = random.permutation(np.arange(types) % 2)[groups]
    return x, labels, groups


def test_student_is_scipys():
    x, labels, _ = words()
    x = np.concatenate([x, np.full((len(x), 1), 0.1)], axis=1)
    found = student(x, labels)
    expected = stats.ttest_ind(x[labels == 1, :-1], x[labels == 0, :-1])
    np.testing.assert_allclose(found.statistic[:-1], expected.statistic, rtol=1e-9)
    np.testing.assert_allclose(found.p[:-1], expected.pvalue, rtol=1e-7)
    assert found.p[-1] == 1


def test_a_group_keeps_one_label():
    _, labels, groups = words()
    shuffled = shuffle_groups(labels, groups, np.random.default_rng(0))
    assert all(len(set(shuffled[groups == group])) == 1 for group in range(40))
    assert shuffled.sum() == labels.sum()
    assert (shuffled != labels).any()


def test_p_is_the_share_of_labellings_with_as_large_a_correlation():
    x, labels, groups = words(types=6, each=2, neurons=4)
    x[:, 3] = 5.0
    of_group = labels[::2]
    draws = np.array([np.array(order)[groups] for order in set(permutations(of_group.tolist()))])
    found = group_permutation(x, labels, groups, 4000, seed=1)

    def r(y):
        return np.array([abs(np.corrcoef(x[:, neuron], y)[0, 1]) for neuron in range(3)])

    all_r, observed = np.array([r(draw) for draw in draws]), r(labels)
    np.testing.assert_allclose(found.p[:3], (all_r >= observed - 1e-9).mean(0), atol=0.03)
    np.testing.assert_allclose(found.p_max[:3], [(all_r.max(1) >= one - 1e-9).mean() for one in observed], atol=0.03)
    assert found.p[3] == found.p_max[3] == 1


def test_the_result_follows_the_seed():
    x, labels, groups = words()
    one, same, other = (group_permutation(x, labels, groups, 99, seed).p for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_rows_of_a_word_are_no_independent_evidence():
    """With no effect, the regression finds far more than 5 % of the neurons; shuffles over words find 5 %."""
    x, labels, groups = words(types=50, each=6, neurons=1500, shared=2.0, seed=4)
    assert (logistic(x, labels).p < 0.05).mean() > 0.25
    assert (group_permutation(x, labels, groups, 199, seed=0).p <= 0.05).mean() == pytest.approx(0.05, abs=0.02)


def test_within_blocks_the_labels_of_a_pair_change_places_only():
    groups, labels = np.repeat(np.arange(10), 3), np.repeat(np.arange(10) % 2, 3)
    blocks = groups // 2
    random, swapped = np.random.default_rng(0), np.zeros(5)
    for _ in range(400):
        shuffled = shuffle_groups(labels, groups, random, blocks)
        of_group = shuffled.reshape(10, 3)
        assert (of_group == of_group[:, :1]).all()
        assert (of_group[::2, 0] + of_group[1::2, 0] == 1).all()
        swapped += of_group[::2, 0]
    np.testing.assert_allclose(swapped / 400, 0.5, atol=0.1)


def test_within_blocks_p_is_the_share_of_all_swaps():
    groups, labels = np.repeat(np.arange(12), 2), np.repeat(np.arange(12) % 2, 2)
    blocks, random = groups // 2, np.random.default_rng(1)
    x = random.normal(size=(24, 4)) + 3 * (blocks[:, None] - 3) + labels[:, None] * np.array([0, 0.5, 1, 2])
    every = [labels ^ np.array(swap)[blocks] for swap in product((0, 1), repeat=6)]
    r = np.array([[abs(np.corrcoef(x[:, neuron], one)[0, 1]) for neuron in range(4)] for one in every])
    found = group_permutation(x, labels, groups, 4000, seed=2, blocks=blocks)
    np.testing.assert_allclose(found.p, (r >= r[0] - 1e-9).mean(0), atol=0.03)
    np.testing.assert_allclose(found.p_max, [(r.max(1) >= one - 1e-9).mean() for one in r[0]], atol=0.03)


@pytest.mark.parametrize(("sizes", "count"), [((4, 4), 35), ((4, 5), 126), ((5, 4), 126), ((1, 3), 4)])
def test_few_splits_are_all_of_them_once_and_the_given_one_is_the_first(sizes, count):
    labels = np.random.default_rng(1).permutation(np.repeat([0, 1], sizes))
    splits = splits_of_groups(labels, 20, seed=0)
    np.testing.assert_array_equal(splits[0], labels)
    assert splits.shape == (count, sum(sizes))
    assert (splits.sum(1) == sizes[1]).all()
    same = {tuple(split) for split in splits} | (
        {tuple(1 - split) for split in splits} if sizes[0] == sizes[1] else set()
    )
    assert len(same) == count * (1 + (sizes[0] == sizes[1]))


def test_many_splits_are_random_ones():
    labels = np.repeat([0, 1], (8, 9))
    splits = splits_of_groups(labels, 20, seed=0)
    assert splits.shape == (21, 17)
    np.testing.assert_array_equal(splits[0], labels)
    assert (splits.sum(1) == 9).all()
    assert len({tuple(split) for split in splits}) > 15
