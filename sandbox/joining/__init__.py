"""One table whose columns live at several departments: what one owner does for it. `federated.joining` is what they do together.

    declared    which tables an owner lets a table be joined with, and its view of a person who has several rows
    wide        the joined table's schema, and whose each of its columns is
    conditions  whose each condition of a filter is, and what is left to compare between two departments
    split       a plan on it -> what each department computes of its own rows, and products of those
    products    the same for least squares
    rows        the owner's rows, computed in its own database: identifiers, flags, whole numbers
    earlier     exact releases of joined tables, kept so that later ones are compared with them; seeds that have served
    door        the gate's part: whether an owner permits a join

Nothing here knows the protocol that computes on what departments prepare: that is `mpc.join`.
"""
