"""The flow: the density, its sampler and its latent space."""
