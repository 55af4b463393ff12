"""Scaler, components, clusters and naive Bayes over departments are scikit-learn's on the pooled rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import sklearn.cluster
import sklearn.decomposition
import sklearn.naive_bayes
import sklearn.preprocessing
from pooling import Departments, declared, request, split

from federated.learn import estimators
from sandbox import disclosure
from sandbox import fit as f
from sandbox.errors import ParameterError, QueryError

NUMBERS = ("visits", "hospital", "chronic", "school", "income")


def matrix_of(joint, fit):
    return np.vstack([part.matrix for part in joint.rows(estimators.exact(fit, joint.schema, len(joint)))])


def test_scaler(care):
    fit = request(f.StandardScaler(), (*NUMBERS, "gender"))
    own, theirs = care.fit(fit).to_sklearn(), sklearn.preprocessing.StandardScaler()
    matrix = matrix_of(care, fit)
    theirs.fit(matrix)
    np.testing.assert_allclose(own.mean_, theirs.mean_, rtol=1e-12)
    np.testing.assert_allclose(own.var_, theirs.var_, rtol=1e-9)
    np.testing.assert_allclose(own.transform(matrix), theirs.transform(matrix), rtol=1e-6, atol=1e-10)
    assert care.rounds == 1
    np.testing.assert_allclose(care.fit(fit).predict(matrix), theirs.transform(matrix), rtol=1e-6, atol=1e-10)


def test_a_constant_column_is_left_at_scale_1():
    frame = pd.DataFrame({"x": np.arange(9.0), "c": 3.25})
    joint = Departments(
        declared(frame, slack=1) | {"c": declared(frame.assign(c=[0.1] * 8 + [9.0]))["c"]},
        split(frame, "wild"),
    )
    own = joint.fit(request(f.StandardScaler(), ("x", "c"))).to_sklearn()
    np.testing.assert_array_equal(own.scale_[1], sklearn.preprocessing.StandardScaler().fit(frame).scale_[1])


@pytest.mark.parametrize("components", [2, None])
def test_components(care, components):
    fit = request(f.PCA(components), NUMBERS)
    matrix = matrix_of(care, fit)
    own, theirs = care.fit(fit).to_sklearn(), sklearn.decomposition.PCA(components).fit(matrix)
    for name in (
        "components_",
        "explained_variance_",
        "explained_variance_ratio_",
        "singular_values_",
        "mean_",
    ):
        np.testing.assert_allclose(getattr(own, name), getattr(theirs, name), rtol=1e-6, atol=1e-9)
    assert own.noise_variance_ == pytest.approx(theirs.noise_variance_, rel=1e-6)
    np.testing.assert_allclose(own.transform(matrix), theirs.transform(matrix), rtol=1e-6, atol=1e-6)
    assert care.rounds == 2


def test_more_components_than_columns_are_refused(care):
    with pytest.raises(QueryError, match="'n_components' is 9; 5 columns allow at most 5"):
        care.fit(request(f.PCA(9), NUMBERS))
    with pytest.raises(ParameterError, match="'missing'"):
        care.fit(request(f.PCA(2), NUMBERS, missing="indicator"))


def test_clusters_from_given_centres(care):
    init = ((1.0, 0.0, 0.0, 8.0, 1.0), (20.0, 1.0, 3.0, 12.0, 2.0), (5.0, 0.0, 1.0, 16.0, 10.0))
    fit = request(f.KMeans(3, init), NUMBERS)
    matrix = matrix_of(care, fit)
    theirs = sklearn.cluster.KMeans(3, init=np.array(init), n_init=1, algorithm="lloyd").fit(matrix)
    model = care.fit(fit)
    np.testing.assert_allclose(model.centers, theirs.cluster_centers_, rtol=1e-6)
    assert model.inertia == pytest.approx(theirs.inertia_, rel=1e-9)
    assert model.iterations == theirs.n_iter_
    assert model.sizes == tuple(np.bincount(theirs.labels_))
    np.testing.assert_array_equal(model.to_sklearn().predict(matrix), theirs.labels_)
    np.testing.assert_array_equal(model.predict(matrix), theirs.labels_)


def test_first_centres_follow_from_seed_and_moments_alone(care):
    first, again, other = (care.fit(request(f.KMeans(3, random_state=s), NUMBERS)) for s in (1, 1, 2))
    assert first == again
    assert first.centers != other.centers


def test_clusters_of_few_rows_are_told(care):
    model = care.fit(request(f.KMeans(40, random_state=1), NUMBERS))
    learner = estimators.exact(request(f.KMeans(40, random_state=1), NUMBERS), care.schema, len(care))
    reasons = learner.refusals(model, disclosure.RULES["general-2"])
    assert bool(reasons) is (min(model.sizes) < 10)
    assert min(model.sizes) < 10


def test_more_clusters_than_rows_are_refused():
    frame = pd.DataFrame({"x": np.arange(9.0)})
    with pytest.raises(QueryError, match="more than there are rows"):
        Departments(declared(frame), split(frame, "thirds")).fit(request(f.KMeans(10), ("x",)))


@pytest.mark.parametrize("target", ["insurance", "gender", "chronic"])
def test_naive_bayes(care, target):
    fit = request(f.GaussianNB(), tuple(name for name in NUMBERS if name != target), target)
    rows = care.rows(estimators.exact(fit, care.schema, len(care)))
    matrix, classes = np.vstack([r.matrix for r in rows]), np.concatenate([r.target for r in rows])
    theirs = sklearn.naive_bayes.GaussianNB().fit(matrix, classes)
    model = care.fit(fit)
    own = model.to_sklearn()
    np.testing.assert_allclose(own.theta_, theirs.theta_, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(own.var_, theirs.var_, rtol=1e-6)
    np.testing.assert_allclose(own.class_prior_, theirs.class_prior_, rtol=1e-12)
    chances = theirs.predict_proba(matrix)
    np.testing.assert_allclose(own.predict_proba(matrix), chances, rtol=1e-6, atol=1e-12)
    wanted = chances[:, 1] if len(model.classes) == 2 else chances
    np.testing.assert_allclose(model.predict(matrix), wanted, rtol=1e-6, atol=1e-12)
    assert care.rounds == 3


def test_naive_bayes_needs_two_classes():
    frame = pd.DataFrame({"x": np.arange(9.0), "y": True})
    with pytest.raises(QueryError, match="same class"):
        Departments(declared(frame), split(frame, "thirds")).fit(request(f.GaussianNB(), ("x",), "y"))
