"""What the data sets here have in common. Loads no torch."""

SPLITS = ("train", "val", "test")
NUM_VIEWS = 16  # around an object, in the toybox as in SyncDreamer's ring
