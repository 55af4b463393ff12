"""One table whose columns live at several departments: what one owner does for it. `federated.joining` is what they do together.

declared   which tables an owner lets a table be joined with, and its view of a person who has several rows
wide       the joined table's schema, and whose each of its columns is
split      a plan on it -> what each department computes of its own rows, and products of those
rows       the owner's rows, computed in its own database: identifiers, flags, whole numbers
earlier    exact releases of joined tables, kept so that later ones are compared with them; seeds that have served
door       the gate's part: decide, charge, log
"""
