"""The step as compiled code for CPUs: kernels, their build, and what calls them."""
