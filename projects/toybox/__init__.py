"""The small networks that all systems share at toybox scale: an autoencoder, and encoders of images and captions."""
