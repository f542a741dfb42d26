"""Baselines that come with the platform: what an expert would try first, set beside every score."""
