"""The redundancy report: the doubled parts of a fusion model, their places, and their fate in pruning."""
