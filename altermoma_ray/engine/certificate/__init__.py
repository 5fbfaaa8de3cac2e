"""The certificate of a champion: its losses against the unpruned model, by scene and by object, with intervals."""
