"""A federation of real devices: its keys and certificates, its server, its devices."""
