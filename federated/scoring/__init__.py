"""Scores of a model that another department publishes: `city.score(model="credit@bank", table=rows, purpose=…)`.

    models     the analyst asks which models there are; each department signs what it offers
    begin      a signed request with the analyst's public keys: the department's gate decides, logs, charges its quotas
    rows       for each block, one ciphertext a column; the department answers with one ciphertext an output
    end        the department logs the release and proves it; the coordinator issues the receipt

    messages   what crosses, beside the signed values of `sandbox.scoring.request`
    client     the owner of the rows, in the analyst's process
    relay      the coordinator's part: it checks who asks, passes on, and issues the receipt
    server     the owner of the model: `mpc.he.scoring` behind `sandbox.scoring.door`
    result     what the analyst gets

Who learns what: the analyst learns the scores, and of the model what its offer says (features, bounds, output scale); the
department learns who asked for how many scores, when and for what, and sees ciphertexts; the coordinator learns the same, and
sizes. All follow the protocol of `mpc.he.scoring`; a coordinator that does not can drop messages, and nothing more.
"""
