"""From a trained model and a team of devices to a plan folder: what `fedmac repurpose` and `fedmac infer` do."""
