"""An oblivious join: statistics over rows matched on an identifier, without anyone learning which rows matched.

    normalise   one spelling of an identifier             question     what is asked, as a plan on shares
    tokens      identifiers under a PRF, rows added up    department   TableSide (A) and ProbeSide (B)
    table       blinded cuckoo tables and bins            coordinator  C: relays, gathers, computes, learns the sums

Follows Mohassel, Rindal, Rosulek, "Fast Database Joins and PSI for Secret Shared Data" (CCS 2020), made simpler
because A and B each know their own keys, with `mpc.engine` for what comes after the join. Further tables join
on the probe's identifiers, each under keys of its own with B; the first of them deals.

Threat model: semi-honest; any one of A, B, C may be curious and outsiders may listen; no two pool what they see
(A with C, or B with C, could try identifiers against the other's table). With several tables each pair of a
table and B shares keys that the other tables lack. Integrity: keys are authenticated, contents are not proven.

What C sees, and why it can be simulated from the padded sizes, the columns' number and the sums:

1. Hellos: fresh X25519 keys and padded sizes. Notes sealed to B: fixed length.
2. A's table: every word is blinded by its own word of an AES stream whose key, HKDF of A's and B's X25519
   secret, C lacks: uniform, whatever lies in the bins, full or empty.
3. B's bins. Before the permutation: an AES-based hash, under a key that C lacks, of tokens that are distinct
   (equal identifiers were added up; padding rows have fresh random tokens), so independent uniform triples,
   three segments of a third of the bins each; then a secret permutation of the bins. They would depend on A's
   rows only through this: the hash key was one under which A's table could be filled. A key fails with
   probability below 2^-40 (`mpc.cuckoo`), so conditioning on success moves any distribution by less than 2^-40.
   The simulator draws uniform triples and a random permutation.
4. Correlations and openings: uniform (`mpc.engine`).
5. B's share of the sums: the sums minus C's own share.

B sees hellos, each table's attempt number (0 but with probability 2^-40), uniform correlations and C's openings.
A table sees hellos alone.

What is padded, and why: rows of both sides, to multiples of 1/16 of the next power of two and at least 2048
(`table.padded`), counting nulls, repeats and rows that a filter left out, so that none of these show, and because below 2048 items
a cuckoo table fails too often for 3.; bins to the table for that many rows; the probe with random tokens that
match nothing; every bin to one width. A repeated identifier on the probe side would show C the same bins twice;
this is why rows are added up, or repeats refused.

Wrong with probability at most 2^-40: a row without a match agrees with a candidate's 64-bit comparison word
(3 * 2^22 comparisons at most).
"""

from mpc.join.coordinator import Coordinator
from mpc.join.department import Department, ProbeSide, TableSide
from mpc.join.normalise import NORMALISERS, Messages, normalise
from mpc.join.question import Column, Columns, Less, Question

__all__ = [
    "NORMALISERS",
    "Column",
    "Columns",
    "Coordinator",
    "Department",
    "Less",
    "Messages",
    "ProbeSide",
    "Question",
    "TableSide",
    "normalise",
]
