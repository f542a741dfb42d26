"""Built-in heads. They enter by the door like anybody's."""
