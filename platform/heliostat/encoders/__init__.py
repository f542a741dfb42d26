"""Built-in encoders. They enter by the door like anybody's."""
