"""Pictures -> pictures: what `segment` and `crop` share."""
