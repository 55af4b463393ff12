"""A frame under encryption: means, sums and scores equal pandas' within the stated error; what it shows of itself."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest

from federated.encrypted_frame import EncryptedFrame
from mpc.errors import OutOfRange, Overflow, Tampered
from mpc.he.keys import SecretKey
from mpc.he.models import Activation, Affine, Model, Network, features_of, linear

BOUNDS = {"age": (18, 75), "income": (0, 200_000), "same": (3, 3)}


def applicants(rows):
    generator = np.random.default_rng(rows)
    frame = pd.DataFrame(
        {
            "age": generator.uniform(18, 75, rows),
            "income": generator.uniform(0, 200_000, rows),
            "same": 3.0,
            "name": "somebody",
        }
    )
    frame.loc[0, ["age", "income"]] = 75, 0
    return frame


@pytest.fixture(scope="module")
def sealed():
    frame = applicants(9000)
    return frame, *EncryptedFrame.encrypt(frame, bounds=BOUNDS)


@pytest.mark.parametrize("rows", [1, 8192, 8193])
def test_means_sums_and_scores_at_the_edges_of_a_block(rows):
    frame = applicants(rows)
    encrypted, key = EncryptedFrame.encrypt(frame, bounds={"age": (18, 75)}, levels=1)
    mean, total = encrypted.mean(), encrypted.sum()
    assert abs(mean.decrypt(key)["age"] - frame["age"].mean()) <= mean.error["age"]
    assert abs(total.decrypt(key)["age"] - frame["age"].sum()) <= total.error["age"]
    score = encrypted.score({"age": 0.5}, intercept=1)
    found = score.decrypt(key)
    assert len(found) == rows
    assert np.abs(found["score"] - (0.5 * frame["age"] + 1)).max() <= score.error["score"]


def test_several_columns_and_a_constant_one(sealed):
    frame, encrypted, key = sealed
    mean = encrypted.mean()
    off = (mean.decrypt(key) - frame[list(BOUNDS)].mean()).abs()
    assert (off <= pd.Series(mean.error) + 1e-9).all()
    assert mean.error["income"] < 1e-4


def test_models_as_far_as_levels_suffice(sealed):
    frame, encrypted, key = sealed
    model = linear(features_of(BOUNDS), [0.02, 1e-5, 0.0], -2.0, "logistic")
    found = encrypted.score(model).decrypt(key)["score"]
    exact = model.predict(frame[list(BOUNDS)].to_numpy())[:, 0]
    assert np.abs(found - exact).max() < encrypted.score(model).error["score"] + 1e-12
    deep = Model(
        features_of(BOUNDS),
        Network((Affine(((0.1, 0.0, 0.0),), (0.0,)), Activation("square", 2), Affine(((1.0,),), (0.0,)))),
    )
    with pytest.raises(Overflow, match="all 2 multiplications in a row are used up"):
        encrypted.score(deep)


def test_it_shows_scheme_size_levels_and_error_but_no_value(sealed):
    frame, encrypted, key = sealed
    text = repr(encrypted)
    assert "CKKS, degree 16384" in text
    assert "MB, 2 levels left, each value to" in text
    assert "9000 rows: age, income, same" in text
    explained = encrypted.explain()
    assert "rotations by 1, 2, 4" in explained
    assert "age: in [18, 75]" in explained
    assert "1 level left" in repr(encrypted.mean())
    assert len(encrypted) == 9000
    shown = text + explained + repr(encrypted.mean()) + repr(key)
    assert not any(f"{value:.3f}" in shown for value in frame["age"][:100])


def test_the_frame_holds_no_secret_key(sealed):
    _, encrypted, key = sealed
    held, seen = [encrypted], []
    while held:
        thing = held.pop()
        assert not isinstance(thing, SecretKey)
        if id(thing) in seen or not (hasattr(thing, "__dict__") or isinstance(thing, (list, tuple))):
            continue
        seen.append(id(thing))
        held += list(thing) if isinstance(thing, (list, tuple)) else list(vars(thing).values())
    with pytest.raises(OutOfRange, match="never pickled"):
        pickle.dumps({"frame": encrypted, "key": key})


def test_published_results_carry_noise_and_the_rest_of_the_frame_is_untouched(sealed):
    frame, encrypted, key = sealed
    before = encrypted.mean().decrypt(key)
    shown = encrypted.mean().publishable(key)
    assert (shown != before).all()
    assert abs(shown["age"] - frame["age"].mean()) < 1
    assert encrypted.mean().decrypt(key)["age"] == pytest.approx(before["age"], abs=1e-6)


def test_what_is_refused(sealed):
    frame, encrypted, _ = sealed
    with pytest.raises(Tampered, match="another key"):
        encrypted.mean().decrypt(SecretKey.generate(encrypted._key.parameters))
    with pytest.raises(OutOfRange, match=r"age: each value must lie in \[20, 75\]"):
        EncryptedFrame.encrypt(frame, bounds={"age": (20, 75)})
    with pytest.raises(OutOfRange, match="must have the column 'height'"):
        EncryptedFrame.encrypt(frame, bounds={"height": (0, 3)})
    with pytest.raises(OutOfRange, match="name: must be a column of numbers"):
        EncryptedFrame.encrypt(frame, bounds={"name": (0, 3)})
    with pytest.raises(OutOfRange, match="one row or more"):
        EncryptedFrame.encrypt(frame[:0], bounds={"age": (18, 75)})
    with pytest.raises(OutOfRange, match="not there: height"):
        encrypted.score({"height": 1.0})
    with pytest.raises(OutOfRange, match="of this frame's columns and bounds"):
        encrypted.score(linear(features_of({"age": (0, 75)}), [1.0]))
