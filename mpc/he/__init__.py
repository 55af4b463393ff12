"""Homomorphic encryption: one party computes on numbers that only another can read.

    parameters   lattices by job, from the 128-bit table      models     linear, networks, trees, as values
    keys         secret, public, evaluation: distinct types   readers    ... from scikit-learn, XGBoost, torch
    envelope     what travels, checked before it is read      poly       functions as polynomials, with their error
    seal         SEAL's objects through TenSEAL               circuit    a model as additions and multiplications
    packing      several numbers a slot, exactly              plan       levels, scales and errors, before encrypting
    packed       PackedSum: encrypted vectors to add          columns    a table as ciphertexts, one a column
    aggregation  sums for joint training, one shared key      flooding   noise that hides how a result came about
    bounds       the noise of every CKKS operation            scoring    two departments, one score
    arithmetic   CKKS with known sizes and errors             files      a model as a file of plain values

BFV where numbers are added (exact), CKKS where they are multiplied (bounded error). Each module says whom it
protects from whom. In short: evaluators see ciphertexts only and follow the protocol; whoever holds a secret key
can read everything under it; results of CKKS go back to evaluators only through `flooding.publishable`.

Nothing is imported here, and TenSEAL only when the first key is made.
"""
