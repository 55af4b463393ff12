import itertools
import secrets
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpc import shamir
from mpc.errors import OutOfRange


@given(st.binary(min_size=32, max_size=32), st.integers(1, 9), st.data())
@settings(max_examples=60, deadline=None)
def test_any_threshold_of_shares_recovers(secret, n, data):
    threshold = data.draw(st.integers(1, n))
    shares = shamir.split(secret, threshold, n, secrets.token_bytes)
    points = data.draw(st.permutations(range(1, n + 1)))[:threshold]
    assert shamir.combine({p: shares[p - 1] for p in points}, threshold) == secret


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32])
def test_a_hundred_parties_and_extreme_secrets(secret):
    shares = shamir.split(secret, 67, 100, secrets.token_bytes)
    assert shamir.combine({p: shares[p - 1] for p in range(34, 101)}, 67) == secret


def test_fewer_shares_than_the_threshold_are_uniform():
    """Exhaustive over a field of 7: for either secret, every pair of shares is met by exactly one polynomial."""
    prime, threshold, points = 7, 3, (2, 5)
    for secret in (0, 4):
        seen = Counter(
            tuple(shamir.evaluate([secret, *rest], points, prime))
            for rest in itertools.product(range(prime), repeat=threshold - 1)
        )
        assert set(seen.values()) == {1}
        assert len(seen) == prime ** len(points)


def test_the_modulus_is_the_first_prime_above_two_to_the_256():
    def probably_prime(n):
        odd, twos = n - 1, 0
        while odd % 2 == 0:
            odd, twos = odd // 2, twos + 1
        for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37):
            x = pow(base, odd, n)
            if x not in (1, n - 1) and all((x := x * x % n) != n - 1 for _ in range(twos - 1)):
                return False
        return True

    assert probably_prime(shamir.PRIME)
    assert not any(probably_prime(n) for n in range(2**256 + 1, shamir.PRIME, 2))


def test_wrong_arguments_are_named():
    shares = shamir.split(bytes(32), 2, 3, secrets.token_bytes)
    with pytest.raises(OutOfRange, match=r"secret: must be 32 bytes"):
        shamir.split(bytes(31), 2, 3, secrets.token_bytes)
    for threshold in (0, 4):
        with pytest.raises(OutOfRange, match=r"threshold: must be 1 \.\.\. 3"):
            shamir.split(bytes(32), threshold, 3, secrets.token_bytes)
    with pytest.raises(OutOfRange, match="exactly 2"):
        shamir.combine({1: shares[0]}, 2)
    for bad in (shares[1][:-1], shamir.PRIME.to_bytes(33, "little")):
        with pytest.raises(OutOfRange, match="share"):
            shamir.combine({1: shares[0], 2: bad}, 2)
    with pytest.raises(OutOfRange, match="meet in a secret"):
        shamir.combine({1: (2**256).to_bytes(33, "little")}, 1)
