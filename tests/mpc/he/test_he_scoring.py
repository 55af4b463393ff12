"""Scores equal the plaintext model's within the derived bound, for random models, shapes and edges; the protocol refuses the rest."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from he_sides import scored
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mpc.errors import Malformed, OutOfOrder, OutOfRange, Replayed, Tampered, WrongLength
from mpc.he import columns, envelope, seal
from mpc.he.circuit import compile_model
from mpc.he.models import (
    Activation,
    Affine,
    Feature,
    Forest,
    Leaf,
    Model,
    Network,
    Split,
    features_of,
    linear,
)
from mpc.he.plan import plan
from mpc.he.scoring import Offer, ScoreClient, ScoreServer, _Block

FEATURES = features_of({"a": (-3, 5), "b": (0, 1e6), "c": (2, 2)})
LINEAR = linear(FEATURES, [1.5, -2e-6, 4.0], 0.25)


def table_of(model, rows, seed):
    """Random admissible rows, the first two at the lower and upper bounds."""
    generator = np.random.default_rng(seed)
    table = {}
    for feature in model.features:
        if feature.levels:
            column = generator.choice(feature.levels, rows)
        else:
            column = generator.uniform(feature.lower, feature.upper, rows)
            column = np.clip(column, feature.lower, feature.upper)
        column[: min(rows, 2)] = (feature.lower, feature.upper)[: min(rows, 2)]
        table[feature.name] = column
    return table


def matrix(table):
    return np.stack(list(table.values()), axis=1)


def check(model, rows, seed, **options):
    table = table_of(model, rows, seed)
    found, _, client = scored(model, table, **options)
    expected = model.predict(matrix(table))
    assert found.shape == expected.shape
    off = np.abs(found - expected)
    if model.link == "exp":
        assert (off <= client.relative_error * expected + 1e-300).all()
    else:
        assert off.max() <= client.error + 1e-12 * np.abs(expected).max()


bounds = st.tuples(st.floats(-1e4, 1e4), st.floats(0, 1e4)).map(lambda pair: (pair[0], sum(pair)))


@st.composite
def linear_models(draw):
    count = draw(st.integers(1, 6))
    features = features_of({f"x{i}": draw(bounds) for i in range(count)})
    size = 10.0 ** draw(st.integers(-6, 3))
    weights = [draw(st.floats(-1, 1)) * size for _ in range(count)]
    link = draw(st.sampled_from(["identity", "logistic"]))
    return linear(features, weights, draw(st.floats(-10, 10)) * size, link)


@st.composite
def networks(draw):
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    inputs, hidden, outputs = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    features = features_of({f"x{i}": (-draw(st.floats(0, 2)), draw(st.floats(0, 2))) for i in range(inputs)})
    first = Affine(
        tuple(map(tuple, generator.normal(size=(hidden, inputs)).tolist())),
        tuple(generator.normal(size=hidden).tolist()),
    )
    last = Affine(
        tuple(map(tuple, generator.normal(size=(outputs, hidden)).tolist())),
        tuple(generator.normal(size=outputs).tolist()),
    )
    function = draw(st.sampled_from(["square", "logistic", "tanh", "silu", "softplus"]))
    return Model(features, Network((first, Activation(function, draw(st.integers(2, 4))), last)))


@st.composite
def forests(draw):
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    features = features_of(None, {f"x{i}": range(draw(st.integers(1, 4))) for i in range(2)})

    def tree(depth):
        if depth == 0 or generator.random() < 0.2:
            return Leaf(float(generator.normal()))
        feature, inclusive = int(generator.integers(2)), bool(generator.random() < 0.5)
        threshold = float(generator.choice([-1, 0, 0.5, 1, 1.5, 2, 7]))
        return Split(feature, threshold, inclusive, tree(depth - 1), tree(depth - 1))

    depth = draw(st.integers(0, 3))
    return Model(
        features,
        Forest(tuple(tree(depth) for _ in range(draw(st.integers(1, 2)))), float(generator.normal())),
    )


@settings(max_examples=180)
@given(linear_models(), st.sampled_from([1, 2, 50, 4095]), st.integers(0, 2**32))
def test_linear_and_logistic_models(model, rows, seed):
    check(model, rows, seed)


@settings(max_examples=40)
@given(networks(), st.integers(2, 100), st.integers(0, 2**32))
def test_networks(model, rows, seed):
    circuit = compile_model(model)
    assume(circuit.deviation < circuit.scale / 2)
    check(model, rows, seed, tolerance=1.0)


@settings(max_examples=40)
@given(forests(), st.integers(1, 100), st.integers(0, 2**32))
def test_trees(model, rows, seed):
    check(model, rows, seed, tolerance=1e-2)


@pytest.mark.parametrize("rows", [1, 4095, 4096, 4097, 8193])
def test_blocks_at_their_edges(rows):
    check(LINEAR, rows, 1)


def test_an_exponential_link():
    check(linear(features_of({"a": (-3, 5)}), [0.5], 1.0, "exp"), 20, 2)


def test_a_link_under_encryption():
    model = linear(features_of({"a": (-3, 5), "b": (-1, 1)}), [0.5, 1.0], -0.5, "logistic")
    encrypted = model.with_encrypted_link(15)
    table = table_of(encrypted, 100, 3)
    found, server, client = scored(encrypted, table)
    assert np.abs(found - model.predict(matrix(table))).max() <= client.error
    assert server.plan.errors.approximation < 1e-4
    assert client.offer.link == "identity"


@pytest.mark.parametrize("constant", [1.0, -1.0, 2.0, 0.0, 1e-300])
def test_models_that_always_say_the_same(constant):
    check(linear(features_of({"a": (-1, 1)}), [0.0], constant), 3, 4)
    check(linear(features_of({"a": (-1, 1)}), [0.0], constant), 4096, 4)


def test_constant_models_and_columns():
    check(linear(features_of({"a": (1, 1), "b": (-1, 1)}), [0.0, 0.0], 0.7), 3, 4)
    constant = Model(features_of(None, {"a": [1, 2]}), Forest((Leaf(2.0),), -0.5))
    check(constant, 3, 4, tolerance=1e-2)


def test_slots_without_a_row_answer_nothing():
    """A block of 3 rows leaves thousands of slots; the answer must not hold the score of an all-middle row in them."""
    server = ScoreServer(linear(features_of({"a": (-1, 1)}), [0.5], 0.25))
    client = ScoreClient(server.offer())
    server.accept_keys(client.keys())
    [block] = client.ask({"a": [0.0, 0.0, 0.0]})
    parameters = client.offer.parameters
    _, _, [part] = envelope.unpack(
        server.score(block),
        "scores",
        parameters,
        None,
        _Block,
        most_part_bytes=parameters.most_ciphertext_bytes,
    )
    slots = columns.decrypt(client._key, columns.read(parameters, part, 0, parameters.scale, "scores"))
    slots *= client.offer.scale
    assert np.abs(slots[:3] - 0.25).max() <= client.error
    assert np.abs(slots[3:]).max() <= client.error
    assert server.rows_answered == 3


# planning


def test_the_cheapest_parameters_are_chosen_and_explained():
    shallow, deep = plan(LINEAR), plan(LINEAR_LOGISTIC.with_encrypted_link(7), tolerance=0.5)
    assert (shallow.parameters.degree, shallow.parameters.levels, shallow.multiplies) == (8192, 1, False)
    assert (deep.parameters.degree, deep.parameters.levels, deep.multiplies) == (16384, 5, True)
    assert "128-bit security" in deep.explain()
    assert "5 levels" in deep.explain()


LINEAR_LOGISTIC = linear(features_of({"a": (-3, 5)}), [1.0], 0.0, "logistic")


def test_plans_that_cannot_hold_are_refused():
    with pytest.raises(OutOfRange, match="polynomials' own error"):
        plan(LINEAR_LOGISTIC.with_encrypted_link(3))
    with pytest.raises(OutOfRange, match="cannot be kept over"):
        plan(LINEAR, tolerance=1e-9)
    layer = Affine(((1.0,),), (0.0,))
    deep = Network((layer, *[Activation("square", 2), layer] * 14))
    with pytest.raises(OutOfRange, match="more than 13 levels"):
        plan(Model(features_of({"a": (-1, 1)}), deep), tolerance=1.0)
    with pytest.raises(OutOfRange, match="tolerance"):
        plan(LINEAR, tolerance=0)


def test_more_flooding_costs_accuracy():
    errors = [plan(LINEAR, flooding_bits=bits).errors for bits in (8, 20)]
    assert errors[1].flooding == pytest.approx(2**12 * errors[0].flooding)
    assert errors[0].evaluation == errors[1].evaluation
    with pytest.raises(OutOfRange, match="flooding bits"):
        plan(LINEAR, flooding_bits=41)


# what the owner of the data may not send by mistake


@pytest.mark.parametrize("value", [-3.0001, 5.0001, np.nan, np.inf])
def test_values_outside_the_declared_bounds_are_refused_by_column(value):
    client = ScoreClient(ScoreServer(LINEAR).offer())
    with pytest.raises(OutOfRange, match=r"a: each value must lie in \[-3, 5\]") as refusal:
        client.ask({"a": [0.0, value], "b": [0, 0], "c": [2, 2]})
    assert str(value) not in str(refusal.value).replace("[-3, 5]", "")


def test_tables_that_do_not_fit_are_refused():
    client = ScoreClient(ScoreServer(LINEAR).offer())
    with pytest.raises(OutOfRange, match="must have the column 'b'"):
        client.ask({"a": [0.0]})
    with pytest.raises(WrongLength, match="b: must have as many rows"):
        client.ask({"a": [0.0], "b": [0, 0], "c": [2]})
    with pytest.raises(OutOfRange, match="a: must be a column of numbers"):
        client.ask({"a": ["x"], "b": [0], "c": [2]})
    with pytest.raises(OutOfRange, match="rows"):
        client.ask({"a": [], "b": [], "c": []} | {k: np.zeros(0) for k in "abc"})


def test_values_that_are_no_level_are_refused():
    model = Model(
        features_of(None, {"a": [0, 1, 5]}), Forest((Split(0, 2, True, Leaf(0.0), Leaf(1.0)),), 0.0)
    )
    client = ScoreClient(ScoreServer(model, tolerance=1e-2).offer())
    with pytest.raises(OutOfRange, match="a: each value must be one of the declared levels"):
        client.ask({"a": [2.0]})


# the protocol


@pytest.fixture
def pair():
    server = ScoreServer(LINEAR)
    client = ScoreClient(server.offer())
    server.accept_keys(client.keys())
    return server, client


ROWS = {"a": [0.0, 1.0], "b": [5.0, 6.0], "c": [2.0, 2.0]}


def test_nothing_is_answered_twice_and_nothing_read_twice(pair):
    server, client = pair
    [block] = client.ask(ROWS)
    answer = server.score(block)
    with pytest.raises(Replayed, match="answered before"):
        server.score(block)
    client.scores(answer)
    with pytest.raises(Replayed, match="answered before"):
        client.scores(answer)
    with pytest.raises(Replayed, match="accepted before"):
        server.accept_keys(client.keys())
    assert server.rows_answered == 2


def test_out_of_order_and_foreign_messages_are_refused(pair):
    server, client = pair
    fresh = ScoreServer(LINEAR)
    [block] = client.ask(ROWS)
    with pytest.raises(OutOfOrder, match="accept_keys"):
        fresh.score(block)
    other = ScoreClient(server.offer())
    [foreign] = other.ask(ROWS)
    with pytest.raises(Tampered, match="another key"):
        server.score(foreign)
    with pytest.raises(Tampered, match="another key"):
        other.scores(server.score(block))
    different = ScoreServer(linear(FEATURES, [1.0, 0.0, 0.0]))
    with pytest.raises(Tampered, match="another offer"):
        different.accept_keys(client.keys())


def test_keys_of_two_secrets_are_refused():
    server = ScoreServer(LINEAR_LOGISTIC.with_encrypted_link(15), tolerance=0.5)
    one, two = ScoreClient(server.offer()), ScoreClient(server.offer())
    a, b = (msgspec.msgpack.decode(client.keys()) for client in (one, two))
    with pytest.raises(Tampered, match="different secret keys"):
        server.accept_keys(msgspec.msgpack.encode([a[0], a[1], b[2]]))
    server.accept_keys(one.keys())


def test_an_answer_outside_of_the_offered_range_is_refused(pair):
    """A server that evaluates something else, with results that the offer excludes."""
    server, client = pair
    [block] = client.ask(ROWS)
    larger = msgspec.structs.replace(
        server.plan,
        circuit=msgspec.structs.replace(
            server.plan.circuit,
            outputs=tuple(
                msgspec.structs.replace(t, weights={}, constant=1.3) for t in server.plan.circuit.outputs
            ),
        ),
    )
    server.plan = larger
    with pytest.raises(Malformed, match="outside the offer's range"):
        client.scores(server.score(block))


def test_ciphertexts_made_to_cancel_out_are_refused():
    """A client that encrypts once and sends the negative as its second column: SEAL will not compute with nothing."""
    server = ScoreServer(linear(features_of({"a": (-1, 1), "b": (-1, 1)}), [0.5, 0.5]))
    client = ScoreClient(server.offer())
    server.accept_keys(client.keys())
    [block] = client.ask({"a": [0.5], "b": [0.5]})
    parameters, fingerprint = client.offer.parameters, client._key.fingerprint
    _, header, parts = envelope.unpack(
        block, "rows", parameters, fingerprint, _Block, most_part_bytes=parameters.most_ciphertext_bytes
    )
    negative = seal.bindings().Ciphertext()
    first = seal.load(seal.bindings().Ciphertext, parameters, parts[0], "rows")
    seal.bindings().Evaluator(seal.context(parameters)).negate(first, negative)
    forged = envelope.pack("rows", parameters, fingerprint, header, [parts[0], seal.dump(negative)])
    with pytest.raises(Malformed, match="not independent"):
        server.score(forged)
    assert server.rows_answered == 0
    server.score(block)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"scale": float("nan")}, "finite"),
        ({"scale": 0.0}, "positive"),
        ({"outputs": 0}, "outputs"),
    ],
)
def test_offers_that_make_no_sense_are_refused(change, match):
    offer = msgspec.structs.replace(msgspec.msgpack.decode(ScoreServer(LINEAR).offer(), type=Offer), **change)
    with pytest.raises(Malformed, match=match):
        ScoreClient(msgspec.msgpack.encode(offer))
    with pytest.raises(Malformed, match="not an offer"):
        ScoreClient(b"\xc1")


def test_an_offer_below_128_bits_is_refused():
    raw = msgspec.msgpack.decode(ScoreServer(LINEAR).offer())
    raw[0] = ["ckks", 8192, [60, 58, 58, 60], 0]
    with pytest.raises(Malformed, match="not an offer"):
        ScoreClient(msgspec.msgpack.encode(raw))


def test_the_offer_says_no_more_than_the_docstring():
    """Two models of the same features and size of outputs make the same offer."""
    features = features_of({"a": (-1, 1), "b": (-1, 1)})
    offers = {ScoreServer(linear(features, w, 0.0)).offer() for w in ([0.6, 0.3], [-0.3, 0.6])}
    assert len(offers) == 1


def test_models_that_make_no_sense_are_refused():
    features = features_of({"a": (-1, 1)})
    for body, match in (
        (Network((Activation("tanh", 3), Affine(((1.0,),), (0.0,)))), "begin with an affine"),
        (Network((Affine(((1.0, 2.0),), (0.0,)),)), "must take 1 values"),
        (Network((Affine(((float("nan"),),), (0.0,)),)), "finite"),
        (Forest((Split(0, 0.0, True, Leaf(0.0), Leaf(1.0)),), 0.0), "must declare levels"),
        (Forest((Split(3, 0.0, True, Leaf(0.0), Leaf(1.0)),), 0.0), "not there"),
    ):
        with pytest.raises(OutOfRange, match=match):
            Model(features, body)
    with pytest.raises(OutOfRange, match="bounds"):
        Feature("a", 1, 0)
    with pytest.raises(OutOfRange, match="sorted"):
        Feature("a", 0, 1, (1.0, 0.0))
