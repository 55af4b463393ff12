"""Cryptography on numpy arrays: it knows nothing of data sets, policies or networks.

    prg         AES-256-CTR keystream as arrays                 shamir    t-of-n sharing of short secrets
    fixedpoint  exact sums and reals <-> words of Z_2^64        secagg    dropout-tolerant masked sums
    noise       discrete Gaussian, a million samples at once    he        sums and scores on ciphertexts
    bits, aes   packing, transposing; AES and CMAC on arrays    engine    two servers and a dealer compute on shares
    cuckoo      three-way tables, their failure bounded         join      statistics over rows matched obliviously
    errors      every way a protocol refuses                    psi       intersections of two departments

Nothing is imported here, so that `import mpc.secagg` costs only what it needs.
"""
