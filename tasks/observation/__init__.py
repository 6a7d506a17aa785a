"""Watch a model that somebody else trains and serves: read the log of its predictions instead of making them."""
