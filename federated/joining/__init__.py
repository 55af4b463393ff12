"""One table whose columns live at several departments: what they do together. `sandbox.joining` is what each does alone.

    offered    what `city.join(…)` gives: the joined table, from what the departments offer
    question   a request -> the `mpc.join.Question` that every party makes for itself, and sums -> the plan's vector
    sides      a department's end: the gate's word, then blinded shares
    spelling   whether each person has one, checked at the owner as a node starts
    driving    the coordinator's end: hello, tables, probe, turns
    regression least squares from the sums
    telling    what a join will do, and who learns what of it
    demo       a registry, a laboratory and a hospital with real people

`mpc.join` says who learns what: the coordinator the sums and padded sizes, no one who is in which table.
"""
