"""What is counted and watched over all processes, through Redis: traffic over time, load, drift. Integers;
readers divide."""
