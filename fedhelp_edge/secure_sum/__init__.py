"""Secure sums: the coordinator gets a round's sum of updates and no single one (docs/spec/secure-sum.md).

A site masks its update with a stream of random words. The coordinator gets the masked update; a second party, the
helper, gets the 32 bytes from which the stream follows. At the close of a round the helper tells the sum of the masks
of one set of sites. Neither learns a single update unless both act together. Needs no torch.
"""
