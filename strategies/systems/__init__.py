"""Systems of a server and its workers: synchronous, asynchronous and what lies between, as Flower strategies."""
