"""Joined sums equal those of pandas over the merged tables, for tables of every kind."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from join_sides import NAMES, PROBE, Join

from mpc.errors import OutOfRange, Overflow
from mpc.join import Column, Less

KEYS = st.one_of(
    st.none(),
    st.sampled_from(["", "Ａ1", "a1", "王小明", "é", "e\u0301", "x" * 40, " a1 ", "ß", "SS"]),
    st.integers(0, 12).map(str),
)


def flag(name, number):
    return Column(name, "flag", number)


def word(name, number=0):
    return Column(name, "word", number)


def spelt(keys):
    import unicodedata

    folded = [
        None
        if k is None
        else " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", k).casefold()).split())
        for k in keys
    ]
    return [k or None for k in folded]


def merged(*tables):
    """The inner join over non-null keys; pandas would match nulls."""
    result = None
    for keys, columns in tables:
        frame = pd.DataFrame({"key": pd.Series(spelt(keys), dtype=object), **columns}).dropna(subset=["key"])
        result = frame if result is None else result.merge(frame, on="key")
    return result


@st.composite
def tables(draw):
    found = []
    for _ in range(draw(st.sampled_from([2, 3]))):
        keys = draw(st.lists(KEYS, max_size=20))
        values = draw(st.lists(st.integers(-1000, 1000), min_size=len(keys), max_size=len(keys)))
        found.append((keys, np.array(values, dtype=np.int64)))
    return found


@settings(max_examples=25)
@given(tables())
def test_repeated_keys_nulls_and_unicode(found):
    """Many to many: counts, sums and products, from columns of ones and values."""
    names = [PROBE, "registry", "lab"][: len(found)]
    data = {
        n: (k, (), np.stack([np.ones_like(v), v], axis=1)) for n, (k, v) in zip(names, found, strict=True)
    }
    ones = [word(n, 0) for n in names]
    terms = [tuple(ones)]
    terms += [(*ones[:i], word(n, 1), *ones[i + 1 :]) for i, n in enumerate(names)]
    terms += [tuple(word(n, 1) for n in names)]
    join = Join(data, terms, unique=dict.fromkeys(names, False), bounds={n: [100, 10**5] for n in names})
    frame = merged(*((k, {f"v{i}": v}) for i, (k, v) in enumerate(found)))
    values = [frame[f"v{i}"] for i in range(len(found))]
    expected = [len(frame), *(v.sum() for v in values), np.prod(values, axis=0).sum()]
    assert join.run() == expected


def unique_tables(seed, sizes, overlap):
    """Keys and three columns a table: group, value, flag."""
    random = np.random.default_rng(seed)
    pool = random.permutation(4 * sum(sizes) + 8)
    common, rest = pool[: min(sizes)], iter(pool[min(sizes) :])
    made = []
    for size in sizes:
        shared = int(overlap * min(sizes))
        keys = np.concatenate([common[:shared], [next(rest) for _ in range(size - shared)]]).astype(int)
        random.shuffle(keys)
        made.append(
            (keys, random.integers(0, 3, size), random.integers(-500, 500, size), random.random(size) < 0.5)
        )
    return made


@pytest.mark.parametrize("overlap", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("sizes", [(0, 1), (1, 1), (1, 0), (300, 200), (1, 10_001), (10_001, 1)])
def test_groups_and_filters_of_two_departments(sizes, overlap):
    """Count and sum by A's group and B's flag, over rows that A's filter keeps; both sides' sizes off by 10^4."""
    (keys_a, group, weight, kept), (keys_b, _, value, choice) = unique_tables(len(sizes), sizes, overlap)
    groups = group[:, None] == np.arange(3)
    data = {
        "registry": (np.where(kept, keys_a, None), groups, weight[:, None]),
        PROBE: (keys_b, np.stack([choice, ~choice], axis=1), np.stack([value, value * choice], axis=1)),
    }
    terms = [(flag("registry", g), flag(PROBE, c)) for g in range(3) for c in range(2)]
    terms += [(flag("registry", g), word(PROBE, 1)) for g in range(3)]
    terms += [
        (word("registry"), word(PROBE)),
        (),
        (flag(PROBE, 0),),
        (word("registry"),),
        (word("registry"), flag("registry", 1)),
    ]
    a = pd.DataFrame({"key": keys_a, "g": group, "w": weight})[kept]
    m = a.merge(pd.DataFrame({"key": keys_b, "v": value, "c": choice}), on="key")
    expected = [int(((m.g == g) & (m.c == (c == 0))).sum()) for g in range(3) for c in range(2)]
    expected += [int((m.v * m.c)[m.g == g].sum()) for g in range(3)]
    expected += [int((m.w * m.v).sum()), len(m), int(m.c.sum()), int(m.w.sum()), int(m.w[m.g == 1].sum())]
    assert Join(data, terms).run() == expected


@pytest.mark.parametrize("overlap", [0.0, 1.0])
def test_a_star_of_three_tables_with_a_comparison_between_departments(overlap):
    (ka, ga, va, _), (kb, _, vb, fb), (kc, _, vc, fc) = unique_tables(5, (400, 300, 350), overlap)
    data = {
        "registry": (ka, ga[:, None] == np.arange(3), va[:, None]),
        "lab": (kc, fc[:, None], vc[:, None]),
        PROBE: (kb, fb[:, None], vb[:, None]),
    }
    under = Less(word("registry"), word(PROBE))
    terms = [(flag("registry", g), flag("lab", 0), word(PROBE)) for g in range(3)]
    terms += [
        (under,),
        (under, word("lab"), flag(PROBE, 0)),
        (word("registry"), word("lab"), word(PROBE)),
        (),
    ]
    m = pd.DataFrame({"key": ka, "g": ga, "a": va}).merge(
        pd.DataFrame({"key": kb, "b": vb, "fb": fb}), on="key"
    )
    m = m.merge(pd.DataFrame({"key": kc, "c": vc, "fc": fc}), on="key")
    less = m.a < m.b
    expected = [int((m.b * m.fc)[m.g == g].sum()) for g in range(3)]
    expected += [int(less.sum()), int((less * m.c * m.fb).sum()), int((m.a * m.b * m.c).sum()), len(m)]
    assert Join(data, terms).run() == expected


def test_more_than_64_flags_and_values_at_their_bounds():
    keys, districts = np.arange(70), np.arange(70)
    bound = 2**62 // 2048 - 1
    data = {
        "registry": (keys, districts[:, None] == np.arange(70), np.where(keys % 2, bound, -bound)[:, None]),
        PROBE: (keys[::-1], (), ()),
    }
    terms = [(flag("registry", d),) for d in range(70)] + [
        (word("registry"),),
        (word("registry"), flag("registry", 3)),
    ]
    assert Join(data, terms, bounds={"registry": [bound]}).run() == [1] * 70 + [0, bound]


def test_a_sum_that_could_overflow_is_refused_before_anything_is_sent():
    data = {"registry": ([1], (), [[5]]), PROBE: ([1], (), [[5]])}
    join = Join(data, [(word("registry"), word(PROBE))], bounds={"registry": [2**30], PROBE: [2**30]})
    with pytest.raises(Overflow, match="term"):
        join.hellos()
    outside = Join(data, [(word("registry"),)], bounds={"registry": [4]})
    with pytest.raises(Overflow, match="words"):
        outside.hellos()


def test_what_repeated_keys_forbid_is_refused():
    data = {"registry": ([1, 1], (), [[5], [6]]), PROBE: ([1], (), [[5]])}
    with pytest.raises(OutOfRange, match="unique"):
        Join(data, [()]).hellos()
    loose = {"registry": False}
    for terms in (
        [()],
        [(word("registry"), word("registry"))],
        [(Less(word("registry"), word(PROBE)), word("registry"))],
    ):
        with pytest.raises(OutOfRange):
            Join(data, terms, unique=loose).hellos()
    assert Join(data, [(word("registry"), word(PROBE))], unique=loose).run() == [55]


def test_noise_of_every_department_is_in_the_sums():
    noise = {
        name: (lambda terms, n=n: np.arange(terms) * n)
        for n, name in ((1, PROBE), (10, "registry"), (100, "lab"))
    }
    data = {name: ([1, 2], (), ()) for name in noise}
    assert Join(data, [(), (), ()], noise=noise).run() == [2, 2 + 111, 2 + 222]


def test_sums_are_scaled_before_the_noise():
    noise = {name: lambda terms: np.ones(terms, dtype=np.int64) for name in NAMES}
    data = {name: ([1, 2], (), ()) for name in noise}
    assert Join(data, [(), ()], noise=noise, scales=(10, 1000)).run() == [20 + 3, 2000 + 3]
