"""What a join will do, in words and numbers, and who learns what of it."""

from __future__ import annotations

from collections.abc import Mapping

from mpc import bits, cuckoo
from mpc.engine.operations import needs_of
from mpc.engine.party import dealt_bytes
from mpc.join import Question
from mpc.join.question import plan_for
from mpc.join.table import MOST_ROWS, padded
from sandbox.joining.earlier import Earlier
from sandbox.joining.products import apart
from sandbox.joining.wide import Wide
from sandbox.plan import Plan
from sandbox.request import Request

from . import question as asking


def expected(
    request: Request, plan: Plan, wide: Wide, earlier: tuple[Earlier, ...]
) -> tuple[tuple[str, ...], int, int]:
    """The steps, how many rounds they take, and at most how many bytes: those of tables as large as they are declared to be."""
    pieces = apart(request, plan, wide)
    questions = [asking.question(pieces, wide, noise=request.privacy is not None)]
    if request.privacy is None and earlier:
        questions.append(asking.question(asking.compared(plan, earlier, wide)[0], wide, noise=False))
    capacities = {name: padded(min(part.max_rows, MOST_ROWS)) for name, part in wide.parts.items()}
    costs = [_cost(asked, capacities) for asked in questions]
    probe, *tables = wide.departments
    noise = "" if request.privacy is None else " and its share of discrete Gaussian noise, blinded too"
    compared = (
        " Where exact releases of this joined table came before, a join of counts alone comes first: how many people the new cells share "
        "with theirs; a difference of too few ends it, and nothing is spent."
        if request.privacy is None
        else ""
    )
    columns = "; ".join(
        f"{name} {len(local.marks)} yes/no columns and {len(local.words)} numbers a row"
        for name, local in pieces.locals.items()
    )
    steps = (
        f"{', '.join(wide.departments)} each decide; one no ends it, and nothing is spent.{compared}",
        f"Each computes what is of its own columns alone, in its own database, and says how many rows it has, padded: {columns}.",
        f"Each charges its privacy ledger and writes the charge into its audit log. {' and '.join(tables)} send the coordinator their tables in "
        f"hashed bins, blinded and in a secret order{noise}; {tables[0]} deals random numbers for the computation.",
        f"{probe} sends the bins in which its people would be. The coordinator and {probe} now hold shares of who matched and of the columns, and "
        f"compute {len(pieces.terms)} sums of products on them; the coordinator alone opens the sums.",
        "Every department's disclosure rules are applied to the joint values, and the statistics are derived."
        if request.privacy is None
        else "The statistics and their intervals are derived from the noisy joint sums.",
        "Each logs the release, and signs its part of the receipt.",
    )
    return steps, 2 + sum(rounds for rounds, _ in costs), sum(size for _, size in costs)


def leakage(request: Request, wide: Wide, here: bool, sizes: Mapping[str, int]) -> tuple[str, ...]:
    """Who learns what. `sizes`: the padded sizes of the tables, where they are known."""
    plan = asking.plan_of(request, wide)
    told = ", ".join(f"{name} {sizes[name]:,}" for name in wide.departments if name in sizes)
    sums = f"{len(plan.components)} sums in each of {plan.cells} cells"
    if request.model is not None:
        sums = "the number of rows, and sums of columns and of products of two"
    if plan.leaves:
        sums += f" and {sum(leaf.bins for leaf in plan.leaves)} counts for quantiles in each"
    lines = [
        f"Each department ({', '.join(wide.departments)}) learns the request, who takes part, and the padded number of rows of each table"
        f"{f' ({told})' if told else ''}; nothing of the others' rows, nor which of its own people they know.",
        "The coordinator learns those sizes and, of the joined table, sums alone: not who is in it, nor in which table anybody is. This holds for "
        "each department and the coordinator by itself, as long as all follow the protocol and no two of them pool what they see.",
    ]
    if request.privacy is None:
        lines += [
            f"What the coordinator sees is joint: {sums}, also of cells that are then suppressed, and how many people its cells share with "
            "those of earlier exact releases of this joined table.",
            "The analyst sees the values that pass every department's disclosure rules. A department that knows its own column may learn from an "
            "exact sum of it something about which of its people the others know: exact values give no differential privacy.",
        ]
    else:
        lines += [
            f"What the coordinator sees is noisy and joint: {sums}.",
            f"Whatever anyone computes from it is ({request.privacy.epsilon:g}, {request.privacy.delta:g})-differentially private per person, "
            "as long as no more than one department gives its noise away.",
        ]
    if here:
        lines.append(
            "Here the coordinator runs in the analyst's own process, and so the analyst could look at what it sees."
        )
    else:
        lines.append(
            "The coordinator keeps the request and its release for its analyst, for a month; no other analyst can read them."
        )
    return tuple(lines)


def _cost(asked: Question, capacities: Mapping[str, int]) -> tuple[int, int]:
    """Rounds and bytes of one join."""
    plan = plan_for(asked, capacities)
    depth: list[int] = []
    opened = 0
    for node in plan.nodes:
        needs = needs_of(plan, node)
        depth.append(len(needs) + max((depth[i] for i in node.inputs), default=0))
        opened += sum(part.words for need in needs for part in need.random)
    size = dealt_bytes(plan) + 2 * 8 * opened
    for table in asked.tables:
        columns = asked.columns[table]
        width = 1 + bits.words_for(columns.flags) + len(columns.bounds)
        size += 8 * cuckoo.bins_for(capacities[table]) * width + 12 * capacities[asked.probe]
    return 3 + -(-max(depth) // 2), size
