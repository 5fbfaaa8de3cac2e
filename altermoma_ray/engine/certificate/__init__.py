"""The certificate of a champion: what it does worse than the unpruned model, and by how much."""
