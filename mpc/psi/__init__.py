"""Private set intersection of two departments, without a helper.

    curve      points of X25519 that nobody holds a key of    kkrt          the batched oblivious PRF
    base_ot    oblivious transfers of seeds                   intersection  Sender and Receiver
    blake2s    the hash, on arrays                            cardinality   the size alone, with noise

Threat model: semi-honest, two parties, either may be curious. For use where policy lets the receiver learn which
of its identifiers the sender has; where nobody may, use `mpc.join`. A party that deviates, for instance by
putting in identifiers that it does not hold, is out of scope, and so is whoever alters messages on the way.
Sources: Kolesnikov, Kumaresan, Rosulek, Trieu (CCS 2016) for the PRF; Pinkas, Schneider, Zohner (USENIX
Security 2014, TOPS 2018) for three-way cuckoo hashing without a stash.

What the sender sees: base transfer keys' answer and T xor U xor C, uniform to whoever lacks one seed of each pair; the
receiver's padded size; the attempt number, 0 but with probability 2^-40 (`mpc.cuckoo`). What the receiver sees beyond
its result: the sender's padded size and three sorted sets, whose values for tokens that it does not hold are uniform.

Padded: both sizes to multiples of 1/16 of the next power of two and at least 2048; the receiver's empty bins carry
random points; the sender's sets are filled with random values. Nulls and repetitions do not show.

Wrong with probability below 2^-40: values of F have 96 bits and each of 2^22 rows is compared with 2^22; tokens have
128.
"""

from mpc.psi.intersection import Receiver, Sender

__all__ = ["Receiver", "Sender"]
