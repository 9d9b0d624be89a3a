"""How much to speculate: costs, gains, calibration, probes."""
