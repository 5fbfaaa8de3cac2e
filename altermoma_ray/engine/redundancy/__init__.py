"""The redundancy report: how much of a fusion model is there twice, where, and what pruning makes of it."""
