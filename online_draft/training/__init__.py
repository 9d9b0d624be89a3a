"""How drafters learn and are judged: features, losses, trainer, replayed acceptance. Torch only."""
