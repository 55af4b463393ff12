"""Secure aggregation: the coordinator learns the sum of the parties' vectors over Z_2^64 and nothing else;
parties may vanish.

Follows Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS 2017,
Figure 4, for departments rather than phones: a roster of long-lived identities, no trusted key server, one
set-up for a batch of requests.

    round 0  every party signs fresh public keys, one for each slot of the batch     Client.advertise
    round 1  Shamir shares of each slot's two secrets, sealed to each peer           Client.share
    round 2  bundles delivered                                                       Client.receive
    then, for each request, in a slot of its own:
    round 3  x + PRG(self seed) + sum of +-PRG(pairwise secret)                      Client.mask
    round 4  survivors sign whom they will unmask (active setting)                   Client.confirm
    round 5  one share a member: of the self seed, or of the mask key                Client.unmask

Protects each party's vector from the coordinator and from other parties, in the setting that the owner
demands; `LEAKAGE` says what is still learnt. Assumes: the roster's public keys were installed by owners,
fewer colluding parties than the setting allows, AES, X25519 and Ed25519. Does not protect: against poisoned
inputs; against a coordinator that stops or misreports the sum; what the sum itself tells (disclosure
control or noise is the caller's); against a machine that is taken over. The same parties' sums with and
without one party differ by its input: which survivors are acceptable is the caller's floor.

Neither side does input or output: methods take and return bytes, and a network only relays them.
"""

from mpc.secagg.aggregator import Aggregator
from mpc.secagg.client import Client
from mpc.secagg.parameters import LEAKAGE, Floors, Parameters, Setting, least_threshold

__all__ = ["LEAKAGE", "Aggregator", "Client", "Floors", "Parameters", "Setting", "least_threshold"]
