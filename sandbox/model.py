"""What may be asked for in rounds of secure sums: a fit, a training, an evaluation, contributions. Values that a gate can judge."""

from __future__ import annotations

from .assessment import Contribution, Evaluation
from .fit import Fit
from .training import Training

Model = Fit | Training | Evaluation | Contribution


def rows_of(model: Model) -> Fit | Training:
    """The fit or training whose rows take part."""
    match model:
        case Evaluation(of=of):
            return of
        case Contribution(fit=fit):
            return fit
    return model


def analysis(model: Model) -> str:
    """What kind of question it is, as owners' policies name it."""
    match model:
        case Evaluation(by_department=by_department):
            return "evaluation_by_department" if by_department else "evaluation"
        case Contribution():
            return "contribution"
    return "fit" if isinstance(model, Fit) else "training"
