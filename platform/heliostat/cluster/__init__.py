"""The way to a cluster: jobs sent and followed, what a run needs there, and what a machine lacks for it."""
