"""The page of a model: generated from the records its head declares, talking to a live deployment."""
