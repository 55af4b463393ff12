"""Learning curves: what each round of a training showed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from sandbox.errors import ParameterError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class Point(msgspec.Struct, frozen=True):
    """One round: the joint validation metric of the weights that it began with, if it was taken, and who took part."""

    round: int
    departments: int
    size: float | None = None
    loss: float | None = None
    accuracy: float | None = None
    seconds: float = 0.0


class History(msgspec.Struct, frozen=True):
    """All rounds, and why the training ended, once it has. `best` is the round that began with the weights that are kept."""

    points: tuple[Point, ...] = ()
    stopped: str = ""
    best: int | None = None

    def frame(self) -> pd.DataFrame:
        """One row a round."""
        import pandas as pd

        return pd.DataFrame([msgspec.structs.asdict(point) for point in self.points])

    def plot(self) -> Figure:
        """Validation loss, and accuracy where there is one, by round; with neither, the size of each joint update."""
        try:
            import matplotlib.pyplot as plt
        except ImportError:
            raise ParameterError("plot() needs matplotlib: pip install 'joint-sandbox[notebook]'") from None

        fields = [
            field
            for field in ("loss", "accuracy")
            if any(getattr(point, field) is not None for point in self.points)
        ]
        names = {
            "loss": "validation loss",
            "accuracy": "validation accuracy",
            "size": "norm of the joint update",
        }
        fields = fields or ["size"]
        figure, axes = plt.subplots(
            1, len(fields), figsize=(4.6 * len(fields), 3.2), squeeze=False, layout="constrained"
        )
        for axis, field in zip(axes[0], fields, strict=True):
            drawn = [(p.round, getattr(p, field)) for p in self.points if getattr(p, field) is not None]
            axis.plot([x for x, _ in drawn], [y for _, y in drawn], ".-", color="#2f6f9f")
            if self.best is not None:
                axis.axvline(self.best, color="#999999", linewidth=1, linestyle=":")
            axis.set_xlabel("round")
            axis.set_title(names[field], fontsize=10)
            axis.spines[["top", "right"]].set_visible(False)
        plt.close(figure)  # the caller shows it: a notebook would otherwise show it twice
        return figure
