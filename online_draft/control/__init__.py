"""What decides: the control loop, a small torch-free actor."""
