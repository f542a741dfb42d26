"""Clusters: what a run needs, how it gets there."""
