"""Built-in adapters: raw records -> examples for data that needs no code of its own."""
