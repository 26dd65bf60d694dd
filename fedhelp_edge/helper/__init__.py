"""The helper: the second party of a secure sum. It sends the sum of the masks of one set of sites a round.

It is run by somebody who does not act together with the coordinator: a university, a ministry. It needs no torch.
"""
