"""Systems without a server: peers that step by themselves and send each other vectors."""
