"""Image files, and figures of images."""
