"""`fedmac report --serve`: runs, sweeps and comparisons below a folder, in a browser, as they go."""
