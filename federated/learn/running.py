"""A learner run to its end over a function that adds words securely. What a broker does round by round, without its network and gates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .learner import Learner, State

Words = NDArray[np.uint64]
SecureSum = Callable[[Any, int], Words]


def run(learner: Learner, secure_sum: SecureSum, check: Callable[[Any], None] = lambda _state: None) -> Any:
    """The model. `secure_sum(state, words)` has every department encode its sums of `state` and returns their sum modulo 2^64.

    `check` is shown each state before it goes out, and raises where the fit must end.
    """
    state = learner.start()
    while isinstance(state, State):
        check(state)
        layout = learner.layout(state)
        joint = secure_sum(state, layout.words(learner.parties))
        state = learner.update(state, layout.decode(joint, learner.parties))
    return state
