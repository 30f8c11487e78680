"""Pages for people, and what generates them."""
