"""A department publishes a model, and others have their own rows scored by it; what its owner guards is the model.

    declared   what the owner declares in the catalogue: bounds of features, purposes, who, how many rows
    request    what is signed on the way: offers, requests, blocks, answers
    quota      the durable table of rows that were paid for, against models being worked out from their scores
    books      that table and the audit log, settled with each other
    door       the gate of a department's models: decide, log, charge, record

How a score is computed without showing the rows is no matter of this package: to it, offers, rows and scores are bytes with digests.
"""
