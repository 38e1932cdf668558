"""The simulated clock: what computing and sending take on devices that are not there."""
