"""`fedmac tune`: values of a scenario's keys, chosen on validation rows."""
