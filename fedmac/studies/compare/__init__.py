"""`fedmac compare`: runs side by side at equal cost, with intervals, tests, and figures for a paper."""
