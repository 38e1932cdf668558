"""`fedmac sweep`: a scenario in every cell of a grid, under every seed."""
