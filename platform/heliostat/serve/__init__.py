"""A predictor behind Ray Serve: one application a model, with its limits inside; and the HTTP client."""
