"""What must survive: processes killed at every boundary, stores that fail, clocks that move. `make chaos` runs all of it."""
