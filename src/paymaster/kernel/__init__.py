"""Pure values without I/O: everything else stands on them."""
