"""What a learner is: a state machine over secure sums. The coordinator shows a state, departments answer with sums, the joint sum gives the next.

    start()                    the state before any sum, from the request and the schema alone
    shown(state)               what departments are sent of it
    layout(state)              the sums of this round: how many, and what one row can add to each
    local(state, rows)         a department's sums
    update(state, joint)       the next state, or the fitted model

Both sides make the learner from the same `Fit` and schema. A state is a frozen value that can be sent and logged; whoever is shown it learns all that
the earlier joint sums gave away, and `leakage` says what that is. States hold no row and no department's own sum.

The first round of all exact learners is that of `moments`. Every later one counts the rows again, so that sums over other rows, since a department
vanished or its data changed, are found out. Coefficients are given back in the units of the data.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from sandbox import fit as f
from sandbox.catalog import Schema
from sandbox.design_matrix import Design, Rows, design
from sandbox.disclosure import Rules
from sandbox.errors import Denied, DepartmentFailed

from . import moments
from .layout import Layout, Part, Sums, whole
from .moments import Moments


class State(msgspec.Struct, frozen=True, tag_field="state"):
    """Base of what the coordinator shows departments each round."""


class Start(State, frozen=True, tag="start"):
    """Nothing is known yet."""


class Learner:
    """Base of exact learners. `parties` departments have at most `schema.max_rows` rows each."""

    leakage: str

    def __init__(self, fit: f.Fit, schema: Schema, parties: int):
        self.fit, self.schema, self.parties = fit, schema, parties
        self.design: Design = design(fit, schema)
        target = self.design.target
        self.low = np.append(self.design.low, target.low) if target else self.design.low
        self.high = np.append(self.design.high, target.high) if target else self.design.high

    def start(self) -> State:
        return Start()

    def layout(self, state: Any) -> Layout:
        """The sums of the round that `state` begins."""
        if isinstance(state, Start):
            return moments.layout(self.design, self.schema.max_rows * self.parties)
        return Layout((whole("rows", 1), *self.parts(state)), state.moments.rows)

    def local(self, state: Any, rows: Rows) -> Sums:
        """A department's own sums: not fit to leave but masked."""
        if isinstance(state, Start):
            return moments.local(self.design, rows)
        return [np.array([len(rows)]), *self.sums(state, rows)]

    def update(self, state: Any, joint: Sums, rules: Rules | None = None) -> Any:
        """The next state, or the model.

        Under `rules` the counts of the first round are looked at before anything else is told of it: raises `Denied`, of none as of few. Raises `QueryError` where the joint sums show that there is none, `DepartmentFailed` where they are not of the first round's rows.
        """
        if isinstance(state, Start):
            if rules is not None and (
                reasons := self._refused(moments.counted(self.design, joint[0]), rules)
            ):
                raise Denied(reasons)
            return self.begin(moments.update(self.design, joint))
        if joint[0][0] != state.moments.rows:
            raise DepartmentFailed(
                "other rows take part than in the first round: a department vanished, or its data changed; the fit starts anew"
            )
        return self.advance(state, joint[1:])

    def shown(self, state: Any) -> Any:
        """What departments are sent of a state: all of it, but for what a learner keeps at the coordinator."""
        return state

    # --- what each learner has of its own: rounds after the first ---

    def begin(self, found: Moments) -> Any:
        """What follows the first round."""
        raise NotImplementedError

    def parts(self, state: Any) -> tuple[Part, ...]:
        """The sums of a later round."""
        raise NotImplementedError

    def sums(self, state: Any, rows: Rows) -> Sums:
        """A department's own."""
        raise NotImplementedError

    def advance(self, state: Any, joint: Sums) -> Any:
        """What follows from the joint ones."""
        raise NotImplementedError

    @property
    def parameters(self) -> int:
        """How many numbers are fitted."""
        return len(self.design.columns) + 1

    def moments(self, state: Any) -> Moments | None:
        """What the first round gave, once it has."""
        return getattr(state, "moments", None)

    def refusals(self, state: Any, rules: Rules) -> tuple[str, ...]:
        """Why disclosure control ends the fit here, if it does; to be asked of every state."""
        found = self.moments(state)
        if found is None:
            return ()
        return self._refused(found, rules)

    def _refused(self, found: Moments, rules: Rules) -> tuple[str, ...]:
        return moments.refusals(self.design, found, self.parameters, rules)
