"""The ten methods, one folder each; none imports another."""
