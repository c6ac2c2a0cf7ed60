"""From images of any sizes to the tiles that a density models."""
