"""The files of a federation: what each party's directory holds, who made it, and how one more party joins."""
