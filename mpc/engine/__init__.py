"""A two-server engine with a dealer: exact integer and Boolean arithmetic on shared arrays, batched by depth.

    correlations   what the dealer deals, mostly as seeds        operations   what a plan may contain
    protocols      products, comparison, truncation on shares    party        A, B and C: bytes in, bytes out
    plan           a computation as public data                  array        SecretArray and the Laboratory

Three roles: A deals correlated randomness and goes; B and C compute on shares; C learns the declared outputs,
B and A learn nothing. Semi-honest: each follows the protocol; any one may be curious; no two pool what they see.
A together with B or C reads everything, as does B with C. Integrity against a party that deviates is out of
scope. Sources: Beaver (CRYPTO 1991) for products from dealt triples; Riazi et al., "Chameleon" (ASIACCS 2018)
for the semi-honest third party that deals from seeds.

Why C's view can be simulated, and B's: before the outputs, a computing party receives only (1) correlations,
uniform words to itself, and (2) for every opened value, the other's share of v - m or v xor m with m a secret
of the dealer's that masks nothing else; given its own share of m, that share is uniform. A simulator draws
uniform words of the public lengths. C's last message from B is B's share of the outputs: the output minus C's
own share. A receives no message at all. The plan, hence sizes and depth, is public.
"""

from mpc.engine.array import Laboratory, SecretArray, concatenate
from mpc.engine.party import Computer, Dealer, Seeds, play
from mpc.engine.plan import Plan

__all__ = ["Computer", "Dealer", "Laboratory", "Plan", "SecretArray", "Seeds", "concatenate", "play"]
