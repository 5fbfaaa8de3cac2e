"""The robustness report: what models lose when a sensor fails, in whole or in part."""
